"""The house rules: who imports whom, every package ships, modules stay small."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_TOP = {"encoders": "spade_bench.encoders", "tasks": "spade_bench.tasks"}
# A module may import from its own layer or a lower one.
LAYERS = {
    "errors": 0, "types": 0, "console": 0, "files": 0,
    "escaping": 0,
    "registry": 1, "plugins": 1, "config": 1, "workspace": 1, "configs": 1,
    "data": 2, "engine": 2, "statistics": 2, "simulate": 2,
    "extraction": 3, "heads": 3,
    "encoders": 4, "tasks": 4, "results": 4,
    "runner": 5, "report": 5, "doctor": 5,
    "cli": 6,
}  # fmt: skip
FORBIDDEN = {("tasks", "encoders"), ("heads", "tasks"), ("encoders", "tasks"), ("tasks", "heads")}


def python_files() -> list[Path]:
    folders = [ROOT / name for name in ("spade_bench", "encoders", "tasks", "configs")]
    found = [p for folder in folders for p in folder.rglob("*.py") if not p.is_symlink()]
    linked = [ROOT / "spade_bench" / name for name in ("encoders", "tasks", "configs")]
    return sorted({p for p in found if not any(p.is_relative_to(link) for link in linked)})


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "spade_bench":
        parts.insert(0, "spade_bench")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Return the absolute names of everything of ours that a file imports."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                stem = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*stem, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("spade_bench.")}


def part(name: str) -> str:
    return name.split(".")[1] if name.count(".") else ""


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_street(path: Path) -> None:
    own = part(module_name(path))
    if not own:  # the package's front door re-exports
        return
    assert own in LAYERS, f"say in LAYERS where '{own}' belongs"
    for name in imports(path):
        other = part(name)
        if other in LAYERS and other != own:
            assert LAYERS[other] <= LAYERS[own], f"{own} imports {name}"
            assert (own, other) not in FORBIDDEN, f"{own} imports {name}"


def test_every_package_of_the_tree_is_listed_for_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {module_name(p) for p in python_files() if p.name == "__init__.py"}
    assert set(settings["packages"]) == there
    mapped = settings["package-dir"]
    for package in there:
        top = package.split(".")[1] if "." in package else ""
        if top in {"encoders", "tasks", "configs"}:
            assert mapped[package] == "/".join(package.split(".")[1:])


def test_modules_are_small() -> None:
    lengths = {p: len(p.read_text().splitlines()) for p in python_files()}
    assert {str(p): n for p, n in lengths.items() if n > 600} == {}
    assert statistics.median(lengths.values()) < 200


def test_front_door_is_narrow() -> None:
    import spade_bench

    assert len(spade_bench.__all__) <= 15


@pytest.mark.parametrize("arguments", [["--help"], ["list", "encoders"], ["list", "tasks"]])
def test_listing_does_not_import_heavy_packages(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from spade_bench.cli.main import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'timm', 'scanpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
