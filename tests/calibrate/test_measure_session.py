"""A session records what is right, refuses what is wrong, keeps to its budget and resumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from sparsesim.calibrate.measure import session  # noqa: E402
from sparsesim.calibrate.measure.__main__ import main  # noqa: E402
from sparsesim.calibrate.measure.bench import Bench, CpuBench, TimingPlan  # noqa: E402
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError, spread_indices  # noqa: E402
from sparsesim.calibrate.measure.suite import Row, Suite  # noqa: E402
from sparsesim.calibrate.measure.table import Table, column_names, read  # noqa: E402
from sparsesim.work import Copy  # noqa: E402

ROWS = tuple(Row(Copy(bytes=float(1 << i)), "t") for i in range(8, 12))
SUITE = Suite("t", 0, ROWS)


@pytest.fixture
def bench() -> Bench:
    return CpuBench(TimingPlan(samples=2), input_gb=1e-3, output_gb=1e-3, seed=0)


def table(folder: Path) -> Table:
    return Table(folder / "t.csv", column_names([Copy]), {"device": "cpu", "date": "d"})


def honest(row: Row, bench: Bench) -> Sequence[Candidate]:
    """Two backends, the second one ten times the work."""
    x = bench.inputs.take(256)

    def call(times: int) -> Callable[[], Any]:
        return lambda: [x.clone() for _ in range(times)].pop()

    return [Candidate(name, [call(times)], lambda out: (out, x)) for name, times in (("slow", 200), ("fast", 1))]


def wrong(row: Row, bench: Bench) -> Sequence[Candidate]:
    x = bench.inputs.take(256)
    return [Candidate("off", [lambda: x * 1.1], lambda out: (out, x))]


def test_the_fastest_backend_is_recorded_with_the_times_of_all(bench: Bench) -> None:
    cells = session.measure(ROWS[0], bench, honest)
    assert cells["backend"] == "fast"
    assert cells["alternatives"].startswith("slow=")
    assert float(cells["alternatives"].split("=")[2]) == float(cells["measured_time_s"])
    assert float(cells["relative_error"]) == 0.0


def test_a_wrong_result_is_refused_and_not_recorded(tmp_path: Path, bench: Bench) -> None:
    outcome = session.run(SUITE, table(tmp_path), bench, wrong, 60.0, set())
    assert outcome.measured == 0
    assert [row for row, _ in outcome.refused] == list(ROWS)
    assert "off: wrong (relative error 0.1" in outcome.refused[0][1]
    assert read(tmp_path / "t.csv")[1] == []


def test_an_unwritten_output_is_wrong(bench: Bench) -> None:
    def unwritten(row: Row, bench: Bench) -> Sequence[Candidate]:
        x = bench.inputs.take(8)
        return [Candidate("none", [lambda: torch.full_like(x, float("nan"))], lambda out: (out, x))]

    with pytest.raises(session.WrongResultError, match="relative error inf"):
        session.measure(ROWS[0], bench, unwritten)


def test_one_wrong_backend_beside_a_right_one_is_named(bench: Bench) -> None:
    cells = session.measure(ROWS[0], bench, lambda row, b: [*honest(row, b), *wrong(row, b)])
    assert cells["backend"] == "fast"
    assert "off=wrong (relative error 0.1" in cells["alternatives"]


def test_a_budget_of_nothing_leaves_everything_for_the_next_run(tmp_path: Path, bench: Bench) -> None:
    outcome = session.run(SUITE, table(tmp_path), bench, honest, 0.0, set())
    assert (outcome.measured, outcome.left) == (0, len(ROWS))
    outcome = session.run(SUITE, table(tmp_path), bench, honest, 60.0, set())
    assert (outcome.measured, outcome.already, outcome.left) == (len(ROWS), 0, 0)
    outcome = session.run(SUITE, table(tmp_path), bench, honest, 60.0, set())
    assert (outcome.measured, outcome.already) == (0, len(ROWS))


def test_a_lost_device_ends_the_session_and_names_the_row(tmp_path: Path, bench: Bench) -> None:
    def fatal(row: Row, bench: Bench) -> Sequence[Candidate]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(session.DeviceLostError, match="op=copy bytes=256"):
        session.run(SUITE, table(tmp_path), bench, fatal, 60.0, set())


def test_what_broke_the_device_is_skipped_the_next_time(tmp_path: Path, bench: Bench) -> None:
    outcome = session.run(SUITE, table(tmp_path), bench, honest, 60.0, {session.describe(ROWS[1])})
    assert outcome.measured == len(ROWS) - 1
    assert outcome.refused[0][0] == ROWS[1]


def test_check_names_rows_that_no_backend_can_run(bench: Bench) -> None:
    def unsupported(row: Row, bench: Bench) -> Sequence[Candidate]:
        raise UnsupportedError("only on Tuesdays")

    assert session.check(ROWS[:1], bench, unsupported) == [(ROWS[0], "only on Tuesdays")]
    assert session.check(ROWS, bench, honest) == []


def test_time_left_counts_energy_rows_apart() -> None:
    rows = [Row(Copy(bytes=8.0), "t", energy=energy) for energy in (False, False, True, True)]
    progress = session.Progress("t", rows, period_s=1e9)
    progress.step(0, 0.1)
    assert progress.left_s(1) == pytest.approx(0.3)  # nothing known of energy rows yet
    progress.step(2, 3.0)
    assert progress.left_s(3) == pytest.approx(3.0)


def test_spread_indices_keep_both_ends() -> None:
    assert spread_indices(5, 12) == [0, 1, 2, 3, 4]
    some = spread_indices(1001, 11)
    assert some == list(range(0, 1001, 100))


def test_the_command_exits_with_1_where_rows_were_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[[block]]\nop = "gemm"\ngrid = { m = [1, 33], n = [64], k = [96], dtype = ["bf16", "fp64"] }\n')
    arguments = ["--suite", str(path), "--out", str(tmp_path), "--device", "cpu", "--samples", "2"]
    assert main([*arguments, "--input-gb", "0.001", "--output-gb", "0.001"]) == 1
    header, rows = read(tmp_path / "s.csv")
    assert header["torch"] == torch.__version__
    assert {(row["m"], row["dtype"], row["backend"]) for row in rows} == {
        ("1", "bf16", "cublas"),
        ("33", "bf16", "cublas"),
    }
    assert len((tmp_path / "s.refused.txt").read_text().splitlines()) == 2


def test_the_command_names_a_missing_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--suite", "nope", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "no suite 'nope'" in capsys.readouterr().err


def test_an_error_of_no_known_kind_leaves_the_other_backends(bench: Bench) -> None:
    def mixed(row: Row, bench: Bench) -> Sequence[Candidate]:
        def broken() -> Any:
            raise KeyError("out of resource: shared memory")

        return [Candidate("broken", [broken], lambda out: (out, out)), *honest(row, bench)]

    cells = session.measure(ROWS[0], bench, mixed)
    assert cells["backend"] == "fast"
    assert "broken=unsupported ('out of resource" in cells["alternatives"]
