"""Starting a profile of one's own."""

from __future__ import annotations

from pathlib import Path

from sparsesim.errors import InputError, Problem
from sparsesim.hardware.profile import load_device
from sparsesim.loading import find


def write_profile(name: str, base: str, folder: Path) -> Path:
    """Write `folder`/NAME.yaml with all of the base's figures, to be edited; what was fitted on it is transferred.

    Raises:
        InputError: the base is unknown, or the file exists.

    """
    path = folder / f"{name}.yaml"
    if path.exists():
        raise InputError(Problem("exists already", place=str(path), hint="choose another name, or edit it"))
    start = load_device(base)
    source = find("hwprofiles", base, "hardware")
    lines = [line for line in _whole(source) if not line.startswith(("name:", "title:", "fit:", "fit_base:"))]
    kind = next((line for line in lines if line.startswith("kind:")), f"kind: {start.kind}")
    rest = [line for line in lines if not line.startswith("kind:")]
    folder.mkdir(parents=True, exist_ok=True)
    head = [
        f"# Started from {base}: replace each figure, and its source with it.",
        kind,
        f"name: {name}",
        f"title: {name}",
    ]
    transfer = [
        "fit: null",
        f"fit_base: {getattr(start, 'fit', None) or getattr(start, 'fit_base', None) or 'null'}",
        "",
    ]
    path.write_text("\n".join([*head, *rest, *transfer]), encoding="utf-8")
    return path


def _whole(path: Path) -> list[str]:
    """The lines of a file without `extends`, or one `extends` line by full path for a file that has it."""
    text = path.read_text(encoding="utf-8")
    if text.startswith("extends:") or "\nextends:" in text:
        return [f"extends: {path.resolve()}"]
    return text.rstrip().splitlines()
