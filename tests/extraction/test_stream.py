"""Batches cross the borders of slides, and that changes no feature."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from spade_bench.errors import DataError
from spade_bench.extraction import EncoderSource, Settings
from spade_bench.extraction.engine import run_jobs
from spade_bench.extraction.stream import PatchReader, Stream
from spade_bench.features.bags import read_bag
from spade_bench.types import EncoderCard, LoadOptions, Normalisation

CARD = EncoderCard(
    "pixel", "image", 1, "first pixel", patch_px=4, mpp=0.5,
    normalisation=Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
)  # fmt: skip


class InOrder:
    """Jobs one after another, without a recipe."""

    def __init__(self, jobs: list[Any]) -> None:
        self._jobs = list(jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def take(self) -> Any:
        return (self._jobs.pop(0), {}) if self._jobs else None


class FirstPixel:
    """The first pixel of each patch; notes the sizes of its batches."""

    card = CARD
    lanes = 1

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        return torch.as_tensor(np.asarray(images))[:, 0, 0, :1].float()


@dataclass
class Numbers:
    """A slide whose patches are numbers."""

    slide_id: str
    numbers: np.ndarray
    bad_from: int | None = None  # reading fails from this patch on
    unopenable: bool = False
    keep: Callable[[np.ndarray], np.ndarray] | None = None
    events: list[str] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)
    began: threading.Event = field(default_factory=threading.Event)  # to be read

    def inputs(self) -> Mapping[str, Any]:
        return {"numbers": self.numbers.tolist()}

    def prepare(self, folder: Path) -> PatchReader:
        if self.unopenable:
            raise DataError("cannot be opened")
        self.opened.set()
        coords = np.stack([self.numbers, self.numbers], axis=1)

        def read(start: int, stop: int) -> np.ndarray:
            self.began.set()
            if "close" in self.events:
                self.events.append("read after close")
            if self.bad_from is not None and stop > self.bad_from:
                raise OSError("torn")
            part = self.numbers[start:stop, None, None, None].astype(np.uint8)
            return np.broadcast_to(part, (len(part), 4, 4, 3)).copy()

        return PatchReader(
            len(self.numbers), read, coords, keep=self.keep,
            close=lambda: self.events.append("close"),
        )  # fmt: skip


def _run(jobs: list[Numbers], encoder: Any, out: Path, **settings: Any) -> Any:
    return run_jobs(jobs, EncoderSource(encoder), Settings(**settings), out)


def _stored(folder: Path, name: str) -> np.ndarray:
    return read_bag(folder / f"{name}.h5").features[:, 0]


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    batch=st.integers(1, 40),
    workers=st.integers(1, 4),
    odd_only=st.booleans(),
)
def test_every_patch_comes_once_and_in_order(
    sizes: list[int], batch: int, workers: int, odd_only: bool
) -> None:
    keep = (lambda images: images[:, 0, 0, 0] % 2 == 1) if odd_only else None
    jobs = [Numbers(f"s{i}", np.arange(n) + i, keep=keep) for i, n in enumerate(sizes)]
    seen: dict[str, list[int]] = {job.slide_id: [] for job in jobs}
    complete, counts = [], []
    settings = Settings(batch_size=batch, workers=workers)
    with Stream(InOrder(jobs), Path(), settings) as stream:
        for got in stream:
            counts.append(0 if got.images is None else len(got.images))
            assert sum(n for _, n in got.pieces) == counts[-1]
            at = 0
            for slide, n in got.pieces:
                assert got.images is not None
                seen[slide.job.slide_id] += got.images[at : at + n, 0, 0, 0].tolist()
                at += n
            for slide in got.complete:
                name = slide.job.slide_id
                complete.append(name)
                rows = np.concatenate(slide.rows)
                assert seen[name] == (rows + int(name[1:])).tolist()  # nothing is still to come
    for i, n in enumerate(sizes):
        assert seen[f"s{i}"] == [v for v in range(i, i + n) if v % 2 or not odd_only]
    assert complete == [job.slide_id for job in jobs]
    assert all(count == batch for count in counts[:-1])  # full, whatever the slides' sizes
    assert all(job.events == ["close"] for job in jobs)


@pytest.mark.parametrize("lanes", [1, 2])
def test_batches_are_full_across_slides(tmp_path: Path, lanes: int) -> None:
    encoder = FirstPixel()
    encoder.lanes = lanes
    jobs = [Numbers(f"s{i}", np.arange(10 * i, 10 * i + 9)) for i in range(5)]
    done = _run(jobs, encoder, tmp_path, batch_size=7)
    assert sorted(encoder.sizes) == [3, 7, 7, 7, 7, 7, 7]
    for job in jobs:
        assert np.array_equal(_stored(done.folder, job.slide_id), job.numbers)
        assert job.events == ["close"]


def test_the_next_slide_is_read_before_the_last_is_encoded() -> None:
    jobs = [Numbers(name, np.arange(8)) for name in "abc"]

    def once_b_is_open(images: np.ndarray) -> np.ndarray:
        assert jobs[2].opened.wait(60)  # one thread opens them, in order
        return np.ones(len(images), bool)

    jobs[0].keep = once_b_is_open

    with Stream(InOrder(jobs), Path(), Settings(batch_size=4)) as stream:
        batches = iter(stream)
        assert [slide.job.slide_id for slide, _ in next(batches).pieces] == ["a"]
        assert jobs[1].began.wait(60), "the next slide waits for the last to be encoded"
        assert len(list(batches)) == 5


def test_bad_slides_leave_their_neighbours_alone(tmp_path: Path) -> None:
    jobs = [
        Numbers("a", np.arange(30)),
        Numbers("b", np.arange(100), bad_from=20),
        Numbers("c", np.arange(50, 90)),
        Numbers("d", np.arange(5), unopenable=True),
        Numbers("e", np.arange(0)),
        Numbers("f", np.arange(3), keep=lambda images: np.zeros(len(images), bool)),
        Numbers("g", np.arange(7)),
    ]
    done = _run(jobs, FirstPixel(), tmp_path, batch_size=16, workers=3)
    assert done.done == {"a": 30, "c": 40, "g": 7}
    assert done.failed["b"] == "b: OSError: torn"
    assert "cannot be opened" in done.failed["d"]
    assert "no patches" in done.failed["e"]
    assert "none of 3 patches is sharp" in done.failed["f"]
    for job in jobs:
        assert job.events == ([] if job.unopenable else ["close"])
        if job.slide_id in done.done:
            assert np.array_equal(_stored(done.folder, job.slide_id), job.numbers)
    assert len(list(done.folder.glob("*.h5"))) == 3


def test_dropped_patches_have_no_row(tmp_path: Path) -> None:
    job = Numbers("a", np.arange(40), keep=lambda images: images[:, 0, 0, 0] % 3 == 0)
    done = _run([job], FirstPixel(), tmp_path, batch_size=6)
    bag = read_bag(done.folder / "a.h5")
    assert np.array_equal(bag.features[:, 0], np.arange(0, 40, 3))
    assert bag.coords is not None
    assert np.array_equal(bag.coords[:, 0], np.arange(0, 40, 3))


def test_a_bug_stops_the_run_and_closes_the_slides(tmp_path: Path) -> None:
    class Broken(FirstPixel):
        def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
            raise RuntimeError("bug")

    jobs = [Numbers(f"s{i}", np.arange(20)) for i in range(5)]
    with pytest.raises(RuntimeError, match="bug"):
        _run(jobs, Broken(), tmp_path, batch_size=8)
    assert all(job.events in ([], ["close"]) for job in jobs)
    assert all(job.events == ["close"] for job in jobs if job.began.is_set())


def test_real_features_equal_the_loop_over_slides(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    """Bit for bit on CPU, against opening, reading and encoding one slide after another."""
    from spade_bench.encoders.efficientnet_lite import load_random
    from spade_bench.extraction import extract_slides
    from spade_bench.slides.grid import make_grid
    from spade_bench.slides.opening import open_slide
    from spade_bench.slides.tissue import find_tissue

    encoder = load_random(LoadOptions(device="cpu"))
    wanted = {}
    for k, (height, width, mpp) in enumerate([(500, 700, 0.5), (900, 1000, 0.25), (450, 470, 0.6)]):
        rng = np.random.default_rng(k)
        pixels = np.array([170, 90, 150]) + rng.integers(-40, 41, (height, width, 3))
        path = write_slide(tmp_path / "s" / f"s{k}.tif", pixels.astype(np.uint8), mpp=mpp)
        with open_slide(path) as slide:
            mask = find_tissue(slide).mask
            grid = make_grid(slide.width, slide.height, slide.side(224, 0.5), mask)
            images = [slide.read(x, y, grid.side, 224) for x, y in grid.coords]
        wanted[f"s{k}"] = encoder.encode(np.stack(images)).numpy()
    done = extract_slides(tmp_path / "s", encoder, tmp_path / "o", settings=Settings(batch_size=5))
    assert done.done == {name: len(features) for name, features in wanted.items()}
    for name, features in wanted.items():
        assert np.array_equal(read_bag(done.folder / f"{name}.h5").features, features)
