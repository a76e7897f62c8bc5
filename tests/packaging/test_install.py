"""An installed sparsesim answers from an empty folder: its profiles, scenarios and published tables come with it.

The wheel is installed without its dependencies into a fresh environment that sees those of this one.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import sparsesim
from sparsesim.loading import available, data_root

ROOT = Path(__file__).parents[2]
SHIPPED = ("hwprofiles", "scenarios", "calibration/published")


def python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def answer(python: Path, code: str, folder: Path) -> str:
    """What a fresh process in an empty folder prints."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SPARSESIM"))}
    done = subprocess.run([str(python), "-c", code], cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("sparsesim-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment holding the wheel, and the dependencies of the present one behind it."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    packages = next((environment / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text("".join(f"{folder}\n" for folder in site.getsitepackages()))
    return python_of(environment)


def test_the_wheel_holds_every_tracked_file_that_ships(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", *SHIPPED], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    wanted = {f"sparsesim/_data/{name}" for name in tracked.stdout.split() if (ROOT / name).is_file()}
    assert wanted
    assert wanted <= held
    assert "sparsesim/py.typed" in held
    assert not [name for name in held if name.startswith(("tests/", "scratch/")) or "/scratch/" in name]


def test_the_quickstart_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    code = "import sys; from sparsesim.cli import main; sys.argv[1:] = ['run', 'quickstart', '--quiet']; main()"
    answer(installed, code, tmp_path)
    summary = json.loads((tmp_path / "runs" / "quickstart" / "summary.json").read_text())
    assert [case["summary"]["requests"]["failed"] for case in summary["cases"]] == [0, 0]
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()


def test_the_installed_package_reads_its_own_data(installed: Path, tmp_path: Path) -> None:
    code = "import sparsesim.loading as l; print(l.__file__); print(l.data_root())"
    module, root = map(Path, answer(installed, code, tmp_path).split())
    assert root == module.parent / "_data"
    assert not root.is_relative_to(ROOT)


def test_a_checkout_reads_the_checkout() -> None:
    assert Path(sparsesim.__file__).parent == ROOT / "sparsesim"
    assert data_root() == ROOT


def test_own_files_come_before_those_of_the_path_and_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "hwprofiles").mkdir(parents=True)
        (folder / "hwprofiles" / "mine.yaml").write_text("")
    (there / "hwprofiles" / "theirs.yaml").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.setenv("SPARSESIM_PATH", str(there))
    from sparsesim.loading import find

    assert find("hwprofiles", "mine", "hardware") == here / "hwprofiles" / "mine.yaml"
    assert find("hwprofiles", "theirs", "hardware") == there / "hwprofiles" / "theirs.yaml"
    assert find("hwprofiles", "h100-sxm", "hardware") == ROOT / "hwprofiles" / "h100-sxm.yaml"
    assert {"mine", "theirs", "h100-sxm"} <= set(available("hwprofiles"))


def test_the_source_archive_holds_what_a_build_and_its_tests_need(tmp_path: Path) -> None:
    import tarfile

    build = f"from hatchling.build import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "Makefile", "LICENSE", "README.md", "scenarios/quickstart.yaml"} <= held
    assert not [name for name in held if name.startswith((".venv", "scratch/", "runs/"))]
