import pytest

from sparsesim.cost.kernel import CostModel, cost_model
from sparsesim.hardware.device.gpu import Chip, Gpu
from sparsesim.hardware.profile import load_device


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    device = load_device("h100-sxm")
    assert isinstance(device, Gpu)
    return device


@pytest.fixture(scope="session")
def chip(gpu: Gpu) -> Chip:
    return gpu.chip()


@pytest.fixture(scope="session")
def costs(gpu: Gpu) -> CostModel:
    return cost_model(gpu)
