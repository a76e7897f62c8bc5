"""Families: a choice such as `{kind: gamma, rate: 12 /s}` becomes the one public class of `arrivals/gamma.py`.

A family is a package holding one module per kind; the module's name is the kind. Its abstract base is declared
with `family="sparsesim.workload.arrivals"`; a field typed by that base accepts a mapping with `kind`, a bare kind
name, or a member. Kinds nobody here knows are looked up among the entry points of the group named as the package.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sparsesim.errors import closest

M = TypeVar("M", bound="Member")
_described: set[type] = set()
"""Families whose schema is being written: a member that holds another of its family would never end."""


class Frozen(BaseModel):
    """A value: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields replaced, that derives its cached properties from its own fields."""
        copy = super().model_copy(update=update, deep=deep)
        for name in copy.__dict__.keys() - type(self).model_fields.keys():
            del copy.__dict__[name]
        return copy


class Member(Frozen):
    """Base of every family's abstract base; a concrete subclass is one kind."""

    family: ClassVar[str]
    kind: ClassVar[str]

    def __init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls.family = family
        elif "family" in cls.__dict__ or hasattr(cls, "family"):
            cls.kind = cls.__module__.rpartition(".")[2]

    @classmethod
    def is_base(cls) -> bool:
        """Whether this class stands for the whole family."""
        return "family" in cls.__dict__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A base resolves `kind`; a concrete class validates as itself."""
        if not cls.is_base():
            return handler(source)
        return core_schema.no_info_plain_validator_function(
            cls.resolve,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda member, info: member.with_kind(info.mode), info_arg=True
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """The built-in kinds, each with its fields; a bare name where a kind needs no field."""
        if not cls.is_base():
            return dict(handler(schema))
        if cls in _described:
            return {"type": ["object", "string"], "description": f"{cls.__name__}, as above"}
        _described.add(cls)
        try:
            return {"anyOf": [{"type": "string", "enum": list(members(cls))}, *cls._choices()]}
        finally:
            _described.discard(cls)

    @classmethod
    def _choices(cls) -> list[dict[str, Any]]:
        """The schema of every built-in kind with its fields."""
        choices: list[dict[str, Any]] = []
        for kind, member in members(cls).items():
            inner = _inlined(member.model_json_schema(ref_template="#/$defs/{model}"))
            inner.setdefault("properties", {})["kind"] = {"const": kind}
            inner["required"] = ["kind", *inner.get("required", [])]
            choices.append(inner)
        return choices

    @classmethod
    def resolve(cls, value: Any) -> Self:
        """The member that `value` (a member, a kind's name, or a mapping with `kind`) describes."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            raise PydanticCustomError(
                "family_kind",
                "expected a mapping with 'kind', {hint}",
                {"hint": "one of: " + ", ".join(kinds(cls))},
            )
        member = member_named(cls, value["kind"])
        if member is None:
            raise PydanticCustomError(
                "family_kind",
                "unknown kind '{kind}'; {hint}",
                {"kind": value["kind"], "hint": closest(value["kind"], kinds(cls))},
            )
        built: Self = member.model_validate({key: item for key, item in value.items() if key != "kind"})
        return built

    def with_kind(self, mode: str = "python") -> dict[str, Any]:
        """The mapping that `resolve` reads back."""
        return {"kind": self.kind, **self.model_dump(mode=mode)}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its own definitions in place of the references to them, so that it can stand inside another."""
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(item) for item in node]
        if not isinstance(node, dict):
            return node
        name = str(node.get("$ref", "")).removeprefix("#/$defs/")
        if name in definitions:
            return resolved({**definitions[name], **{key: value for key, value in node.items() if key != "$ref"}})
        return {key: resolved(value) for key, value in node.items()}

    whole: dict[str, Any] = resolved(schema)
    return whole


@cache
def kinds(base: type[Member]) -> tuple[str, ...]:
    """Names of the built-in kinds of a family, without importing them."""
    package = importlib.import_module(base.family)
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith(("_", "base"))))


@cache
def member_named(base: type[M], kind: str) -> type[M] | None:
    """The class of one kind, imported when asked for; entry points are asked last."""
    if kind in kinds(base):
        return _public_class(base, importlib.import_module(f"{base.family}.{kind}"))
    for point in entry_points(group=base.family):
        if point.name == kind:
            loaded: type[M] = point.load()
            return loaded
    return None


def members(base: type[M]) -> dict[str, type[M]]:
    """Every built-in kind of a family with its class."""
    found = {kind: member_named(base, kind) for kind in kinds(base)}
    return {kind: member for kind, member in found.items() if member is not None}


def _public_class(base: type[M], module: Any) -> type[M]:
    own = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__ and name[0] != "_"
    ]
    if len(own) != 1:
        raise TypeError(f"{module.__name__} must hold exactly one public {base.__name__}, not {len(own)}")
    return own[0]
