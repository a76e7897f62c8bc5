"""Strict YAML: its traps are closed, every value knows its place, all problems come at once."""

from pathlib import Path

import pytest

from sparsesim.errors import InputError
from sparsesim.loading import load_yaml, merge, parse_yaml, with_settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("1e9", 1e9),
        ("0o17", "0o17"),
        ("true", True),
        ("~", None),
        ("1_000", 1000),
    ],
)
def test_scalars_read_as_yaml_1_2_core(text: str, value: object) -> None:
    assert parse_yaml(f"key: {text}", "file").values == {"key": value}


def test_places_are_file_line_column() -> None:
    document = parse_yaml("a:\n  b: [1,\n      2]\n", "f.yaml")
    assert document.place(("a", "b", 1)) == "f.yaml:3:7"
    assert document.place(("a", "b", 9)) == "f.yaml:2:6"


def test_a_repeated_key_is_an_error_with_its_place() -> None:
    with pytest.raises(InputError, match=r"f:2:1.*'a' stands twice"):
        parse_yaml("a: 1\na: 2\n", "f")


def test_what_is_not_yaml_names_the_place() -> None:
    with pytest.raises(InputError, match=r"f:2:\d+: not YAML"):
        parse_yaml("a: [1\nb: 2]: 3\n", "f")


def test_extends_merges_mappings_and_replaces_another_kind(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: {kind: x, p: 1}\nb: {c: 1, d: 2}\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\na: {kind: y, q: 2}\nb: {d: 3}\n")
    assert load_yaml(tmp_path / "own.yaml").values == {"a": {"kind": "y", "q": 2}, "b": {"c": 1, "d": 3}}


def test_a_file_that_extends_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(InputError, match="extends itself"):
        load_yaml(tmp_path / "a.yaml")


def test_settings_reach_into_lists_and_new_keys() -> None:
    document = parse_yaml("a: {b: [1, 2]}\n", "f")
    assert with_settings(document, ["a.b.1=5", "x.y=3 s"]).values == {"a": {"b": [1, 5]}, "x": {"y": "3 s"}}


@pytest.mark.parametrize("setting", ["a", "=3", "a.b.7=1"])
def test_a_setting_that_fits_nothing_is_an_error(setting: str) -> None:
    with pytest.raises(InputError):
        with_settings(parse_yaml("a: {b: [1]}\n", "f"), [setting])


def test_merge_keeps_places_of_both() -> None:
    merged = merge(parse_yaml("a: 1\n", "below"), parse_yaml("b: 2\n", "above"))
    assert merged.place(("a",)).startswith("below")
    assert merged.place(("b",)).startswith("above")
