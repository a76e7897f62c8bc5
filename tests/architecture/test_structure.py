"""The shape of the code: short files and functions, one direction of imports, families that are documented and used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from sparsesim.families import Member, members

ROOT = Path(__file__).parents[2]
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 500, 80
LONG_FILES = {"tests/sim/reference.py": "a second simulator, which shares no code with the first, in one piece"}
LONG_FUNCTIONS: dict[str, str] = {}
"""`path:function` with the reason why it is one thought."""
FAMILIES = (
    "cost.network.placement",
    "hardware.device",
    "hardware.topology",
    "model.blocks",
    "model.load",
    "model.sparsity",
    "sim.routers",
    "sim.schedulers",
    "workload.arrivals",
    "workload.kinds",
    "workload.lengths",
    "workload.traces",
)


@cache
def sources() -> list[Path]:
    return [
        path
        for folder in ("sparsesim", "tests", "benchmarks", "docs", "calibration")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "_data" not in path.parts
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


def test_files_are_short_or_say_why_not() -> None:
    long = {name_of(path) for path in sources() if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == set(LONG_FILES)


def test_functions_are_short_or_say_why_not() -> None:
    long = {
        f"{name_of(path)}:{node.name}"
        for path in sources()
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno >= MOST_LINES_OF_A_FUNCTION
    }
    assert long == set(LONG_FUNCTIONS)


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b")
    found = [name_of(path) for path in sources() if path != Path(__file__) and marks.search(path.read_text())]
    assert not found


def test_imports_go_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_libraries_stay_where_they_belong() -> None:
    homes = {
        "simpy": ("sparsesim/sim/",),
        "matplotlib": ("sparsesim/report/", "sparsesim/study/validate.py"),
        "torch": ("sparsesim/kernels/", "sparsesim/calibrate/"),
    }
    for library, places in homes.items():
        users = [
            name_of(path)
            for path in sources()
            if name_of(path).startswith("sparsesim/")
            and re.search(rf"^\s*(import|from) {library}\b", path.read_text(), re.M)
        ]
        assert users
        assert [user for user in users if not user.startswith(places)] == []


def base_of(family: str) -> type[Member]:
    package = import_module(f"sparsesim.{family}")
    bases = [
        v for v in vars(package).values() if isinstance(v, type) and issubclass(v, Member) and "family" in v.__dict__
    ]
    assert len(bases) == 1
    return bases[0]


def test_every_family_is_listed_here() -> None:
    declared = re.compile(r'^class \w+\(Member, family="sparsesim\.([\w.]+)"\)', re.M)
    found = {name for path in (ROOT / "sparsesim").rglob("*.py") for name in declared.findall(path.read_text())}
    assert found == set(FAMILIES)


@cache
def used() -> str:
    """All tests and scenarios as one text."""
    texts = [
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "scenarios").rglob("*.yaml"),
        *(ROOT / "hwprofiles").glob("*.yaml"),
    ]
    return "\n".join(path.read_text() for path in texts if path != Path(__file__))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_is_documented_and_used_by_a_test_or_a_scenario(family: str) -> None:
    kinds = members(base_of(family))
    assert kinds
    for kind, member in kinds.items():
        assert (member.__doc__ or "").strip(), f"{family}.{kind} says nothing of itself"
        by_kind = rf"kind: {kind}\b|\"kind\": \"{kind}\"|[\"']{kind}[\"']"
        assert re.search(rf"{by_kind}|\b{member.__name__}\b|\b{family}\.{kind}\b", used()), f"{family}.{kind} is unused"


def test_every_profile_and_scenario_is_used_by_a_test_or_read_by_one() -> None:
    """Profiles are walked by the catalogue's tests; here: each loads, and names itself as its file."""
    from sparsesim.hardware.profile import load_device

    for path in sorted((ROOT / "hwprofiles").glob("*.yaml")):
        assert load_device(str(path)).name == path.stem
