"""Tables of ops: same rows, same order, and what is not covered says why."""

from pathlib import Path

import numpy as np
import pytest

from sparsesim.cost.kernel import CostModel
from sparsesim.cost.predict import predict
from sparsesim.cost.table import read_table
from sparsesim.errors import InputError
from sparsesim.work import AttentionDecode, Gemm

TABLE = """# a comment above the header
op,m,n,k,dtype,batch,kv_tok,heads,kv_heads,head_dim,tokens,d_model,d_ff,experts,top_k,note
gemm,16,4096,4096,bf16,,,,,,,,,,,first
attention_decode,,,,bf16,16,4096,32,8,128,,,,,,second
gemm,64,4096,4096,bf16,,,,,,,,,,,third
moe_ffn,,,,bf16,,,,,,64,2048,768,8,128,top_k above experts
gemm,16,-1,4096,bf16,,,,,,,,,,,negative
gemm,16,many,4096,bf16,,,,,,,,,,,no number
gem,16,64,4096,bf16,,,,,,,,,,,unknown op
gemm,16,,4096,bf16,,,,,,,,,,,n missing
attention_decode,,,,bf16,16,4096,8,8,128,,,,,,other kernel of the same op
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "ops.csv"
    path.write_text(TABLE)
    return path


def test_rows_keep_their_order_and_columns(table: Path, costs: CostModel) -> None:
    answered = predict(read_table(table), costs)
    assert list(answered["note"])[:3] == ["first", "second", "third"]
    alone = [
        costs.cost(Gemm(m=16.0, n=4096.0, k=4096.0)),
        costs.cost(AttentionDecode(batch=16.0, kv_tok=4096.0, heads=32.0, kv_heads=8.0, head_dim=128.0)),
        costs.cost(Gemm(m=64.0, n=4096.0, k=4096.0)),
    ]
    np.testing.assert_allclose(answered["time_s"][:3], [float(c.time_s) for c in alone], rtol=1e-12)
    np.testing.assert_allclose(answered["energy_j"][:3], [float(c.energy_j) for c in alone], rtol=1e-12)
    assert np.isfinite(answered["time_s"].iloc[-1])


def test_rows_that_are_not_covered_stay_and_say_why(table: Path, costs: CostModel) -> None:
    answered = predict(read_table(table), costs)
    reasons = answered["provenance"].to_list()
    for row, word in ((3, "top_k"), (4, "above zero"), (5, "above zero"), (6, "gemm"), (7, "n")):
        assert reasons[row].startswith("uncovered: ")
        assert word in reasons[row]
        assert np.isnan(answered["time_s"].iloc[row])


def test_the_interval_holds_the_prediction(table: Path, costs: CostModel) -> None:
    answered = predict(read_table(table), costs).dropna(subset=["time_s"])
    assert (answered["time_low_s"] < answered["time_s"]).all()
    assert (answered["time_s"] < answered["time_high_s"]).all()


def test_another_chips_rows_are_refused(table: Path, costs: CostModel) -> None:
    frame = read_table(table).assign(hardware="a100-sxm")
    with pytest.raises(InputError, match="a100-sxm"):
        predict(frame, costs)


def test_a_file_without_ops_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column 'op'"):
        read_table(path)
