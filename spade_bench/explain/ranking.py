"""The highest and lowest patches over many slides, ranked without holding their layers."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import UserError
from spade_bench.explain.layers import CATEGORY, Layer
from spade_bench.explain.places import APART, highest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PARTS", "PatchRanking", "RankedPatch", "SlideLayer"]

PARTS = ("highest", "lowest")
_CHUNK = 1 << 20  # values that are looked at together


@dataclass(frozen=True)
class SlideLayer:
    """A layer of one slide by one encoder, and where its patches can be read.

    Attributes:
        path: File of the slide, or the folder that ``images`` lie in or below.
        layer: Values of the patches.
        encoder: Name of the encoder.
        images: The image of each patch, in the order of the layer, where they were cut before;
            their coordinates then play no part.
        mpp: Micrometres per pixel at level 0, or of the images; None: as the slide's file says.
        slide: Name of the slide; empty for that of its file or folder.
    """

    path: Path
    layer: Layer
    encoder: str
    images: tuple[Path, ...] = ()
    mpp: float | None = None
    slide: str = ""

    @property
    def slide_id(self) -> str:
        """Name of the slide; by default its file without suffix, or the folder of its images."""
        return self.slide or (self.path.name if self.images else self.path.stem)

    def part(self, rows: NDArray[np.int64]) -> SlideLayer:
        """Return some of its patches."""
        layer, images = self.layer, self.images
        coords = layer.coords[rows] if len(layer.coords) else layer.coords
        kept = tuple(images[row] for row in rows.tolist()) if images else ()
        return replace(
            self, layer=replace(layer, coords=coords, values=layer.values[rows]), images=kept
        )


@dataclass(frozen=True)
class RankedPatch:
    """A patch on a sheet.

    Attributes:
        part: `highest` or `lowest`.
        rank: 1 for the first of its part.
        score: Its value.
        source: Where it comes from.
        row: Its number in the layer.
        pixels: What it shows, (px, px, 3) uint8 RGB; empty until it is read.
        um: Its width in micrometres; None where the resolution is unknown.
    """

    part: str
    rank: int
    score: float
    source: SlideLayer
    row: int
    pixels: NDArray[np.uint8] | None = None
    um: float | None = None


@dataclass(frozen=True)
class _Candidate:
    """A patch that may be shown.

    Attributes:
        score: Its value.
        number: Its number among all values, slide after slide, by which equal ones are told.
        source: The candidates of its slide.
        row: Its number among these.
    """

    score: float
    number: int
    source: SlideLayer
    row: int


@dataclass
class PatchRanking:
    """Takes the slides of one encoder one after another and keeps the patches that may be shown.

    The highest are taken from the upper half of all values and the lowest from the lower half, so
    no patch is both, however few there are. Which half a patch belongs to is known at the end, so
    the values wait in a temporary file; of each slide at most twice ``top`` patches are held.

    Args:
        top: How many of each end.
        distance: Patches of a slide differ by at least this along x or y, in level-0 pixels; two
            patch sides by default. Images that were cut before have no place, and no distance.

    Raises:
        UserError: When no patch would be shown.
    """

    top: int
    distance: float | None = None
    _held: dict[str, list[_Candidate]] = field(default_factory=lambda: {p: [] for p in PARTS})
    _seen: int = 0
    _finite: int = 0

    def __post_init__(self) -> None:
        """Open the file of the values."""
        if self.top < 1:
            raise UserError(
                f"{self.top} patches cannot be shown", where="--top", fix="Give 1 or more"
            )
        self._values = tempfile.TemporaryFile(prefix="spade-bench-")  # noqa: SIM115 - see below
        weakref.finalize(self, self._values.close)

    @property
    def held(self) -> int:
        """How many patches are held."""
        return len({(id(one.source), one.row) for held in self._held.values() for one in held})

    def add(self, one: SlideLayer) -> None:
        """Take a slide.

        Raises:
            UserError: When its values have no order.
        """
        import numpy as np

        if one.layer.scale == CATEGORY:
            raise UserError(
                "Categories have no order", fix="Rank the patches by a layer of numbers"
            )
        values = np.asarray(one.layer.values, dtype=np.float64)  # (n,)
        self._values.write(values.tobytes())
        apart = APART * one.layer.side if self.distance is None else self.distance
        apart = 0.0 if one.images else apart
        rows = {part: highest(one.layer, self.top, apart, lowest=part == "lowest")
                for part in PARTS}  # fmt: skip
        kept = np.unique(np.concatenate(list(rows.values())))  # (k,), ascending
        source = one.part(kept)
        for part, mine in rows.items():
            places = np.searchsorted(kept, mine).tolist()
            found = [
                _Candidate(float(values[row]), self._seen + row, source, place)
                for row, place in zip(mine.tolist(), places, strict=True)
            ]
            sign = -1 if part == "highest" else 1
            both = sorted([*self._held[part], *found], key=lambda each: sign * each.score)
            self._held[part] = both[: self.top]  # sorted is stable: equal ones stay in order
        self._seen += len(values)
        self._finite += int(np.isfinite(values).sum())

    def ranked(self) -> list[RankedPatch]:
        """Return the highest from the first down, then the lowest from the first up.

        Raises:
            UserError: When no patch has a value.
        """
        if not self._finite:
            raise UserError("No patch has a value", fix="Give slides whose patches have scores")
        upper = -(-self._finite // 2)
        out = []
        for part in PARTS:
            held = self._held[part]
            above = self._above(held)
            mine = [
                one
                for one, before in zip(held, above, strict=True)
                if (before < upper) == (part == "highest")
            ]
            out += [
                RankedPatch(part, rank, one.score, one.source, one.row)
                for rank, one in enumerate(mine, 1)
            ]
        return out

    def _above(self, held: list[_Candidate]) -> list[int]:
        """How many values rank before each candidate: higher ones, and equal ones that came first.

        Args:
            held: The candidates.
        """
        import numpy as np

        scores = np.array([one.score for one in held])  # (k,)
        above = np.zeros(len(held), dtype=np.int64)
        for start, values in self._chunks():
            ordered = np.sort(values[np.isfinite(values)])  # (m,)
            above += len(ordered) - np.searchsorted(ordered, scores, side="right")
            equal = np.searchsorted(ordered, scores, "right") - np.searchsorted(ordered, scores)
            for at in np.flatnonzero(equal):
                before = values[: max(0, held[at].number - start)]
                above[at] += int((before == scores[at]).sum())
        return [int(count) for count in above]

    def _chunks(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """All values in turn, with the number of the first."""
        import numpy as np

        self._values.seek(0)
        start = 0
        while block := self._values.read(8 * _CHUNK):
            values = np.frombuffer(block)
            yield start, values
            start += len(values)
        self._values.seek(0, 2)
