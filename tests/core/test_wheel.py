"""The wheel holds everything: built, installed elsewhere and run from outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from spade_bench.version import __version__

SCRIPTS = "Scripts" if os.name == "nt" else "bin"
SOURCES = ("spade_bench", "encoders", "tasks", "configs")


def call(*command: object, cwd: Path, seconds: int = 600) -> str:
    """Run a command without this checkout on its path; return what it prints on stdout."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SPADE_BENCH_CACHE"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that the checkout stays free of build files."""
    pytest.importorskip("build", reason="build is not installed; `make test-slow` installs it")
    pytest.importorskip("setuptools", "77", reason="setuptools 77 or newer is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in SOURCES:
        shutil.copytree(repo / name, copy / name, symlinks=True,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, copy / name)
    # Without isolation: nothing is downloaded, the installed setuptools builds.
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, copy,
         cwd=folder)  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment that holds the wheel.

    The packages it depends on are those of this environment, seen through a ``.pth`` file:
    downloading torch takes longer than all tests. Editable installs are not seen that way.
    """
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / SCRIPTS / Path(sys.executable).name
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site.strip(), "lent.pth").write_text("\n".join(sorted(lent)), encoding="utf-8")
    call(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
         "--no-index", "--disable-pip-version-check", wheel, cwd=folder)  # fmt: skip
    return folder / SCRIPTS


@pytest.mark.slow
def test_the_wheel_has_every_module_and_card(repo: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    wanted = {"spade_bench/py.typed"}
    for name in SOURCES:
        top = "" if name == "spade_bench" else "spade_bench/"
        for pattern in ("*.py", "*.yaml"):
            for path in (repo / name).rglob(pattern):
                wanted.add(top + path.relative_to(repo).as_posix())
    assert wanted - held == set()
    assert not [name for name in held if "test" in name.split("/")[0]]


@pytest.mark.slow
def test_the_installed_package_is_the_one_of_the_wheel(scripts: Path, tmp_path: Path) -> None:
    assert (
        call(scripts / "spade-bench", "--version", cwd=tmp_path) == f"spade-bench {__version__}\n"
    )
    where = "import spade_bench, sys; print(spade_bench.__file__)"
    place = Path(call(next(scripts.glob("python*")), "-c", where, cwd=tmp_path).strip())
    assert place.is_relative_to(scripts.parent)
    listed = json.loads(call(scripts / "spade-bench", "list", "tasks", "--json", cwd=tmp_path))[
        "rows"
    ]
    assert "crc_braf" in json.dumps(listed)


@pytest.mark.slow
def test_the_installed_demo_runs_to_a_leaderboard(scripts: Path, tmp_path: Path) -> None:
    printed = call(scripts / "spade-bench", "demo", "--size", "tiny", "--out", "demo",
                   cwd=tmp_path, seconds=3000)  # fmt: skip
    assert "All numbers above are SIMULATED" in printed
    lines = (tmp_path / "demo" / "runs" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["status"] for row in rows} == {"ok"}
    assert {"spade", "efficientnet-lite0", "random-lite0"} <= {row["encoder"] for row in rows}
    assert {row["env"]["spade_bench"] for row in rows} == {__version__}


def test_the_version_is_said_in_one_place(repo: Path) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "spade_bench.version.__version__"
    said = [
        path.relative_to(repo).as_posix()
        for name in SOURCES
        for path in (repo / name).rglob("*.py")
        if f'version__ = "{__version__}"' in path.read_text(encoding="utf-8")
    ]
    assert said == ["spade_bench/version.py"]
    assert f"\n## [{__version__}] - " in (repo / "CHANGELOG.md").read_text(encoding="utf-8")
