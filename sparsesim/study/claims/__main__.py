"""`python -m sparsesim.study.claims [PAGE]`: the claims as Markdown, or written into a page between its markers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sparsesim.study.claims import CLAIMS, Claim, table

MARK = "<!-- claim: {name} -->"
END = "<!-- end -->"


def section(claim: Claim) -> str:
    """What the source says, where it is asked, and the rows."""
    asked = ", ".join(f"`scenarios/claims/{name}.yaml`" for name in claim.scenarios)
    return f"{claim.source}: {claim.says}.\n\nAsked by {asked}.\n\n{table(claim.rows())}"


def written(page: str) -> str:
    """The page with every claim's section between its markers made anew."""
    for claim in CLAIMS:
        mark = MARK.format(name=claim.name)
        if mark not in page:
            raise SystemExit(f"the page has no {mark}")
        between = re.compile(re.escape(mark) + ".*?" + re.escape(END), re.DOTALL)
        fresh = f"{mark}\n{section(claim)}\n{END}"
        page = between.sub(fresh.replace("\\", r"\\"), page, count=1)
    return page


def main(arguments: list[str]) -> None:
    """Print the claims, or bring a page up to date."""
    if not arguments:
        sys.stdout.write("\n\n".join(f"## {claim.name}\n\n{section(claim)}" for claim in CLAIMS) + "\n")
        return
    path = Path(arguments[0])
    fresh = written(path.read_text(encoding="utf-8"))
    part = path.with_name(path.name + ".part")
    part.write_text(fresh, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
