from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spade_bench.simulate import simulate
from spade_bench.simulate.studysettings import Size

MINI = Size(
    organs=2,
    patients=3,
    second_samples=1,
    st_side_um=600.0,
    st_sites=2,
    cases=24,
    second_slides=2,
    slide_side_um=450.0,
    slide_sites=2,
)


@pytest.fixture(scope="session")
def mini() -> Size:
    return MINI


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A simulated study that tests read and never change, and its truth."""
    out = tmp_path_factory.mktemp("simulate") / "study"
    return out, simulate(out, 3, MINI)
