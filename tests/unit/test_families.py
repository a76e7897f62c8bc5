"""A kind is the one public class of its module; what is no kind is an error with the nearest."""

from functools import cached_property

import pytest
from pydantic import TypeAdapter, ValidationError

from sparsesim.families import Frozen, kinds, members
from sparsesim.hardware.device import Device
from sparsesim.model.blocks import Block
from sparsesim.sim.routers import Router
from sparsesim.sim.schedulers import Scheduler
from sparsesim.workload.arrivals import Arrivals
from sparsesim.workload.lengths import Lengths

FAMILIES = [Arrivals, Lengths, Router, Scheduler, Block, Device]


@pytest.mark.parametrize("base", FAMILIES, ids=lambda base: base.__name__)
def test_every_kind_has_one_documented_public_class(base: type) -> None:
    for kind, member in members(base).items():
        assert member.kind == kind
        assert len(member.__doc__ or "") > 10


def test_a_bare_name_a_mapping_and_a_member_are_the_same() -> None:
    adapter = TypeAdapter(Router)
    bare = adapter.validate_python("round_robin")
    assert bare == adapter.validate_python({"kind": "round_robin"}) == adapter.validate_python(bare)
    assert adapter.validate_python(bare.with_kind()) == bare


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match="round_robin"):
        TypeAdapter(Router).validate_python("round_robbin")


def test_an_unknown_key_is_not_ignored() -> None:
    with pytest.raises(ValidationError, match="ratte"):
        TypeAdapter(Arrivals).validate_python({"kind": "poisson", "ratte": "3 /s", "rate": "3 /s"})


def test_kinds_are_listed_without_importing_them() -> None:
    assert {"poisson", "gamma", "deterministic", "trace"} <= set(kinds(Arrivals))


def test_a_copy_derives_its_cached_properties_anew() -> None:
    class Square(Frozen):
        side: int

        @cached_property
        def area(self) -> int:
            return self.side**2

    square = Square(side=3)
    assert square.area == 9
    assert square.model_copy(update={"side": 4}).area == 16
    assert square.model_copy() == square
