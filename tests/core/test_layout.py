"""The house rules: who imports whom, no loops, one name for one module, every package ships."""

from __future__ import annotations

import ast
import collections
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A module may import from its own layer or a lower one.
LAYERS = {
    "errors": 0, "keywords": 0, "types": 0, "console": 0, "escaping": 0, "version": 0,
    "statistics": 1, "device": 1, "memory": 1, "files": 1, "leases": 1, "config": 1, "configs": 1,
    "registry": 1, "plugins": 1, "workspace": 1, "surroundings": 1, "counterhash": 1,
    "slides": 2, "features": 2, "cohorts": 2, "spatial": 2, "simulate": 2, "regions": 2,
    "encoders": 3, "heads": 3, "tasks": 3, "results": 3, "executors": 3, "calibration": 3,
    "evaluation": 4, "report": 4, "extraction": 4, "pretraining": 4, "doctor": 4, "explain": 4,
    "robustness": 4, "sharing": 4, "sharedresults": 4,
    "spreading": 5, "featureverbs": 5, "api": 6,
    "cli": 7, "unitworker": 7, "workershares": 7,
}  # fmt: skip
FORBIDDEN = {("tasks", "encoders"), ("heads", "tasks"), ("encoders", "tasks"), ("tasks", "heads")}
# Halves of an encoder that make its weights: they extract, so they stand above the encoders.
_MAKING = {"pretraining", "release"}


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


MODULES = {module_name(path): path for path in python_files()}


def imports(path: Path) -> set[str]:
    """Return our modules that a file imports anywhere: on top, in a function, or for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # A name that is a module counts as that module, any other as its home.
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name in MODULES}


def part(name: str) -> str:
    """The layer's name of a module: its room, or the making half of an encoder."""
    pieces = name.split(".")
    if len(pieces) < 2:
        return ""
    return "pretraining" if _MAKING.intersection(pieces) else pieces[1]


def room(name: str) -> str:
    """The folder of a module; a module at the top is a room of its own."""
    return name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]


def loops(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return every set of nodes of which each reaches each (Tarjan's components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            component = stack[cut:]
            del stack[cut:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_street(path: Path) -> None:
    own = part(module_name(path))
    if not own:  # the package's front door re-exports
        return
    assert own in LAYERS, f"say in LAYERS where '{own}' belongs"
    for name in imports(path):
        other = part(name)
        if other and other != own:
            assert LAYERS[other] <= LAYERS[own], f"{own} imports {name}"
            assert (own, other) not in FORBIDDEN, f"{own} imports {name}"


def test_no_modules_import_each_other() -> None:
    assert loops({name: imports(path) for name, path in MODULES.items()}) == []


def test_no_rooms_import_each_other() -> None:
    """Rooms side by side; a room may use what lies in its own folder and that may use the room."""
    graph: dict[str, set[str]] = collections.defaultdict(set)
    for name, path in MODULES.items():
        for other in imports(path):
            mine, theirs = room(name), room(other)
            if not f"{mine}.".startswith(f"{theirs}.") and not f"{theirs}.".startswith(f"{mine}."):
                graph[mine].add(theirs)
    assert loops(dict(graph)) == []


def test_a_loop_is_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}
    assert loops(graph) == [["a", "b", "c"]]


def test_no_two_modules_share_a_name() -> None:
    counted = collections.Counter(p.name for p in MODULES.values())
    assert {name for name, n in counted.items() if n > 1} == {"__init__.py"}


def test_no_room_reaches_for_what_another_keeps_to_itself() -> None:
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or str(node.module) not in MODULES:
                continue
            for alias in node.names:
                target = f"{node.module}.{alias.name}"
                pieces = target.split(".")
                private = [i for i, piece in enumerate(pieces) if piece.startswith("_")]
                private = [i for i in private if not pieces[i].startswith("__")]
                if private:
                    keeper = ".".join(pieces[: private[0]])
                    assert name.startswith(keeper), f"{name} imports {target}"


def test_every_package_of_the_tree_is_listed_for_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {module_name(p) for p in python_files() if p.name == "__init__.py"}
    assert set(settings["packages"]) == there
    mapped = settings["package-dir"]
    for package in there:
        top = package.split(".")[1] if "." in package else ""
        if top in {"encoders", "tasks", "configs"}:
            assert mapped[package] == "/".join(package.split(".")[1:])


def test_modules_and_rooms_have_a_size() -> None:
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in python_files()}
    assert {str(p): n for p, n in lengths.items() if n > 600} == {}
    assert statistics.median(lengths.values()) < 250
    rooms = collections.Counter(p.parent for p in python_files() if p.name != "__init__.py")
    assert {str(p): n for p, n in rooms.items() if n > 22} == {}


_TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".cff", ".cfg", ".sh", ".txt", ""}
_NOT_OURS = {"build", "dist", "demo", "runs", "__pycache__"}
_HIDDEN = {".ci", ".github"}  # and no other hidden folder
# What belongs to one machine, one network or one person.
_PRIVATE = {
    "a path of one machine": r"(?<![\w.:/}])/(?:work|home|root|Users|mnt|scratch)/\w",
    "a drive of one machine": r"\b[A-Z]:\\{1,2}Users",
    "a package registry": r"pypi\.org|pythonhosted\.org|index-url|artifactory|jfrog|nexus\.",
    "a host of one network": r"://[\w.-]+\.(?:internal|local|lan|corp|intranet)\b",
    "an address of a person": r"[\w.+-]+@(?:[\w-]+\.)+(?:com|org|net|edu|de|uk|io|ai)\b",
}


def text_files() -> list[Path]:
    """Files of the repository that people read, without what tools have made."""

    def walk(folder: Path) -> list[Path]:
        found: list[Path] = []
        for path in folder.iterdir():
            if path.is_symlink() or path.name == ".git":  # a file in a second worktree
                continue
            if path.is_dir():
                hidden = path.name.startswith(".") and path.name not in _HIDDEN
                if not hidden and path.name not in _NOT_OURS and path.suffix != ".egg-info":
                    found += walk(path)
            elif path.suffix in _TEXT:
                found.append(path)
        return found

    return sorted(walk(ROOT))


def test_nothing_belongs_to_one_machine_or_person() -> None:
    files = text_files()
    assert {"pyproject.toml", "Makefile", "run", "tests.yml"} <= {path.name for path in files}
    found = [
        f"{path.relative_to(ROOT)}: {what}: {hit}"
        for path in files
        if path != Path(__file__).resolve() and (text := path.read_text(encoding="utf-8"))
        for what, pattern in _PRIVATE.items()
        for hit in re.findall(pattern, text)
    ]
    assert found == []


def test_what_belongs_to_one_machine_is_seen() -> None:
    seen = ["a /home/ann/x", '"/work/x"', "ann@lab.edu", r"C:\Users\ann", "http://a.internal/x"]
    for text in seen:
        assert any(re.search(pattern, text) for pattern in _PRIVATE.values()), text
    for text in ["s3://a/home/x", "@pytest.mark.slow", "a@sha1", "../shared/data", "x/work/y"]:
        assert not any(re.search(pattern, text) for pattern in _PRIVATE.values()), text


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
