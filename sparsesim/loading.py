"""Strict YAML with positions, `extends:` and `--set`, and where named files are found.

YAML's traps are closed: `no` and `on` stay words, `12:30` is not 750, `1e9` is a number, a repeated key is an error.
Every value remembers where it stands, so that an error can say `file:line:col`.
"""

from __future__ import annotations

import difflib
import importlib.resources
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from sparsesim.errors import InputError, Problem, closest

Path_ = tuple[str | int, ...]


class _Resolver(yaml.SafeLoader):
    """SafeLoader that reads only YAML 1.2's core scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 the base declares it so


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", "tf"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9][0-9_]*$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:null", r"^(?:~|null|)$", "~n\0"),
):
    _Resolver.add_implicit_resolver(_tag, re.compile(_pattern), list(_first) + ([""] if "null" in _tag else []))


@dataclass(frozen=True)
class Document:
    """Plain values of a YAML file and the place of each."""

    values: dict[str, Any]
    places: Mapping[Path_, str] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)

    def place(self, path: Path_) -> str:
        """`file:line:col` of the value at `path`, or of its nearest parent."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, "")

    def value(self, path: Path_) -> Any:
        """What stands at `path`; None where nothing does."""
        node: Any = self.values
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def placed(self, problem: Problem) -> Problem:
        """The problem with the place of its path, where it has none."""
        path: Path_ = tuple(
            int(part) if part.isdigit() else part for part in re.split(r"[.\[\]]+", problem.path) if part
        )
        return replace(problem, place=problem.place or (self.place(path) if path else ""))


def load_yaml(path: Path) -> Document:
    """Read a YAML mapping, resolving `extends: other.yaml` relative to the file.

    Raises:
        InputError: the file is missing, is not YAML, repeats a key, is not a mapping, or extends itself.

    """
    return _load(Path(path), ())


def _load(path: Path, parents: tuple[Path, ...]) -> Document:
    if path.resolve() in parents:
        raise InputError(Problem("extends itself", place=str(path)))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(Problem(f"cannot be read: {reason}", place=str(path))) from None
    own = parse_yaml(text, str(path), path.parent)
    base = own.values.pop("extends", None)
    if base is None:
        return own
    if not isinstance(base, str):
        raise InputError(Problem(f"{base!r} is not a file name", path="extends", place=own.place(("extends",))))
    below = _load(path.parent / base, (*parents, path.resolve()))
    return merge(below, own)


def parse_yaml(text: str, name: str, folder: Path | None = None) -> Document:
    """The document in a text; `name` stands before line and column in errors."""
    try:
        node = _Resolver(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise InputError(Problem(f"not YAML: {error.problem or error.context}", place=place)) from None
    except yaml.YAMLError as error:
        raise InputError(Problem(f"not YAML: {error}", place=name)) from None
    places: dict[Path_, str] = {(): name}
    problems: list[Problem] = []
    values = _plain(node, (), name, places, problems) if node is not None else {}
    if not isinstance(values, dict):
        problems.append(Problem("the top level must be a mapping of keys", place=name))
    if problems:
        raise InputError(problems)
    return Document(values, places, folder or Path.cwd())


def _plain(node: yaml.Node, path: Path_, name: str, places: dict[Path_, str], problems: list[Problem]) -> Any:
    place = f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
    places[path] = place
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            where = f"{name}:{key_node.start_mark.line + 1}:{key_node.start_mark.column + 1}"
            if key in mapping:
                problems.append(Problem(f"key {key!r} stands twice", path=dotted(path), place=where))
            mapping[key] = _plain(value_node, (*path, key), name, places, problems)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), name, places, problems) for i, item in enumerate(node.value)]
    return _scalar(node, place, path, problems)


def _scalar(node: yaml.Node, place: str, path: Path_, problems: list[Problem]) -> Any:
    text = str(node.value)
    kind = node.tag.rpartition(":")[2]
    if kind == "str":
        return text
    if kind == "int":
        return int(text.replace("_", ""))
    if kind == "float":
        return float(text.replace("_", ""))
    if kind == "bool":
        return text == "true"
    if kind == "null":
        return None
    problems.append(Problem(f"tag {node.tag!r} is not used here", path=dotted(path), place=place))
    return None


def merge(below: Document, above: Document) -> Document:
    """`above` laid over `below`: mappings merge by key, one that names another `kind` and anything else replaces."""
    return Document(_merged(below.values, above.values), {**below.places, **above.places}, above.folder)


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if "kind" in above and above["kind"] != below.get("kind"):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def with_settings(document: Document, settings: Iterable[str]) -> Document:
    """Apply `--set a.b=value` (the value is read as YAML) in order.

    Raises:
        InputError: a setting without `=`, or whose value is not YAML.

    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InputError(Problem(f"{setting!r} is not of the form path.to.key=value", place="--set"))
        value = parse_yaml(f"value: {text}", f"--set {setting}").values.get("value")
        document = set_path(document, key, value, f"--set {setting}")
    return document


def set_path(document: Document, key: str, value: Any, place: str) -> Document:
    """The document with the value at a dotted path replaced."""
    path: Path_ = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    made = {path[:n]: place for n in range(1, len(path) + 1) if path[:n] not in document.places}
    places = {**document.places, **made, path: place}
    return Document(_set(document.values, path, value, key, place), places, document.folder)


SHORTHAND = {"hardware": "name"}
"""What a bare word under a key stands for; everywhere else it is a `kind`."""


def _set(node: Any, path: Path_, value: Any, key: str, place: str, above: str | int = "") -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not isinstance(head, int) or head >= len(node):
            raise InputError(Problem(f"{head!r} is not an index below {len(node)}", path=key, place=place))
        return [_set(item, rest, value, key, place, head) if i == head else item for i, item in enumerate(node)]
    if node is None or isinstance(node, str):
        node = {} if node is None else {SHORTHAND.get(str(above), "kind"): node}
    if not isinstance(node, dict):
        raise InputError(Problem(f"{node!r} has no key {head!r}", path=key, place=place))
    return {**node, str(head): _set(node.get(str(head)), rest, value, key, place, head)}


def dotted(path: Iterable[str | int]) -> str:
    """`a.b[2]`, as a reader writes a path."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def problems_of(error: ValidationError, document: Document, above: Path_ = ()) -> list[Problem]:
    """Pydantic's errors as problems with places, those of nested family members included.

    A check of a whole mapping blames one of its keys by a `PydanticCustomError("own_key", ..., {"key": name})`.
    """
    found: list[Problem] = []
    for item in error.errors():
        context = item.get("ctx", {})
        path = (*above, *item["loc"], *([context["key"]] if item["type"] == "own_key" else []))
        inner = context.get("error")
        if isinstance(inner, ValidationError):
            found += problems_of(inner, document, path)
        elif isinstance(inner, InputError):
            found += [
                Problem(p.message, p.path or dotted(path), p.place or document.place(path), p.hint)
                for p in inner.problems
            ]
        else:
            found.append(Problem(_message(item), dotted(path), document.place(path), _hint(item)))
    return found


def _message(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return f"unknown key {item['loc'][-1]!r}"
    if item["type"] == "missing":
        return "missing"
    text = str(item["msg"]).removeprefix("Value error, ")
    value = item["input"]
    said = item["type"] in ("value_error", "family_kind") and repr(value) in text
    return f"{value!r}: {text}" if isinstance(value, str | int | float | bool) and not said else text


def _hint(item: Any) -> str:
    return str(item.get("ctx", {}).get("hint", "")) if item["type"] != "family_kind" else ""


def build(model: type[Any], document: Document) -> Any:
    """Validate a document into a pydantic model; all problems at once, each with its place and the nearest key.

    Raises:
        InputError: with one problem per fault.

    """
    try:
        return TypeAdapter(model).validate_python(document.values, context={"folder": document.folder})
    except ValidationError as error:
        problems = [_with_nearest_key(problem, model) for problem in problems_of(error, document)]
        raise InputError(problems) from None


def _with_nearest_key(problem: Problem, model: type[BaseModel]) -> Problem:
    if not problem.message.startswith("unknown key"):
        return problem
    names = _keys_at(model, problem.path.split(".")[:-1])
    hint = closest(problem.path.split(".")[-1], names) if names else ""
    return Problem(problem.message, problem.path, problem.place, hint)


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        inner = model.model_fields.get(part)
        candidates = (
            [t for t in _types(inner.annotation) if isinstance(t, type) and issubclass(t, BaseModel)] if inner else []
        )
        if not candidates:
            return []
        model = candidates[0]
    return list(model.model_fields)


def _types(annotation: Any) -> list[Any]:
    return [annotation, *(inner for part in getattr(annotation, "__args__", ()) for inner in _types(part))]


def data_root() -> Path:
    """The folder that holds hwprofiles, scenarios and calibration: in the package, else the checkout."""
    package = Path(str(importlib.resources.files("sparsesim")))
    inside = package / "_data"
    return inside if inside.is_dir() else package.parent


def search_folders(kind: str) -> list[Path]:
    """Where files of a kind (`hwprofiles`, `scenarios`, `scenarios/models`, ...) are looked for, in order."""
    own = [Path.cwd() / kind, Path.cwd()]
    given = [Path(part) / kind for part in os.environ.get("SPARSESIM_PATH", "").split(os.pathsep) if part]
    return [*own, *given, data_root() / kind]


def find(kind: str, name: str, what: str) -> Path:
    """The file `name`.yaml (or the path `name`) of a kind.

    Raises:
        InputError: naming `what` was looked for, where, and the nearest names.

    """
    direct = Path(name)
    if direct.suffix and direct.is_file():
        return direct
    if direct.suffix:
        for folder in search_folders(kind):
            if (folder / name).is_file():
                return folder / name
    for folder in search_folders(kind):
        if (folder / f"{name}.yaml").is_file() and (folder.name == Path(kind).name or folder != Path.cwd()):
            return folder / f"{name}.yaml"
    raise InputError(_unknown(kind, name, what))


def _unknown(kind: str, name: str, what: str) -> Problem:
    """Nothing has this name; the names there are help where it is one, and no path."""
    place = Path(name)
    bare = place.stem if place.suffix in (".yaml", ".yml") else place.name
    if bare == name and not place.is_dir():
        return Problem(f"unknown {what} {name!r}", hint=closest(name, available(kind)))
    near = difflib.get_close_matches(bare.lower(), available(kind), n=1)
    found = "a folder" if place.is_dir() else "no such file"
    return Problem(f"unknown {what} {name!r}: {found}", hint=f"did you mean {near[0]}?" if near else "")


def available(kind: str) -> list[str]:
    """Names of the YAML files of a kind, the user's own included."""
    folders = [f for f in search_folders(kind) if f.is_dir() and f != Path.cwd()]
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
