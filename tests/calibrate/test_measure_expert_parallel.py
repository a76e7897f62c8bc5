"""An expert-parallel layer: who sends what to whom, the right result over real processes, and wrong ones seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sparsesim.calibrate.measure.__main__ import main  # noqa: E402
from sparsesim.calibrate.measure.expert_parallel.buffers import rank_weights, slot_weights  # noqa: E402
from sparsesim.calibrate.measure.expert_parallel.exchange import draw  # noqa: E402
from sparsesim.calibrate.measure.expert_parallel.layer import ExpertLayer  # noqa: E402
from sparsesim.calibrate.measure.expert_parallel.run import RankLayer  # noqa: E402
from sparsesim.calibrate.measure.suite import load, parse  # noqa: E402
from sparsesim.calibrate.measure.table import read  # noqa: E402
from sparsesim.errors import InputError  # noqa: E402
from sparsesim.kernels.common.checks import relative_error  # noqa: E402
from sparsesim.loading import data_root  # noqa: E402
from sparsesim.work import MoeCombine, MoeDispatch, MoeFfn  # noqa: E402

SMALL = ExpertLayer(ranks=4, tokens=30, d_model=16, d_ff=8, experts=16, top_k=3, load="zipf")


def test_every_choice_is_sent_once_and_arrives_in_the_senders_order() -> None:
    exchange = draw(SMALL, 1)
    assert exchange.counts.sum(axis=1).tolist() == [30 * 3] * 4
    for rank in range(4):
        sent = [np.sort(own.ravel()) for own in exchange.slots]
        expected = np.concatenate([own[own // 4 == rank] for own in sent]) - 4 * rank
        assert exchange.received(rank).tolist() == expected.tolist()
        assert len(expected) == exchange.counts[:, rank].sum()


def test_a_token_goes_to_distinct_experts_and_the_busiest_rank_is_called_0() -> None:
    for seed in range(6):
        exchange = draw(SMALL, seed)
        assert all(len(set(token)) == 3 for own in exchange.slots.tolist() for token in own)
        received = exchange.counts.sum(axis=0)
        assert received.argmax() == 0
        assert received[0] > 30 * 3  # zipf over 16 experts is never even


def test_a_layer_is_three_ops_with_the_tokens_of_a_rank_and_of_the_group() -> None:
    dispatch, ffn, combine = SMALL.ops()
    assert isinstance(dispatch, MoeDispatch)
    assert isinstance(combine, MoeCombine)
    assert isinstance(ffn, MoeFfn)
    assert dispatch.tokens == combine.tokens == 30
    assert (ffn.tokens, ffn.ep) == (120, 4)
    assert dispatch.token_bytes() == 32  # bf16, no routing: sizes are known before


def test_a_rank_holds_the_weights_that_others_make_for_its_slots() -> None:
    held, made = rank_weights(SMALL, 2, "cpu"), slot_weights(SMALL, 9, "cpu")
    assert torch.equal(held.gate_up[1], made.gate_up)
    assert torch.equal(held.down[1], made.down)
    assert not torch.equal(held.down[0], made.down)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_agree_with_a_single_process_and_record_no_times_of_a_host(ranks: int, tmp_path: Path) -> None:
    path = tmp_path / "layers.toml"
    path.write_text(
        "gpus = 2\n[[layer]]\nfixed = { d_model = 32, d_ff = 16, experts = 8, top_k = 2 }\n"
        'grid = { tokens = [1, 9], load = ["uniform", "hot:8"] }\n'
    )
    arguments = ["--suite", str(path), "--out", str(tmp_path), "--device", "cpu", "--gpus", str(ranks)]
    assert main(arguments) == 0
    _, rows = read(tmp_path / ("layers.csv" if ranks == 2 else "layers-4-gpus.csv"))
    assert len(rows) == 3 * 4
    assert {row["op"] for row in rows} == {"moe_dispatch", "moe_ffn", "moe_combine"}
    assert {row["ranks"] or row["ep"] for row in rows} == {str(ranks)}
    assert all(0 < float(row["relative_error"]) < 1e-2 for row in rows)
    assert all(row["measured_time_s"] == "" and row["nccl_nvls_enable"] == "0" for row in rows)


def test_a_switched_on_multicast_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "1")
    assert main(["--suite", "moe_expert_parallel", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "set it to 0" in capsys.readouterr().err


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[RankLayer]:
    """A layer on the only rank of a group: everything is sent, to itself."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    layer = ExpertLayer(ranks=1, tokens=20, d_model=32, d_ff=16, experts=8, top_k=2)
    yield RankLayer(layer, 0, rank_weights(layer, 0, torch.device("cpu")))
    torch.distributed.destroy_process_group()


def error(run: RankLayer) -> float:
    return relative_error(*run.check())


def test_the_check_sees_what_is_not_sent_and_what_is_sent_wrong(
    alone: RankLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert error(alone) < 1e-2
    whole = torch.distributed.all_to_all_single

    def shifted(out: Any, given: Any, *splits: Any) -> None:
        whole(out, given.roll(1, 0), *splits)

    monkeypatch.setattr(torch.distributed, "all_to_all_single", shifted)
    assert error(alone) > 0.1
    monkeypatch.setattr(torch.distributed, "all_to_all_single", lambda *_: None)
    assert error(alone) == float("inf")  # poison


def test_the_suite_of_collectives_follows_the_number_of_gpus() -> None:
    pair, eight = load("collectives"), load("collectives", 8)
    assert (pair.name, eight.name) == ("collectives", "collectives-8-gpus")
    assert {row.op.gpus for row in eight.rows} == {8.0}  # type: ignore[attr-defined]
    assert not [row for row in eight.rows if row.op.op == "send"]
    sizes = {row.op.bytes for row in eight.rows if row.op.op == "all_to_all"}  # type: ignore[attr-defined]
    assert {1024.0, 2.0**30} <= sizes
    assert max(getattr(row.op, "skew", 1.0) for row in eight.rows) == 8.0
    assert any(row.energy for row in eight.rows)


def test_the_two_gpu_rows_in_the_tree_are_those_of_the_suite() -> None:
    rows = read(data_root() / "calibration/data/h100-sxm/collectives.csv")[1]
    for row in load("collectives").rows:
        own = row.cells()
        assert any(all(cells[name] == value for name, value in own.items()) for cells in rows)


def test_the_layers_of_the_suite_keep_their_rows_together() -> None:
    suite = load("moe_expert_parallel", 8)
    layers = [row.layer for row in suite.rows]
    assert all(len(set(layers[i : i + 3])) == 1 for i in range(0, len(layers), 3))
    assert {layer.local for layer in layers if layer} == {16, 32}  # 128 and 256 experts over 8 ranks


def test_a_layer_that_the_ranks_do_not_divide_is_named() -> None:
    block = {"fixed": {"tokens": 1, "d_model": 8, "d_ff": 8, "experts": 10, "top_k": 2}}
    with pytest.raises(InputError, match="10 experts cannot be dealt evenly to 4"):
        parse("t", {"gpus": 4, "layer": [block]})
    with pytest.raises(InputError, match="columns: ranks, tokens"):
        parse("t", {"gpus": 2, "layer": [{"fixed": {"width": 1}}]})


def test_a_suite_of_one_gpu_takes_no_other_number() -> None:
    with pytest.raises(InputError, match="gemm runs on one GPU; --gpus 4"):
        load("gemm", 4)
