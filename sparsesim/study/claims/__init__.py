"""Every quantitative claim of the sources beside what sparsesim gives, from the scenarios in scenarios/claims."""

from __future__ import annotations

from sparsesim.study.claims import experts, movement, sequence, twell
from sparsesim.study.claims.base import Claim, Row, table

CLAIMS: tuple[Claim, ...] = tuple(
    sorted((*twell.CLAIMS, *sequence.CLAIMS, *experts.CLAIMS, *movement.CLAIMS), key=lambda claim: claim.name)
)

__all__ = ["CLAIMS", "Claim", "Row", "table"]
