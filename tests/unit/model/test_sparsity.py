"""Distributions of activation sparsity keep their mean and show the features they are named for."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesim import laws
from sparsesim.errors import InputError
from sparsesim.families import members
from sparsesim.model import Setting, load_model
from sparsesim.model.sparsity import LayerSparsity, Sparsity
from sparsesim.model.sparsity.constant import Constant
from sparsesim.model.sparsity.correlated import Correlated
from sparsesim.model.sparsity.dead_neurons import DeadNeurons
from sparsesim.model.sparsity.empirical import Empirical
from sparsesim.model.sparsity.heavy_tailed import HeavyTailed
from sparsesim.model.sparsity.per_layer import PerLayer
from sparsesim.model.sparsity.position_decay import PositionDecay
from sparsesim.model.sparsity.projections import Projections
from sparsesim.model.sparsity.token_dependent import TokenDependent
from sparsesim.model.sparsity.twell import Twell
from sparsesim.work import Gemm, SparseFfn, ThresholdGemv

F, LAYERS = 5632, 28
MEAN = 29 / F
EXAMPLES: dict[str, Sparsity] = {
    "constant": Constant(density=MEAN),
    "per_layer": PerLayer(density=MEAN),
    "position_decay": PositionDecay.model_validate({"density": MEAN, "decay": "200 tok"}),
    "token_dependent": TokenDependent(density=MEAN),
    "heavy_tailed": HeavyTailed(density=MEAN),
    "correlated": Correlated(density=MEAN, correlation=0.8),
    "dead_neurons": DeadNeurons(density=MEAN, dead_share=0.5),
    "empirical": Empirical(densities=(MEAN / 2, MEAN * 3), shares=(0.8, 0.2)),
    "twell": Twell(point="1.5b"),
}


def densities(sparsity: Sparsity, layers: int = LAYERS) -> list[float]:
    found = [sparsity.layer(i, layers).density for i in range(layers)]
    return [density for density in found if density is not None]


def test_every_kind_is_tried_here() -> None:
    assert set(members(Sparsity)) == {*EXAMPLES, "projections"}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_mean_over_layers_is_the_density(kind: str) -> None:
    assert np.mean(densities(EXAMPLES[kind])) == pytest.approx(MEAN, rel=1e-6)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_members_read_back_what_they_write(kind: str) -> None:
    assert Sparsity.resolve(EXAMPLES[kind].with_kind("json")) == EXAMPLES[kind]


@given(density=st.floats(0.001, 0.9), peak=st.floats(0.05, 1.0), layers=st.integers(2, 80))
def test_hump_keeps_its_mean_and_stays_a_share(density: float, peak: float, layers: int) -> None:
    found = densities(PerLayer(density=density, peak=peak), layers)
    assert np.mean(found) == pytest.approx(density, rel=1e-6)
    assert max(found) <= 1.0


def test_hump_peaks_at_a_fifth_of_the_depth_after_two_quiet_layers() -> None:
    found = densities(PerLayer(density=0.01), 40)
    assert int(np.argmax(found)) in (7, 8)
    assert max(found[:2]) < np.mean(found[:16])


def test_activity_falls_along_the_sequence_and_averages_to_the_density() -> None:
    decay = PositionDecay.model_validate({"density": 0.02, "decay": "100 tok", "floor": 0.3, "sequence": "1000 tok"})
    along = [decay.at(p + 0.5) for p in range(1000)]
    assert all(a > b for a, b in pairwise(along))
    assert np.mean(along) == pytest.approx(0.02, rel=1e-4)
    assert along[-1] / along[0] == pytest.approx(0.3, rel=0.02)


def test_surprising_tokens_use_as_many_more_neurons_as_the_contrast_says() -> None:
    dependent = TokenDependent(density=0.01, contrast=6.0)
    assert dependent.at(1.0) / dependent.at(0.0) == pytest.approx(6.0)
    assert np.mean([dependent.at((i + 0.5) / 1000) for i in range(1000)]) == pytest.approx(0.01, rel=1e-5)
    logs = np.log([dependent.at((i + 0.5) / 1000) for i in range(1000)])
    assert dependent.layer(0, 1).row_sigma == pytest.approx(logs.std(), rel=1e-4)


def test_largest_token_of_a_heavy_tail_is_ten_times_the_mean() -> None:
    """The median of the maximum of n log-normal draws lies at the quantile 1/2^(1/n), near 1 - 1/n."""
    tailed = HeavyTailed(density=MEAN, largest=10.0, among=131_072)
    rng = np.random.default_rng(0)
    sigma = tailed.row_sigma
    largest = [np.exp(rng.normal(-(sigma**2) / 2, sigma, 131_072)).max() for _ in range(40)]
    assert np.median(largest) == pytest.approx(10.0, rel=0.15)


def test_correlated_tokens_share_rows_and_reuse_them() -> None:
    free, tied = Constant(density=MEAN), Correlated(density=MEAN, correlation=0.9)
    assert tied.union(F, 64) < 0.5 * free.union(F, 64)
    assert tied.reuse(F, 64) > 2 * free.reuse(F, 64)
    assert free.reuse(F, 1) == pytest.approx(1.0)


def test_dead_neurons_crowd_the_living() -> None:
    law = EXAMPLES["dead_neurons"].layer(0, LAYERS).law(F)
    assert np.count_nonzero(law.frequency == 0.0) == F // 2
    assert laws.expected_nnz(law) == pytest.approx(29.0)


def test_quantile_and_overflow_follow_the_law() -> None:
    """Uniform frequencies make nnz binomial: mean 29, variance 29 (1 - p)."""
    even = Constant(density=MEAN, pattern="independent")
    assert even.expected_nnz(F) == pytest.approx(29.0)
    spread = math.sqrt(29 * (1 - MEAN))
    assert even.quantile_nnz(0.975, F) == pytest.approx(29 + 1.96 * spread, abs=1.0)
    assert even.overflow(F, 256, 256) == 0.0
    assert even.overflow(F, 256, 0) == pytest.approx(1 - math.exp(F * math.log1p(-MEAN)), rel=1e-9)


def test_heavier_tails_overflow_more() -> None:
    assert HeavyTailed(density=MEAN).overflow(F, 256, 31) > 10 * Constant(density=MEAN).overflow(F, 256, 31)


def test_histogram_gives_mean_and_spread() -> None:
    spread = EXAMPLES["empirical"].layer(0, 1).row_sigma
    low, high = math.log(MEAN / 2), math.log(MEAN * 3)
    assert spread == pytest.approx(math.sqrt(0.8 * 0.2) * (high - low))


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"kind": "constant", "density": 1.2}, "less than or equal to 1"),
        ({"kind": "empirical", "densities": [0.1, 0.2], "shares": [0.5, 0.4]}, "shares sum to 0.9"),
        ({"kind": "empirical", "densities": [0.1, 0.2], "shares": [1.0]}, "2 densities with 1 shares"),
        ({"kind": "empirical", "by_layer": [0.1, 1.2]}, r"densities must lie in \[0, 1\]"),
        ({"kind": "dead_neurons", "density": 0.8, "dead_share": 0.5}, "more than the living share"),
        ({"kind": "projections"}, "give densities, or the name of a published set"),
        ({"kind": "projections", "densities": {"q": 0.5}}, "unknown projections q"),
        ({"kind": "projections", "densities": {"up": 1.5}}, "up: density 1.5"),
        ({"kind": "twell", "point": "3b"}, "0.5b"),
    ],
)
def test_what_is_no_distribution_is_refused(described: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sparsity.resolve(described)


def test_densities_for_another_number_of_layers_are_refused() -> None:
    with pytest.raises(InputError, match="3 densities for 4 layers"):
        Empirical(by_layer=(0.1, 0.2, 0.3)).layer(0, 4)
    with pytest.raises(InputError, match="2 formats for 4 layers"):
        Constant(density=0.1, formats=("twell", "dense")).layer(0, 4)


def test_ffn_becomes_one_sparse_kernel_a_layer() -> None:
    model = load_model("twell-1.5b")
    setting = Setting(sparsity=Sparsity.resolve({"kind": "per_layer", "density": MEAN, "format": "twell"}))
    ops = [t for t in model.token_tasks(4096.0, setting) if isinstance(t.op, SparseFfn)]
    assert sum(t.count for t in ops) == 28
    assert sum(t.count * float(t.op.nnz) for t in ops) / 28 == pytest.approx(29.0)
    assert {t.op.format for t in ops} == {"twell"}
    assert not [t for t in model.token_tasks(1.0, setting) if t.part == "ffn.gate_up"]


def test_every_neuron_active_asks_as_much_as_the_dense_ffn() -> None:
    model = load_model("twell-0.5b")
    sparse = model.token_tasks(64.0, Setting(sparsity=Constant(density=1.0, pattern="independent")))
    dense = model.token_tasks(64.0, Setting())
    asked = sum(t.count * t.op.flop() for t in sparse if isinstance(t.op, SparseFfn))
    products = sum(t.count * t.op.flop() for t in dense if t.part in ("ffn.gate_up", "ffn.down"))
    assert asked == pytest.approx(products)


def test_thresholds_reach_the_products_they_name() -> None:
    """MMFreeLM 370M at lambda 2 does 76.2 % fewer multiply-adds than dense, head included (arXiv 2608.30439)."""
    densities_of = {"i": 0.381, "f": 0.244, "g": 0.34, "o": 0.148, "up": 0.209, "down": 0.066, "head": 0.598}
    model = load_model("mmfreelm-370m")
    setting = Setting(sparsity=Projections(densities=densities_of))
    tasks = [*model.token_tasks(1.0, setting), *model.head_tasks(1.0, setting)]
    gemms = [t for t in tasks if isinstance(t.op, Gemm)]
    effective = sum(t.count * float(t.op.density) * t.op.flop() for t in gemms)
    assert 1 - effective / sum(t.count * t.op.flop() for t in gemms) == pytest.approx(0.762, abs=0.001)


def test_thresholds_may_skip_columns_instead() -> None:
    """Few tokens need few columns: bytes fall with density, where a dense kernel reads all weights."""
    model = load_model("mmfreelm-370m")
    sets = {"published": "mmfreelm-370m-lambda2"}

    def read(described: dict[str, Any]) -> tuple[float, set[str]]:
        setting = Setting(sparsity=Sparsity.resolve({"kind": "projections", **described}))
        tasks = [*model.token_tasks(1.0, setting), *model.head_tasks(1.0, setting)]
        products = [t for t in tasks if isinstance(t.op, Gemm | ThresholdGemv)]
        return sum(t.count * float(t.op.hbm_bytes()) for t in products), {t.op.op for t in products}

    skipped, multiplied = read({**sets, "format": "threshold"}), read({**sets, "format": "gemm"})
    assert (skipped[1], multiplied[1]) == ({"threshold_gemv"}, {"gemm"})
    assert skipped[0] / multiplied[0] == pytest.approx(1 - 0.762, abs=0.005)


def test_a_published_set_is_the_densities_it_holds() -> None:
    named = Sparsity.resolve({"kind": "projections", "published": "mmfreelm-370m-lambda2"})
    assert dict(named.layer(0, 24).projections)["o"] == pytest.approx(0.148)
    assert named.head_density() == pytest.approx(0.598)
    with pytest.raises(InputError, match="did you mean mmfreelm-370m-lambda2"):
        Sparsity.resolve({"kind": "projections", "published": "mmfreelm-370m-lambda3"}).layer(0, 24)


def test_sparse_experts_see_the_density_of_their_neurons() -> None:
    tasks = load_model("mixtral-8x7b").token_tasks(8.0, Setting(sparsity=Constant(density=0.1)))
    assert {t.op.density for t in tasks if t.part == "moe.experts"} == {0.1}


def test_a_layer_without_density_follows_no_law() -> None:
    with pytest.raises(InputError, match="without a density"):
        LayerSparsity().law(F)
