"""Quantities with units at the border: `"3.35 TB/s"` in a file is 3.35e12 inside.

Inside sparsesim every number is an SI float (seconds, bytes, FLOP, joules, watts); a unit is written only in
YAML and on the command line. `B` is a byte, `bit` a bit, `GB` 1e9 bytes and `GiB` 2**30 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

_METRIC = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SMALL = {"m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}

_TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {f"{prefix}B": factor for prefix, factor in {**_METRIC, **_BINARY}.items()} | {
    f"{prefix}bit": factor / 8 for prefix, factor in {**_METRIC, **_BINARY}.items()
}
_FLOP = {f"{prefix}FLOP": factor for prefix, factor in _METRIC.items()}
_JOULE = {f"{prefix}J": factor for prefix, factor in {**_METRIC, **_SMALL}.items()} | {
    "Wh": 3600.0,
    "kWh": 3.6e6,
    "MWh": 3.6e9,
}


def _per(units: Mapping[str, float], denominators: Mapping[str, float]) -> dict[str, float]:
    return {f"{u}/{d}": a / b for u, a in units.items() for d, b in denominators.items()}


DIMENSIONS: dict[str, dict[str, float]] = {
    "time": _TIME,
    "bytes": _BYTES,
    "bandwidth": _per(_BYTES, _TIME),
    "compute": _per(_FLOP, {"s": 1.0}) | {f"{p}OP/s": f for p, f in _METRIC.items()},
    "frequency": {f"{prefix}Hz": factor for prefix, factor in _METRIC.items()},
    "power": {f"{prefix}W": factor for prefix, factor in {**_METRIC, **_SMALL}.items()},
    "energy": _JOULE,
    "energy per byte": _per(_JOULE, {"B": 1.0, "bit": 0.125}),
    "energy per flop": _per(_JOULE, {"FLOP": 1.0, "OP": 1.0, "MAC": 2.0}),
    "energy per event": _JOULE,
    "rate": _per({"": 1.0, "req": 1.0, "requests": 1.0}, _TIME),
    "tokens": {"tok": 1.0, "ktok": 1e3, "Mtok": 1e6},
    "price": _per({"USD": 1.0, "EUR": 1.0}, {"h": 3600.0}),
    "carbon intensity": _per({"gCO2e": 1.0, "kgCO2e": 1e3}, {"kWh": 3.6e6}),
    "carbon": {"gCO2e": 1.0, "kgCO2e": 1e3, "tCO2e": 1e6},
    "temperature": {"C": 1.0, "°C": 1.0},
}
_EXAMPLES = {
    "time": "500 ms",
    "bytes": "80 GiB",
    "bandwidth": "3.35 TB/s",
    "compute": "989 TFLOP/s",
    "frequency": "1980 MHz",
    "power": "700 W",
    "energy": "3 J",
    "energy per byte": "60 pJ/B",
    "energy per flop": "0.5 pJ/FLOP",
    "energy per event": "24 pJ",
    "rate": "12 /s",
    "tokens": "800 tok",
    "price": "2.5 USD/h",
    "carbon intensity": "300 gCO2e/kWh",
    "carbon": "164 kgCO2e",
    "temperature": "60 C",
}
_QUANTITY = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S.*?)?\s*$")


def parse(text: object, dimension: str) -> float:
    """The SI value of a quantity such as `"3.35 TB/s"`.

    Raises:
        ValueError: naming the text, the dimension and the units that are accepted.

    """
    units = DIMENSIONS[dimension]
    wanted = f"a {dimension} such as {_EXAMPLES[dimension]!r}; units: {_some(units)}"
    if isinstance(text, bool) or not isinstance(text, str):
        raise ValueError(f"{text!r} has no unit; write {wanted}")
    match = _QUANTITY.match(text)
    if match is None or (unit := match[2]) is None:
        raise ValueError(f"{text!r} is not a quantity with a unit; write {wanted}")
    if unit not in units:
        raise ValueError(f"{unit!r} in {text!r} is not a unit of {dimension}; write {wanted}")
    return float(match[1]) * units[unit]


def _some(units: Mapping[str, float], most: int = 8) -> str:
    names = list(units)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


_SCALED = {
    "time": ("s", _SMALL),
    "bytes": ("B", _METRIC),
    "bandwidth": ("B/s", _METRIC),
    "compute": ("FLOP/s", _METRIC),
    "frequency": ("Hz", _METRIC),
    "power": ("W", {**_METRIC, **_SMALL}),
    "energy": ("J", {**_METRIC, **_SMALL}),
    "energy per event": ("J", _SMALL),
    "energy per byte": ("J/B", _SMALL),
    "energy per flop": ("J/FLOP", _SMALL),
}
_EXACT = {
    "rate": ("/s", 1.0),
    "tokens": ("tok", 1.0),
    "price": ("USD/h", 3600.0),
    "carbon intensity": ("gCO2e/kWh", 3.6e6),
    "carbon": ("gCO2e", 1.0),
    "temperature": ("C", 1.0),
}


def show(value: float, dimension: str, digits: int | None = 4) -> str:
    """A value with the unit a reader expects: `show(3.35e12, "bandwidth")` is `"3.35 TB/s"`.

    Without `digits` as many as tell the number from its neighbours.
    """
    if dimension in _EXACT:
        unit, scale = _EXACT[dimension]
        return f"{_digits(value * scale, digits)} {unit}"
    unit, prefixes = _SCALED[dimension]
    usable = {name: factor for name, factor in {"": 1.0, **prefixes}.items() if name not in ("K", "µ")}
    below = [item for item in usable.items() if item[1] <= abs(value)]
    prefix, factor = max(below, key=lambda item: item[1]) if below else min(usable.items(), key=lambda i: i[1])
    if value == 0:
        prefix, factor = "", 1.0
    return f"{_digits(value / factor, digits)} {prefix}{unit}"


def _digits(number: float, digits: int | None) -> str:
    return repr(float(number)).removesuffix(".0") if digits is None else f"{number:.{digits}g}"


@dataclass(frozen=True, slots=True)
class Quantity:
    """Marks a pydantic field: a string with a unit of `dimension` in a file, an SI float inside."""

    dimension: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Parse on the way in, write with a unit on the way out."""
        return core_schema.no_info_before_validator_function(
            lambda value: parse(value, self.dimension),
            handler(source),  # a field's bounds may have been applied to it already
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: show(value, self.dimension, digits=None), when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """What an editor may offer: a string, with an example."""
        description = f"{self.dimension}, with a unit"
        return {"type": "string", "description": description, "examples": [_EXAMPLES[self.dimension]]}


Seconds = Annotated[float, Quantity("time")]
Bytes = Annotated[float, Quantity("bytes")]
BytesPerSecond = Annotated[float, Quantity("bandwidth")]
FlopPerSecond = Annotated[float, Quantity("compute")]
Hertz = Annotated[float, Quantity("frequency")]
Watts = Annotated[float, Quantity("power")]
Joules = Annotated[float, Quantity("energy")]
JoulesPerByte = Annotated[float, Quantity("energy per byte")]
JoulesPerFlop = Annotated[float, Quantity("energy per flop")]
JoulesPerEvent = Annotated[float, Quantity("energy per event")]
PerSecond = Annotated[float, Quantity("rate")]
Tokens = Annotated[float, Quantity("tokens")]
Price = Annotated[float, Quantity("price")]
CarbonIntensity = Annotated[float, Quantity("carbon intensity")]
Carbon = Annotated[float, Quantity("carbon")]
Celsius = Annotated[float, Quantity("temperature")]
