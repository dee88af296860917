"""Packs a folder of features: every slide checked, then written behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.console import say, track, warn
from spade_bench.errors import DataError, UserError
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.features.casebags import BagInfo, scan_bags
from spade_bench.features.packs import PACK_SUFFIX, is_pack, open_pack
from spade_bench.features.packwriter import PackWriter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PackedFolder", "pack_features", "pack_file"]


@dataclass(frozen=True)
class PackedFolder:
    """What was packed.

    Attributes:
        path: The pack.
        slides: Slides in it.
        rows: Patches in it.
        dim: Width of the features.
        dtype: `float16` or `float32`.
        nbytes: Size of the file.
        content: Hash of what it holds.
        left_out: Slide id -> why it is not in it.
        rounding: Largest change of a value by float16, relative to the largest value of its slide.
    """

    path: Path
    slides: int
    rows: int
    dim: int
    dtype: str
    nbytes: int
    content: str
    left_out: Mapping[str, str]
    rounding: float


def pack_file(out: Path, features: Path) -> Path:
    """The file to write: ``out`` itself, or one named after the features in the folder ``out``.

    Raises:
        DataError: When the pack would lie among the features it holds, where both would be found.
    """
    file = out / f"{features.stem or features.resolve().stem}{PACK_SUFFIX}" if out.is_dir() else out
    folder = features.resolve()
    if folder.is_dir() and folder in file.resolve().parents:
        raise DataError(
            "the pack would lie among the features it holds, and every slide be found twice",
            where=str(file),
            fix="Write it to another folder",
        )
    if file.exists() and not is_pack(file):
        raise DataError(
            "there is another file of this name", where=str(file), fix="Choose another --out"
        )
    return file


def pack_features(
    features: Path,
    out: Path,
    *,
    dtype: str = "float16",
    encoder: str | None = None,
    allow_missing: bool = False,
) -> PackedFolder:
    """Write the features under a folder as one pack.

    Args:
        features: Folder of features, whoever wrote them; or another pack.
        out: File to write, or a folder to write it into.
        dtype: `float16`, which halves float32 files and rounds them; or `float32`.
        encoder: Take this encoder's features only.
        allow_missing: Leave out slides that cannot be used; otherwise nothing is written.

    Raises:
        DataError: When there are no features, some cannot be used, or values overflow float16.
    """
    file = pack_file(out, features)
    broken: list[DataError] = []
    files = find_bags(features, encoder, unreadable=broken)
    infos = scan_bags(files, "Checking features", whole=True)
    left_out = {Path(error.where).stem: error.clause for error in broken}
    left_out |= {slide: info.problem for slide, info in infos.items() if info.problem}
    usable = {slide: info for slide, info in infos.items() if not info.problem}
    for slide, problem in left_out.items():
        warn(f"{slide}: {problem}")
    if not usable or (left_out and not allow_missing):
        raise DataError(
            f"{len(left_out)} of {len(left_out) + len(usable)} slides cannot be packed",
            where=str(features),
            fix="Mend them, or leave them out with --allow-missing",
        )
    _say_changed(file, usable)
    rounding = _write(file, usable, dtype)
    pack = open_pack(file)
    return PackedFolder(file, len(pack.slides), len(pack.rows), pack.dim, dtype,
                        file.stat().st_size, pack.content, left_out, rounding)  # fmt: skip


def _say_changed(file: Path, usable: Mapping[str, BagInfo]) -> None:
    """Say which slides hold other numbers than those that an older pack of this name came from."""
    try:
        old = open_pack(file).slides if file.exists() else {}
    except DataError:  # damaged: it is written anew
        return
    pairs = [(slide, old[slide].source, info) for slide, info in usable.items() if slide in old]
    changed = [slide for slide, source, info in pairs if source not in (None, info.digest)]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        say(f"{len(changed)} slide(s) hold other numbers than when they were packed before: "
            f"{', '.join(changed[:5])}{more}")  # fmt: skip


def _write(file: Path, usable: Mapping[str, BagInfo], dtype: str) -> float:
    writer = PackWriter(file, next(iter(usable.values())).dim, dtype)
    rounding = 0.0
    try:
        for info in track(usable.values(), "Packing", len(usable), "slides"):
            bag = read_bag(info.path)
            writer.add(bag, source=info.digest)
            if dtype == "float16":
                rounding = max(rounding, _rounding(bag.features))
        writer.finish()
    except OSError as error:
        raise UserError(f"cannot be written ({error})", where=str(file)) from error
    finally:
        writer.abandon()
    return rounding


def _rounding(features: NDArray[np.floating]) -> float:
    """Largest change of a value by float16, relative to the largest value, (n, dim) -> scalar."""
    import numpy as np

    if features.dtype == np.float16:
        return 0.0
    largest = float(np.abs(features).max())
    change = float(np.abs(features.astype(np.float16) - features).max())
    return change / largest if largest else 0.0
