"""Traces that ship, and what is said about malformed ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sparsesim.errors import InputError
from sparsesim.workload import PrefixBlocks, RequestTable, Workload, generate
from sparsesim.workload.requests import merged
from sparsesim.workload.traces import read_trace

AZURE, MOONCAKE = "azure2023_conv.csv", "mooncake_fast25_synthetic.jsonl"


def replay(file: str, **more: object) -> RequestTable:
    limits = {key: more.pop(key) for key in ("requests", "duration") if key in more}
    return generate(Workload.resolve({"arrivals": {"kind": "trace", "file": file, **more}, **limits}), seed=0)


def faults(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_trace(str(path))
    return [str(problem) for problem in caught.value.problems]


def test_azure_has_its_published_statistics() -> None:
    table = replay(AZURE)
    assert len(table) == 19_366
    assert table.arrival_s[-1] == pytest.approx(3502, abs=1)
    assert (table.prompt_tok.mean(), table.output_tok.mean()) == pytest.approx((1155, 211), abs=0.6)
    assert (np.median(table.prompt_tok), table.prompt_tok.max(), table.output_tok.max()) == (1020, 14050, 1000)
    gaps = np.diff(table.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, abs=0.005)


def test_azure_timestamps_keep_all_their_digits() -> None:
    assert replay(AZURE).arrival_s[1] == pytest.approx(50.9951690 - 46.6805900, abs=1e-9)


def leading_hits(blocks: PrefixBlocks) -> float:
    """Share of blocks found in an unbounded cache, counted from the front of each prompt until the first miss."""
    seen: set[int] = set()
    hits = 0
    for request in range(len(blocks.offsets) - 1):
        own = blocks.of(request).tolist()
        hits += next((i for i, block in enumerate(own) if block not in seen), len(own))
        seen.update(own)
    return hits / len(blocks.ids)


def test_mooncake_has_its_published_statistics_and_hit_ratio() -> None:
    table = replay(MOONCAKE)
    assert len(table) == 3993
    assert (table.prompt_tok.mean(), table.output_tok.mean()) == pytest.approx((15326, 149), abs=0.6)
    assert table.prefix_blocks is not None
    assert table.prefix_blocks.block_tok == 512
    assert leading_hits(table.prefix_blocks) == pytest.approx(0.640, abs=0.0005)


def test_speed_start_and_duration_cut_the_recording() -> None:
    whole, fast = replay(AZURE), replay(AZURE, speed=2)
    assert fast.arrival_s == pytest.approx(whole.arrival_s / 2)
    later = replay(AZURE, start="600 s", duration="60 s")
    inside = (whole.arrival_s >= 600) & (whole.arrival_s < 660)
    assert later.arrival_s == pytest.approx(whole.arrival_s[inside] - 600)
    assert np.array_equal(later.prompt_tok, whole.prompt_tok[inside])
    assert len(replay(AZURE, requests=100)) == 100


def test_a_trace_shorter_than_asked_for_says_so() -> None:
    with pytest.raises(InputError, match="holds 300 requests there, fewer than the 301"):
        replay("sharegpt300_llama31_lengths.csv", requests=301)


def test_an_unknown_file_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean azure2023_conv\.csv"):
        replay("azure2023_con.csv")


def test_a_file_beside_the_scenario_comes_first(tmp_path: Path) -> None:
    (tmp_path / AZURE).write_text("arrival_s,input_tokens,output_tokens\n1,2,3\n")
    workload = Workload.resolve({"arrivals": {"kind": "trace", "file": AZURE}})
    assert len(generate(workload, 0, folder=tmp_path)) == 1


def test_every_malformed_azure_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    good = "2023-11-16 18:15:46.6805900,374,44\n"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + good
        + "yesterday,374,44\n"
        + "2023-11-16 18:15:47,-5,44\n"
        + "1,2\n"
        + good
    )
    found = faults(path)
    assert [text.split(":")[1] for text in sorted(found)] == ["3", "4", "5"]
    assert any("'yesterday'" in text for text in found)
    assert any("'-5'" in text for text in found)


def test_every_malformed_mooncake_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    good = {"timestamp": 5, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}
    rows = [
        good,
        {**good, "hash_ids": [1, 2, 3]},
        {**good, "timestamp": -1},
        {"timestamp": 1},
        {**good, "output_length": 0},
    ]
    path.write_text("\n".join([*(json.dumps({"input_length": 1, **row}) for row in rows), "{nonsense"]))
    found = faults(path)
    assert [text.split(":")[1] for text in found] == ["2", "3", "4", "5", "6"]


def test_every_malformed_csv_line_is_named_and_many_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "nan,1,1\n" * 30)
    found = faults(path)
    assert len(found) == 21
    assert "10 more lines" in found[-1]
    path.write_text("arrival_s,input_tokens,output_tokens,client,priority\n2,10,5,1,0\n1,20,6,0,3\n")
    table = read_trace(str(path))
    assert list(table.arrival_s) == [1.0, 2.0]
    assert (list(table.client), list(table.priority)) == ([0, 1], [3, 0])


@pytest.mark.parametrize("text", ["", "what,is,this\n1,2,3\n", "arrival_s,input_tokens,output_tokens\n"])
def test_a_file_of_no_known_format_or_without_requests_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    assert "format" in faults(path)[0] or "holds no request" in faults(path)[0]


def test_vllm_results_replay(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    result = {"start_times": [105.5, 101.0, 103.0], "input_lens": [10, 20, 30], "output_lens": [3, 5, 0]}
    path.write_text(json.dumps(result))
    table = read_trace(str(path))
    assert list(table.arrival_s) == [0.0, 4.5]
    assert list(table.prompt_tok) == [20, 10]
    path.write_text(json.dumps({**result, "input_lens": [10]}))
    assert "differ in length" in faults(path)[0]
    path.write_text('{"duration": 3}')
    assert "save-detailed" in faults(path)[0]


SERVEGEN = [
    {
        "trace": f"servegen_language_m-small_chunk-{n}-trace.csv",
        "dataset": f"servegen_language_m-small_chunk-{n}-dataset.json",
    }
    for n in (2, 39)
]


def test_servegen_clients_send_at_the_rates_of_their_windows() -> None:
    table = generate(Workload.resolve({"arrivals": {"kind": "servegen", "clients": SERVEGEN}, "duration": "1 h"}), 0)
    rows = [line.split(",") for line in Path(f"scenarios/traces/{SERVEGEN[1]['trace']}").read_text().splitlines()[:6]]
    asked = [600 * float(row[1]) for row in rows]
    sent = np.histogram(table.arrival_s[table.client == 1], bins=np.arange(0, 3601, 600))[0]
    assert sent == pytest.approx(asked, rel=0.1)
    assert np.sum(table.client == 1) == pytest.approx(sum(asked), rel=0.03)
    assert np.all(np.diff(table.arrival_s) >= 0)


def test_servegen_lengths_follow_the_window_of_the_day() -> None:
    file = Path("scenarios/traces") / SERVEGEN[1]["dataset"]
    windows = json.loads(file.read_text())
    start = sorted((float(key) for key in windows), key=float)[1]
    import ast

    table = ast.literal_eval(windows[str(int(start))]["input_tokens"])
    mean = sum(length * share for length, share in table.items()) / sum(table.values())
    arrivals = {"kind": "servegen", "clients": SERVEGEN[1:], "start": f"{start} s"}
    drawn = generate(Workload.resolve({"arrivals": arrivals, "requests": 20_000}), 0).prompt_tok
    assert drawn.mean() == pytest.approx(mean, rel=0.05)


def test_scaled_servegen_sends_more() -> None:
    one, three = (
        len(
            generate(
                Workload.resolve(
                    {"arrivals": {"kind": "servegen", "clients": SERVEGEN, "scale": s}, "duration": "30 min"}
                ),
                0,
            )
        )
        for s in (1, 3)
    )
    assert three == pytest.approx(3 * one, rel=0.05)


def test_malformed_servegen_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("0,1,1,Gamma,1,1\n600,1,1,Pareto,1,1\n1200,1\n")
    (tmp_path / "d.json").write_text('{"0": {"input_tokens": "{1: -1}", "output_tokens": "nonsense("}}')
    arrivals = {"kind": "servegen", "clients": [{"trace": "t.csv", "dataset": "d.json"}]}
    workload = Workload.resolve({"arrivals": arrivals, "requests": 5})
    found = [str(problem) for problem in workload.problems(tmp_path)]
    assert len(found) == 4
    assert "t.csv:2" in found[0]
    assert "Pareto" in found[0]


def test_taking_rows_keeps_their_blocks_and_predecessors() -> None:
    blocks = PrefixBlocks(np.array([1, 2, 3, 4, 5, 6]), np.array([0, 2, 3, 6]), 16)
    table = RequestTable.of([0, 1, 2], [32, 16, 48], [1, 1, 1], follows=np.array([-1, 0, 1]), prefix_blocks=blocks)
    taken = table.take([2, 1])
    assert taken.prefix_blocks is not None
    assert list(taken.prefix_blocks.of(0)) == [4, 5, 6]
    assert list(taken.prefix_blocks.of(1)) == [3]
    assert list(taken.follows) == [1, -1]


def test_merged_tables_do_not_share_blocks() -> None:
    blocks = PrefixBlocks(np.array([0, 1]), np.array([0, 2]), 16)
    both = merged([RequestTable.of([0.0], [32], [1], prefix_blocks=blocks)] * 2)
    assert both.prefix_blocks is not None
    assert len(np.unique(both.prefix_blocks.ids)) == 4
