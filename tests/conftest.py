"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import numpy as np

# A busy machine makes examples slowly; what they show does not depend on it.
settings.register_profile(
    "spade-bench", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("spade-bench")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of several workers wait for each other
os.environ.pop("COLUMNS", None)  # parallel test workers set it, which would fold tables
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _cache_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is known about feature files out of the data folders and the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPADE_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _pictures_of_few_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a report's pictures with the dots of a screen: they say the same as those for print."""
    from spade_bench.report.drawing.look import DPI

    monkeypatch.setitem(DPI, "png", 72)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """No test leaves more threads behind than there were: the later ones would wait for them."""
    torch = sys.modules.get("torch")
    count = torch.get_num_threads if torch else lambda: 0  # a test may stand in for it
    before = count()
    yield
    assert count() == before


@pytest.fixture(scope="session", autouse=True)
def _commands_put_together_once() -> Iterator[None]:
    """Build the commands once for all calls of typer's runner, as `main` does."""
    import typer.testing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", cache(typer.testing._get_command))
        yield


@pytest.fixture(autouse=True)
def _plugins_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers load the plugins that their command has loaded, not those of earlier tests."""
    from spade_bench import plugins

    monkeypatch.setattr(plugins, "_loaded", [])


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the repository."""
    return ROOT


class _DataFolder(type(Path())):  # type: ignore[misc]
    """A folder of data sets; reaching for one that is absent skips the test."""

    def __truediv__(self, name: object) -> Path:
        path = Path(str(self), str(name))
        if not path.exists():
            pytest.skip(f"real data not found: {path.name} is absent (see CONTRIBUTING.md)")
        return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real public data: `$SPADE_BENCH_TEST_DATA`, else `../shared/data`."""
    named = os.environ.get("SPADE_BENCH_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if folder.is_dir():
        return _DataFolder(folder)
    if named:
        pytest.fail(f"SPADE_BENCH_TEST_DATA is {named}, which is not a folder")
    pytest.skip("real data not found: set SPADE_BENCH_TEST_DATA (see CONTRIBUTING.md)")


@pytest.fixture(scope="session")
def write_slide() -> Callable[..., Path]:
    """Return a writer of pyramidal TIFF slides that OpenSlide opens."""

    def write(path: Path, pixels: np.ndarray, mpp: float | None = 0.5, levels: int = 1) -> Path:
        import tifffile

        options: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib"}
        path.parent.mkdir(parents=True, exist_ok=True)
        with tifffile.TiffWriter(path) as writer:
            for level in range(levels):
                if mpp is not None:
                    dots = 1e4 / (mpp * 2**level)
                    options |= {"resolution": (dots, dots), "resolutionunit": "CENTIMETER"}
                writer.write(
                    pixels[:: 2**level, :: 2**level], subfiletype=int(level > 0), **options
                )
        return path

    return write
