"""What the README and the tutorial show is run as it stands there; what is generated is current."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsesim.cli import app

ROOT = Path(__file__).parents[2]
SHOWN = ("README.md", "docs/tutorial.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(name: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / name).read_text()) if kind == language]


def written_yaml(name: str, folder: Path) -> None:
    """YAML blocks that open with `# NAME.yaml`, as files; the shipped scenarios beside them."""
    for text in blocks(name, "yaml"):
        file = re.match(r"# (\S+\.yaml)\n", text)
        assert file, f"a YAML block of {name} names no file: {text.splitlines()[0]}"
        (folder / file[1]).write_text(text)
    (folder / "scenarios").symlink_to(ROOT / "scenarios")


@pytest.mark.parametrize("name", SHOWN)
def test_shown_commands_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for the length of the quickstart's trace, which tests/packaging replays whole."""
    written_yaml(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [line[2:] for text in blocks(name, "console") for line in text.splitlines() if line.startswith("$ ")]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("sparsesim ")]
    assert len(commands) >= 4
    for command in commands:
        words = [*command, "--set", "workload.requests=300"] if command[:2] == ["run", "quickstart"] else command
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{' '.join(words)}: {result.stderr}"


@pytest.mark.parametrize("name", SHOWN)
def test_shown_python_runs(name: str, tmp_path: Path) -> None:
    for text in blocks(name, "python"):
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_generated_documents_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    text = BLOCK.sub("", (ROOT / page).read_text())
    targets = [t for t in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) if "://" not in t]
    missing = [t for t in targets if not ((ROOT / page).parent / t).exists()]
    assert not missing


def test_every_command_is_named_in_the_documents() -> None:
    from typer.main import get_command

    text = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert not [name for name in commands if not re.search(rf"`[^`\n]*\b{name}\b|sparsesim {name}\b", text)]
