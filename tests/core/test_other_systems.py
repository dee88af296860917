"""What Windows, macOS and a checkout without symbolic links need, as far as Linux can tell."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spade_bench import memory

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("encoders", "tasks", "configs")

# Modules of our own cannot have what only POSIX has; the libraries know their systems themselves.
BLOCK = """
import builtins, ctypes, importlib, json, os, sys

POSIX = {"fcntl", "resource", "grp", "pwd", "termios", "tty", "pty"}


def ours():
    frame = sys._getframe(2)
    while "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").startswith("spade_bench")


plain = builtins.__import__


def guarded(name, *rest, **named):
    if name.partition(".")[0] in POSIX and ours():
        raise ModuleNotFoundError(f"{name} is POSIX only", name=name)
    return plain(name, *rest, **named)


builtins.__import__ = guarded


class Library(ctypes.CDLL):
    def __init__(self, name, *rest, **named):
        if name is None and ours():
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        super().__init__(name, *rest, **named)


ctypes.CDLL = Library
del os.sched_getaffinity
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "spade_bench" else ("spade_bench", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules() -> list[str]:
    inside = {ROOT / "spade_bench" / name for name in FOLDERS}
    files = [p for top in ("spade_bench", *FOLDERS) for p in (ROOT / top).rglob("*.py")]
    return sorted({_module(p) for p in files if not inside.intersection(p.parents)})


def test_no_module_needs_posix_to_be_imported() -> None:
    modules = _modules()
    assert {"spade_bench.memory", "spade_bench.encoders.spade.model"} < set(modules)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, json.dumps(modules)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def test_the_block_blocks(tmp_path: Path) -> None:
    (tmp_path / "spade_bench_probe.py").write_text("import fcntl\n")
    (tmp_path / "spade_bench_call.py").write_text("import ctypes\nctypes.CDLL(None)\n")
    (tmp_path / "other_probe.py").write_text("import fcntl, resource\n")
    names = ["spade_bench_probe", "spade_bench_call", "other_probe"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, json.dumps(names)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert set(json.loads(done.stdout.splitlines()[-1])) == set(names[:2])


@pytest.mark.parametrize("system", ["win32", "darwin", "linux"])
def test_memory_settings_are_left_alone_without_glibc(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: object) -> object:
        if system == "linux":
            raise OSError("no such library")  # as a C library may that is not glibc
        raise TypeError("not on this system")

    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(memory.ctypes, "CDLL", refuse)
    memory.keep_freed_memory.__wrapped__()


@pytest.fixture(scope="module", params=["absent", "text files"])
def checkout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources without links, or as Windows writes links that it cannot make."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("spade_bench", *FOLDERS):
        shutil.copytree(
            ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in FOLDERS:
        link = root / "spade_bench" / name
        link.unlink()
        if request.param == "text files":
            link.write_text(f"../{name}")
    return root


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "encoders", "--json"], '"spade"'),
        (["list", "tasks", "--json"], '"crc_braf"'),
        (["show", "task", "crc_braf"], "crc_braf"),
    ],
)
def test_a_checkout_without_links_works(
    checkout: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import spade_bench; assert spade_bench.__file__.startswith(sys.path[0])\n"
        "from spade_bench.cli.main import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(checkout), *arguments],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    from_module = [sys.executable, "-m", "spade_bench.cli.main", *arguments]
    again = subprocess.run(from_module, capture_output=True, text=True, check=False, cwd=checkout)
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr


def test_data_of_the_package_are_found_without_links(checkout: Path) -> None:
    code = (
        "from spade_bench.config import named_config, names_of\n"
        "assert 'hest1k' in names_of('pretrain'), names_of('pretrain')\n"
        "assert named_config('tasks', 'crc_braf')['name'] == 'crc_braf'\n"
        "import spade_bench; print(spade_bench.__file__)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(checkout))


def test_links_that_work_are_used(tmp_path: Path) -> None:
    code = "import spade_bench; print(len(spade_bench.__path__))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("searched", [True, False])
def test_the_search_for_cycles_is_as_it_was(searched: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if searched else gc.disable)()
        with pytest.raises(ValueError, match="inside"), memory.without_cycle_search():
            assert not gc.isenabled()
            raise ValueError("inside")
        assert gc.isenabled() == searched
    finally:
        (gc.enable if before else gc.disable)()
