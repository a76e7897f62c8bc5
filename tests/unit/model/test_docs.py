"""The page on models names every kind, and its example is a model."""

import re
from pathlib import Path

import pytest

from sparsesim.families import Member, members
from sparsesim.model import Block, load_model
from sparsesim.model.load import ExpertLoad
from sparsesim.model.sparsity import Sparsity

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


@pytest.mark.parametrize("family", [Block, ExpertLoad, Sparsity])
def test_every_kind_stands_on_the_page(family: type[Member]) -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(members(family)) <= named


def test_the_example_is_a_model(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "my-hybrid.yaml"
    path.write_text(example)
    model = load_model(path)
    assert model.layer_count == 24
    assert model.contexts() == (4096.0,)
    assert model.precision.state == "fp32"
