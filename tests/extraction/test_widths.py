"""Files of different widths never lie in one folder of features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spade_bench.errors import DataError
from spade_bench.extraction import Settings, extract_slides
from spade_bench.extraction.feature_bags import encode_bags
from spade_bench.extraction.slide_vectors import encode_slides
from spade_bench.features.bags import find_bags, write_features
from spade_bench.features.slidevectors import write_slide_vector
from spade_bench.types import EncoderCard, Normalisation


class _Patches:
    def __init__(self, dim: int) -> None:
        half = Normalisation((0.5,) * 3, (0.5,) * 3)
        self.card = EncoderCard(
            "mine", "image", dim, "d", patch_px=32, mpp=0.5, normalisation=half, revision=str(dim)
        )

    def encode(self, images: Any) -> torch.Tensor:
        return torch.ones(len(images), self.card.dim or 0)


class _Features:
    def __init__(self, dim: int) -> None:
        self.card, self.dim = EncoderCard("mine", "features", dim, "d", upstream="any"), dim

    def encode(self, features: np.ndarray) -> np.ndarray:
        return np.ones((len(features), self.dim))


class _Slides(_Features):
    def encode_slide(self, features: np.ndarray, coords: Any, side: Any) -> np.ndarray:
        return np.ones(self.dim, np.float32)


def _extract(root: Path, dim: int, slides: str, out: Path) -> object:
    return extract_slides(root / slides, _Patches(dim), out, settings=Settings(workers=1)).failed


def _encode(root: Path, dim: int, slides: str, out: Path) -> object:
    return encode_bags(_Features(dim), root / f"features-{slides}", out, recipe={"dim": dim}).failed


def _vectors(root: Path, dim: int, slides: str, out: Path) -> object:
    return encode_slides(_Slides(dim), root / f"features-{slides}", out, recipe={"d": dim}).failed


@pytest.fixture
def root(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    """Slides a and b as `ab`, a alone as `a`: images and features."""
    rng = np.random.default_rng(0)
    section = 243 + rng.integers(-3, 4, (200, 300, 3))
    section[40:160, 60:260] = np.array([150, 80, 150]) + rng.integers(-9, 10, (120, 200, 1))
    pixels = section.astype(np.uint8)
    for folder in ("a", "ab"):
        for name in folder:
            write_slide(tmp_path / folder / f"{name}.tif", pixels)
            path = tmp_path / f"features-{folder}" / f"{name}.h5"
            write_features(path, np.ones((4, 5)), slide_id=name, encoder="x")
    return tmp_path


@pytest.mark.parametrize("make", [_extract, _encode, _vectors])
def test_another_width_is_refused_unless_it_replaces_all(
    make: Callable[[Path, int, str, Path], Any], root: Path
) -> None:
    out = root / "out"
    assert not make(root, 3, "ab", out)
    before = {path: path.read_bytes() for path in out.rglob("*.h5")}
    assert len(before) == 2
    with pytest.raises(DataError, match=r"'b\.h5' is 3 wide and stays; features 4 wide may not"):
        make(root, 4, "a", out)
    assert {path: path.read_bytes() for path in out.rglob("*.h5")} == before
    assert not make(root, 3, "a", out)  # the same width may join
    assert not make(root, 4, "ab", out)
    widths = {path: content for path, content in before.items() if path.read_bytes() == content}
    assert not widths


@pytest.mark.parametrize("shard", [(0, 2), (1, 2)])
def test_what_other_shards_replace_does_not_count(root: Path, shard: tuple[int, int]) -> None:
    out = root / "out"
    extract_slides(root / "ab", _Patches(3), out)
    done = extract_slides(root / "ab", _Patches(4), out, settings=Settings(shard=shard))
    assert len(done.done) == 1


def test_foreign_and_empty_files_are_looked_at_too(root: Path) -> None:
    out = root / "out"
    write_features(out / "features_mine" / "none.h5", np.ones((0, 9)), slide_id="z", encoder="mine")
    (out / "features_mine" / "torn.h5").write_bytes(b"torn")
    write_slide_vector(out / "slide_features_mine" / "v.h5", np.ones(9), slide_id="v", encoder="m")
    assert not _encode(root, 3, "a", out)
    (out / "features_mine" / "site").mkdir()
    np.save(out / "features_mine" / "site" / "far.npy", np.ones((2, 9), np.float32))
    with pytest.raises(DataError, match=r"'site/far\.npy' is 9 wide and stays"):
        _encode(root, 3, "ab", out)


def test_a_changed_source_is_said_and_a_torn_output_made_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = root / "out"
    _encode(root, 3, "ab", out)
    write_features(root / "features-ab" / "a.h5", np.zeros((4, 5)), slide_id="a", encoder="x")
    next(out.rglob("b.h5")).write_bytes(b"torn")
    capsys.readouterr()
    assert not _encode(root, 3, "ab", out)
    assert "1 source(s) have changed since they were encoded before: a\n" in capsys.readouterr().err
    assert list(find_bags(out, "mine")) == ["a", "b"]
    _encode(root, 3, "ab", out)
    assert "changed" not in capsys.readouterr().err
