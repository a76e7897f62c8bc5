"""Mixture of experts: routing, permutation, grouped GEMM and the whole layer against plain PyTorch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from sparsesim.kernels.common import native  # noqa: E402
from sparsesim.kernels.common.checks import assert_close, poisoned  # noqa: E402
from sparsesim.kernels.common.requirements import KernelRequirementError  # noqa: E402
from sparsesim.kernels.moe import composed, config, grouped, layer, reference, route  # noqa: E402
from sparsesim.kernels.moe import hopper as moe_hopper  # noqa: E402

HALF = torch.float16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUTER_TILES = {
    "one tail block": config.RouterTile(16, 16, 32, 2, 64, 4, 2),
    "many tail blocks": config.RouterTile(16, 16, 32, 1, 16, 4, 2),
}
GROUPED_TILES = {
    "rows left": config.GroupedTile(16, 32, 32, 4, 2),
    "weights left": config.GroupedTile(16, 32, 32, 4, 2, swap=True),
    "persistent": config.GroupedTile(16, 32, 32, 4, 2, group_m=2, persistent=True, programs=3),
}


def make_weights(experts: int, d_model: int, d_expert: int, seed: int = 0) -> reference.MoEWeights:
    g = torch.Generator().manual_seed(seed)
    return reference.MoEWeights(
        router=torch.randn(experts, d_model, generator=g).to(HALF).to(DEVICE),
        gate_up=(torch.randn(experts, 2 * d_expert, d_model, generator=g) / d_model**0.5).to(HALF).to(DEVICE),
        down=(torch.randn(experts, d_model, d_expert, generator=g) / d_expert**0.5).to(HALF).to(DEVICE),
    )


def tokens_of(count: int, d_model: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, d_model, generator=torch.Generator().manual_seed(seed)).to(HALF).to(DEVICE)


def run_route(x: torch.Tensor, router: torch.Tensor, top_k: int, tile: config.RouterTile) -> route.Routing:
    tokens, experts = x.shape[0], router.shape[0]
    out = route.empty_routing(tokens, experts, top_k, x.device)
    for tensor in (out.slot_expert, out.slot_row, out.row_token, out.offsets):
        tensor.fill_(torch.iinfo(torch.int32).max)
    out.slot_weight.fill_(float("nan"))
    return route.route(x, router, top_k, tile, route.router_scratch(tokens, experts, tile, x.device), out)


@pytest.mark.parametrize("name", ROUTER_TILES)
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 5, 1), (37, 12, 3), (64, 8, 8)])
def test_routing_picks_what_softmax_and_topk_pick(name: str, tokens: int, experts: int, top_k: int) -> None:
    x, router = tokens_of(tokens, 40), make_weights(experts, 40, 8).router
    routing = run_route(x, router, top_k, ROUTER_TILES[name])
    expert, weight = reference.route_reference(x, router, top_k)
    assert torch.equal(routing.slot_expert.long(), expert)
    assert_close("router weights", routing.slot_weight, weight, torch.float32)


@pytest.mark.parametrize("name", ROUTER_TILES)
def test_rows_are_a_counting_sort_by_expert_then_token(name: str) -> None:
    x, router = tokens_of(37, 40), make_weights(12, 40, 8).router
    routing = run_route(x, router, 3, ROUTER_TILES[name])
    expert = routing.slot_expert.flatten().long()
    order = torch.sort(expert, stable=True).indices
    assert torch.equal(routing.row_token.long(), order // 3)
    assert torch.equal(routing.slot_row.flatten().long()[order], torch.arange(37 * 3, device=DEVICE))
    loads = torch.bincount(expert, minlength=12)
    assert torch.equal(
        routing.offsets.long(), torch.cat([torch.zeros(1, dtype=torch.int64, device=DEVICE), loads.cumsum(0)])
    )


def test_equal_logits_go_to_the_lower_experts_and_never_twice() -> None:
    routing = run_route(
        torch.zeros(3, 16, dtype=HALF, device=DEVICE),
        torch.zeros(9, 16, dtype=HALF, device=DEVICE),
        4,
        ROUTER_TILES["one tail block"],
    )
    assert routing.slot_expert.tolist() == [[0, 1, 2, 3]] * 3
    assert routing.slot_weight.flatten().tolist() == pytest.approx([0.25] * 12)


def test_the_arrival_counter_is_zero_again_so_a_graph_can_replay() -> None:
    tile, x, router = ROUTER_TILES["many tail blocks"], tokens_of(37, 40), make_weights(12, 40, 8).router
    scratch = route.router_scratch(37, 12, tile, x.device)
    first = route.route(x, router, 3, tile, scratch, route.empty_routing(37, 12, 3, x.device))
    assert int(scratch.counter.abs().sum()) == 0
    again = route.route(x, router, 3, tile, scratch, route.empty_routing(37, 12, 3, x.device))
    assert torch.equal(first.slot_row, again.slot_row)


@pytest.mark.parametrize("name", GROUPED_TILES)
@pytest.mark.parametrize("loads", [(0, 33, 1, 0, 16), (50, 0, 0, 0, 0), (0, 0, 0, 0, 1)])
def test_grouped_mm_multiplies_each_expert_with_its_own_rows(name: str, loads: tuple[int, ...]) -> None:
    rows = sum(loads)
    offsets = torch.tensor([0, *torch.tensor(loads).cumsum(0).tolist()], dtype=torch.int32, device=DEVICE)
    x, weight = tokens_of(rows, 40), make_weights(5, 40, 24).down.transpose(1, 2).contiguous()[:, :, :40]
    out = poisoned(rows, weight.shape[1], dtype=HALF, device=DEVICE)
    grouped.grouped_mm(x, weight.contiguous(), offsets, GROUPED_TILES[name], out=out)
    assert_close(name, out, reference.grouped_mm_reference(x.double(), weight, offsets), HALF)


@pytest.mark.parametrize("name", GROUPED_TILES)
def test_gated_gather_equals_gather_product_and_activation_apart(name: str) -> None:
    weights, x = make_weights(4, 40, 24), tokens_of(9, 40)
    offsets = torch.tensor([0, 7, 7, 24, 26], dtype=torch.int32, device=DEVICE)
    row_token = torch.randint(0, 9, (26,), generator=torch.Generator().manual_seed(3)).to(torch.int32).to(DEVICE)
    out = poisoned(26, 24, dtype=HALF, device=DEVICE)
    grouped.grouped_mm(x, weights.gate_up, offsets, GROUPED_TILES[name], gated=True, row_token=row_token, out=out)
    product = reference.grouped_mm_reference(x.double()[row_token.long()], weights.gate_up, offsets)
    assert_close(name, out, reference.gated_reference(product), HALF)


@pytest.mark.parametrize(("rows", "experts", "block_m"), [(1, 8, 16), (100, 8, 16), (64, 64, 16), (7, 1, 2)])
def test_the_tile_bound_is_reached_by_the_worst_loads_and_never_passed(rows: int, experts: int, block_m: int) -> None:
    bound = grouped.tile_bound(rows, experts, block_m)
    hit = min(rows, experts)
    worst = [1] * hit
    worst[0] += rows - hit
    assert sum(-(-load // block_m) for load in worst) == bound
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        loads = torch.bincount(torch.randint(0, experts, (rows,), generator=g), minlength=experts)
        assert int(((loads + block_m - 1) // block_m).sum()) <= bound


@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 8, 2), (5, 12, 3), (70, 6, 2)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_layer_equals_its_definition(tokens: int, experts: int, top_k: int, renormalise: bool) -> None:
    weights, x = make_weights(experts, 72, 40), tokens_of(tokens, 72)
    out = poisoned(tokens, 72, dtype=HALF, device=DEVICE)
    layer.moe_layer(x, weights, top_k, renormalise=renormalise, out=out)
    expected = reference.moe_reference(x.double(), weights, top_k, renormalise)
    assert_close("moe layer", out, expected, HALF)


def test_one_expert_is_a_dense_gated_ffn() -> None:
    weights, x = make_weights(1, 64, 32), tokens_of(6, 64)
    hidden = reference.gated_reference(x.double() @ weights.gate_up[0].double().T)
    assert_close("one expert", layer.moe_layer(x, weights, 1), hidden @ weights.down[0].double().T, HALF)


def test_no_tokens_give_no_rows() -> None:
    assert layer.moe_layer(tokens_of(0, 64), make_weights(4, 64, 32), 2).shape == (0, 64)


def test_capacity_padding_drops_only_what_exceeds_the_capacity() -> None:
    weights, x = make_weights(4, 64, 32), tokens_of(12, 64)
    exact = reference.moe_reference(x.double(), weights, 2)
    assert_close("ample capacity", composed.capacity_layer(x, weights, 2, 4.0), exact, HALF)
    expert, weight = reference.route_reference(x, weights.router, 2)
    capacity = 6  # ceil(1.0 * 12 tokens * 2 / 4 experts)
    place = torch.stack([(expert.flatten()[:i] == e).sum() for i, e in enumerate(expert.flatten())]).view(12, 2)
    kept = torch.zeros_like(exact)
    for t, s in torch.nonzero(place < capacity).tolist():
        e = int(expert[t, s])
        hidden = reference.gated_reference(x[t].double() @ weights.gate_up[e].double().T)
        kept[t] += float(weight[t, s]) * (hidden @ weights.down[e].double().T)
    assert int((place >= capacity).sum()) > 0
    assert_close("tight capacity", composed.capacity_layer(x, weights, 2, 1.0), kept, HALF)


def test_shapes_that_do_not_fit_are_named() -> None:
    weights = make_weights(4, 64, 32)
    with pytest.raises(ValueError, match=r"down has shape \(4, 64, 16\); expected \(4, 64, 32\)"):
        reference.MoEWeights(weights.router, weights.gate_up, weights.down[:, :, :16])
    with pytest.raises(KernelRequirementError, match=r"x has shape \[3, 32\], must be \[any, 64\]"):
        layer.moe_layer(tokens_of(3, 32), weights, 2)
    with pytest.raises(KernelRequirementError, match="top_k is 5"):
        layer.moe_layer(tokens_of(3, 64), weights, 5)
    with pytest.raises(ValueError, match=r"top_k is 9; the router has 4 experts"):
        reference.route_reference(tokens_of(3, 64), weights.router, 9)
    with pytest.raises(ValueError, match="tail_t is 24"):
        config.RouterTile(16, 16, 32, 1, 24, 4, 2)
    with pytest.raises(ValueError, match="do not fit weight"):
        grouped.grouped_mm(
            tokens_of(3, 32),
            weights.gate_up,
            torch.zeros(5, dtype=torch.int32, device=DEVICE),
            GROUPED_TILES["rows left"],
        )


HOPPER_SHARED_MEMORY_BYTES = 227 * 1024  # what one program may have on compute capability 9.0 (CUDA C++ guide)


@pytest.mark.parametrize("tokens", [1, 16, 64, 256, 512, 1024, 8192])
@pytest.mark.parametrize(("experts", "top_k", "d_model", "d_expert"), [(128, 8, 2048, 768), (8, 2, 4096, 14336)])
def test_every_chosen_tile_fits_in_shared_memory(
    tokens: int, experts: int, top_k: int, d_model: int, d_expert: int
) -> None:
    tiles = config.layer_tiles(tokens, top_k, experts, d_expert)
    plain = [config.grouped_tile(tokens * top_k, experts, k) for k in (d_model, d_expert)]
    for tile, columns in ((tiles.gate_up, 2), (tiles.down, 1), (plain[0], 1), (plain[1], 1)):
        stage_bytes = 2 * tile.block_k * (tile.block_m + columns * tile.block_n)
        assert tile.num_stages * stage_bytes <= HOPPER_SHARED_MEMORY_BYTES


def test_without_a_gpu_the_layer_says_what_is_missing_and_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    weights, x = make_weights(4, 64, 32), tokens_of(3, 64)
    with pytest.raises(KernelRequirementError, match=r"moe: no CUDA device.*call the PyTorch reference"):
        layer.moe_layer(x, weights, 2)
    assert bool(torch.isfinite(reference.moe_reference(x, weights, 2)).all())


@pytest.mark.gpu
@pytest.mark.skipif(native.hopper_missing() is not None, reason=str(native.hopper_missing()))
@pytest.mark.parametrize(("n", "k"), [(24, 40), (256, 64), (520, 1000), (768, 4096), (2048, 14336)])
@pytest.mark.parametrize(
    "loads", [(0, 33, 1, 0, 16), (50, 0, 0, 0, 0), (129, 128, 127, 300, 2500), (64, 65, 192, 193, 640)]
)
def test_the_cluster_kernel_multiplies_each_expert_with_its_own_rows(n: int, k: int, loads: tuple[int, ...]) -> None:
    """Odd and even numbers of row and column tiles, experts of no rows, split depths: twice the same bits."""
    g, rows = torch.Generator().manual_seed(1), sum(loads)
    offsets = torch.tensor([0, *torch.tensor(loads).cumsum(0).tolist()], dtype=torch.int32, device="cuda")
    x = torch.randn(rows, k, generator=g).to(torch.bfloat16).cuda()
    weight = (torch.randn(len(loads), n, k, generator=g) / k**0.5).to(torch.bfloat16).cuda()
    out, again = (poisoned(rows, n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    moe_hopper.grouped_mm(x, weight, offsets, out)
    moe_hopper.grouped_mm(x, weight, offsets, again)
    assert torch.equal(out, again)
    expected = reference.grouped_mm_reference(x.float(), weight.float(), offsets)
    assert_close("cluster", out, expected, torch.bfloat16)


@pytest.mark.skipif(native.hopper_missing() is None, reason="a Hopper GPU is here")
def test_without_a_hopper_gpu_triton_takes_the_cluster_kernels_products() -> None:
    tile = config.GroupedTile(16, 16, 32, 4, 2, cluster=True)
    x, weight = tokens_of(5, 40), make_weights(2, 40, 24).gate_up
    offsets = torch.tensor([0, 3, 5], dtype=torch.int32, device=DEVICE)
    assert not moe_hopper.takes(x.to(torch.bfloat16), weight)
    out = grouped.grouped_mm(x, weight, offsets, tile)
    assert_close("fall-back", out, reference.grouped_mm_reference(x.double(), weight, offsets), HALF)
    with pytest.raises(KernelRequirementError, match=r"grouped: .*; use the Triton path instead"):
        moe_hopper.grouped_mm(x.to(torch.bfloat16), weight.to(torch.bfloat16), offsets, out.to(torch.bfloat16))
