"""Bags on disk: writes patch features in TRIDENT's layout, finds and reads everybody's.

Files are recognised by what they hold. A folder of them is walked once, and each file is looked at
once, however many encoders and tasks ask for its bags.

A features file holds `features` (N, D) and `coords` (N, 2); for spots also `barcode` (N,). The
features are one contiguous block, because a file chunked by rows takes tens of times longer to
read.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, name_some
from spade_bench.features.cache import KnownFiles
from spade_bench.features.formats import (
    HDF5,
    SUFFIXES,
    BagHeader,
    is_slide_vector,
    look,
    read_bag,
)
from spade_bench.features.identity import Identity, stored_identity
from spade_bench.features.lookalikes import OTHERS, say_not_taken, unlike, why_no_features
from spade_bench.features.packs import PACK_SUFFIX, is_pack, open_pack, split_path
from spade_bench.features.routinggroup import write_routing
from spade_bench.files import atomic_hdf5, file_name, hash_file

if TYPE_CHECKING:
    import numpy as np

    from spade_bench.features.casebags import Looks
    from spade_bench.types import Bag, Routing

__all__ = [
    "FeatureFolder",
    "FeatureFolders",
    "bag_dim",
    "bag_encoder",
    "feature_files",
    "features_folder",
    "find_bags",
    "placement",
    "read_bag",
    "same_encoder",
    "source_hash",
    "write_features",
]

_NAMES = tuple(SUFFIXES | OTHERS)  # how names end that look like features
_COORDS_ATTRS = frozenset(
    {
        "patch_size",
        "patch_size_level0",
        "level0_magnification",
        "target_magnification",
        "overlap",
        "level0_width",
        "level0_height",
        "bounds_x",
        "bounds_y",
    }
)
# Names under which other toolkits know encoders of this registry.
_ALIASES = {
    "uni_v1": "uni",
    "uni_v2": "uni2",
    "uni2h": "uni2",
    "conch_v1": "conch",
    "conchv15": "conch_v15",
    "hoptimus0": "h-optimus-0",
    "hoptimus1": "h-optimus-1",
    "phikonv2": "phikon_v2",
    "hibou_l": "hibou-l",
    "midnight12k": "midnight-cls",
    "lunit-vits8": "lunit-dino-s8-imagenet",
}


def features_folder(out: Path, encoder: str, mpp: float, patch_px: int, overlap: int = 0) -> Path:
    """The folder of an encoder's features: `{mag}x_{px}px_{ov}px_overlap/features_{encoder}`.

    Args:
        out: Folder of the whole extraction.
        encoder: Name of the encoder.
        mpp: Resolution of the patches, µm/px; magnification is taken as 10 / mpp.
        patch_px: Side of a patch in pixels.
        overlap: Overlap of neighbouring patches in pixels.
    """
    magnification = f"{round(10 / mpp, 2):g}"
    # `hf:owner/model` is one folder, on any system
    name = file_name(re.sub(r"[:/\\]+", "-", encoder))
    return out / f"{magnification}x_{patch_px}px_{overlap}px_overlap" / f"features_{name}"


def write_features(
    path: Path | str,
    features: np.ndarray,
    coords: np.ndarray | None = None,
    *,
    slide_id: str,
    encoder: str,
    barcodes: Sequence[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
    routing: Routing | None = None,
) -> Path:
    """Write one bag, atomically.

    Args:
        path: File to write, `.h5`.
        features: (N, D); stored as float32.
        coords: Level-0 pixel of each patch's top-left corner, (N, 2) as (x, y).
        slide_id: Name of the slide or sample.
        encoder: Encoder that made the features.
        barcodes: N spot barcodes.
        attrs: Further attributes (`mpp`, `patch_size_level0`, ...), each stored where TRIDENT
            keeps it. None is stored as the text `None`.
        routing: How the patches were sent to experts; stored in a group of its own.

    Raises:
        DataError: When the shapes do not fit together.
    """
    import numpy as np

    values = np.ascontiguousarray(features, dtype=np.float32)
    if values.ndim != 2:
        raise DataError(f"features of shape {values.shape} are not (N, D)", where=slide_id)
    experts = None if routing is None else routing.expert
    for name, other in (("coords", coords), ("barcodes", barcodes), ("experts", experts)):
        if other is not None and len(other) != len(values):
            raise DataError(f"{len(other)} {name} for {len(values)} features", where=slide_id)
    with atomic_hdf5(path) as file:
        stored = file.create_dataset("features", data=values)
        stored.attrs.update({"name": slide_id, "encoder": encoder})
        placed = stored
        if coords is not None:
            placed = file.create_dataset("coords", data=np.asarray(coords, dtype=np.int64))
            placed.attrs["name"] = slide_id
        if barcodes is not None:
            file.create_dataset("barcode", data=np.array([b.encode() for b in barcodes], dtype="S"))
        for key, value in (attrs or {}).items():
            target = placed if key in _COORDS_ATTRS else stored
            target.attrs[key] = "None" if value is None else value
        if routing is not None:
            write_routing(file, routing)
    return Path(path)


def placement(bag: Bag) -> dict[str, float]:
    """Return the attributes that say how a bag's pixels lie on its slide, where it knows them."""
    names: dict[str, float] = {}
    if any(bag.offset):
        names |= {"bounds_x": bag.offset[0], "bounds_y": bag.offset[1]}
    if bag.size is not None:
        names |= {"level0_width": bag.size[0], "level0_height": bag.size[1]}
    if bag.level0_mpp is not None:
        names["level0_mpp"] = bag.level0_mpp
    return names


def bag_dim(path: Path | str) -> int:
    """Width of the features in a file; 0 for a slide without patches.

    Raises:
        DataError: When the file holds no patch features.
    """
    return _header(Path(path)).dim


def source_hash(path: Path | str) -> str:
    """Hash of a feature file's content, or of a slide's features in a pack.

    Raises:
        DataError: When a pack lacks the slide.
    """
    packed = split_path(Path(path))
    return hash_file(path) if packed is None else open_pack(packed[0]).slide(packed[1]).digest


def bag_encoder(path: Path | str) -> str | None:
    """Encoder that a feature file, or the folder it lies in, names; None when neither does.

    Raises:
        DataError: When the file holds no patch features.
    """
    return _header(Path(path)).encoder


class FeatureFolder:
    """A folder of feature files, or a pack, as it was when it was first asked.

    Attributes:
        root: The folder, searched recursively; or a pack.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._files: tuple[list[Path], list[tuple[Path, str]]] | None = None
        self._known = KnownFiles()
        self._looks: dict[Path, list[BagHeader] | DataError] = {}
        self._strangers: dict[Path, str] = {}

    def bags(
        self, encoder: str | None = None, *, unreadable: list[DataError] | None = None
    ) -> dict[str, Path]:
        """Return the feature file of every slide; a slide of a pack is a path inside the pack.

        Coordinate files and hidden files are passed over, and so are slide vectors unless their
        encoder is named or nothing else is there. What looks like features and is not taken is
        said, with the reason.

        Args:
            encoder: Take this encoder's features only. A folder in which no file names an encoder
                is taken as it is.
            unreadable: When given, takes the error of each file that cannot be read, and the
                search goes on; otherwise one error names them: a damaged file is not taken for
                a missing one, because nobody knows whose features it holds.

        Returns:
            Slide id -> file, sorted by slide id.

        Raises:
            DataError: When the folder is missing or holds no features, holds several encoders'
                features and none was chosen, lacks those of ``encoder``, or has a slide twice.
        """
        headers = self._headers(unreadable)
        if not headers and unreadable:
            raise unreadable[0]
        if not headers:
            raise DataError(
                "no patch features found",
                where=str(self.root),
                fix="Make them with `spade-bench extract`",
            )
        by_slide: dict[str, list[BagHeader]] = defaultdict(list)
        for header in _choose(self.root, headers, encoder):
            by_slide[header.slide_id].append(header)
        return {slide: _only(self.root, slide, by_slide[slide]) for slide in sorted(by_slide)}

    def _headers(self, unreadable: list[DataError] | None) -> list[BagHeader]:
        if self._files is None:
            self._files = _candidates(self.root)
        candidates, strangers = self._files
        headers: list[BagHeader] = []
        damaged: list[DataError] = []
        for path in candidates:
            if path not in self._looks:
                self._looks[path] = self._look(path)
            looked = self._looks[path]
            if isinstance(looked, DataError):
                damaged.append(looked)
            else:
                headers += looked
        say_not_taken(self.root, [*strangers, *self._strangers.items()])
        if unreadable is not None:
            unreadable += damaged
        elif damaged:
            raise damaged[0] if candidates == [self.root] else _of_damaged(damaged)
        return headers

    def _look(self, path: Path) -> list[BagHeader] | DataError:
        """What a file holds: one bag, none, or the bags of a pack; or why it cannot be read."""
        try:
            headers = _headers_of(path, self._known)
            if not headers and (why := why_no_features(path)) is not None:
                self._strangers[path] = why
        except DataError as error:
            return error
        return headers


class FeatureFolders:
    """The features folders of a run, each listed once and each file looked at once.

    Attributes:
        looks: What was found in feature files that were read, for `scan_bags`.
    """

    def __init__(self) -> None:
        self.looks: Looks = {}
        self._folders: dict[Path, FeatureFolder] = {}
        self._identities: dict[Path, Identity | None] = {}

    def bags(self, root: Path, encoder: str | None = None) -> dict[str, Path]:
        """Return the feature file of every slide in a folder; see `FeatureFolder.bags`.

        Raises:
            DataError: When the folder holds no such features.
        """
        return self._folders.setdefault(root, FeatureFolder(root)).bags(encoder)

    def identity(self, path: Path) -> Identity | None:
        """Return what a feature file says of what made it, read once; see `stored_identity`."""
        if path not in self._identities:
            self._identities[path] = stored_identity(path)
        return self._identities[path]


def find_bags(
    folder: Path | str, encoder: str | None = None, *, unreadable: list[DataError] | None = None
) -> dict[str, Path]:
    """Find the feature file of every slide under a folder; see `FeatureFolder.bags`.

    Raises:
        DataError: When the folder holds no such features.
    """
    return FeatureFolder(folder).bags(encoder, unreadable=unreadable)


def feature_files(root: Path) -> list[Path]:
    """Return the files under a folder that may hold features, by their names; of a pack itself.

    Raises:
        DataError: When there is no such folder.
    """
    return _candidates(root)[0]


def _candidates(root: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The files that may hold features; and what looks like them and is not taken, with why."""
    if is_pack(root):
        return [root], []
    if root.is_file():
        raise DataError(
            "a file that is no whole pack: damaged, cut short, or something else",
            where=str(root),
            fix="Name the folder with the features, or pack it again with `spade-bench pack`",
        )
    if not root.is_dir():
        raise DataError("no such features folder, nor a pack", where=str(root))
    files: list[Path] = []
    strangers: list[tuple[Path, str]] = []
    for at, folders, names in os.walk(root):
        inside = []
        for path in (Path(at, name) for name in folders if not name.startswith(".")):
            why = unlike(path)
            if why is None:
                inside.append(path.name)
            else:
                strangers.append((path, why))  # what is in it is a part of it
        folders[:] = inside
        # Only names that look like features are asked for more: there may be millions of others.
        for path in (Path(at, name) for name in names if name.lower().endswith(_NAMES)):
            if path.name.startswith(".") or path.name.endswith(".coordinates.npz"):
                continue
            if path.suffix in SUFFIXES and path.is_file():
                files.append(path)
            elif (why := unlike(path)) is not None:
                strangers.append((path, why))
    return sorted(files), sorted(strangers)


def _headers_of(path: Path, known: KnownFiles) -> list[BagHeader]:
    if (info := known.get(path)) is not None and not info.problem:
        return [BagHeader(path, path.stem, info.n, info.dim, info.encoder)]
    if path.suffix == PACK_SUFFIX or is_pack(path):
        pack = open_pack(path)
        headers = [look(pack.slide_path(slide)) for slide in pack.slides]
    else:
        headers = [look(path)]
    return [header for header in headers if header is not None]


def _choose(root: Path, headers: Sequence[BagHeader], encoder: str | None) -> list[BagHeader]:
    vectors = [header for header in headers if is_slide_vector(header.path)]
    if encoder is not None and (named := [h for h in vectors if same_encoder(h.encoder, encoder)]):
        headers = named
    elif len(vectors) < len(headers):
        headers = [header for header in headers if not is_slide_vector(header.path)]
    names = {header.encoder for header in headers}
    if encoder is None:
        if len(names) > 1:
            raise DataError(
                f"features of several encoders: {_listed(names)}",
                where=str(root),
                fix="Name one of their folders",
            )
        return list(headers)
    wanted = [header for header in headers if same_encoder(header.encoder, encoder)]
    if wanted or names == {None}:
        return wanted or list(headers)
    raise DataError(
        f"no features of encoder '{encoder}', only of {_listed(names)}", where=str(root)
    )


def same_encoder(named: str | None, wanted: str) -> bool:
    """Whether a file's encoder is the wanted one, also under the name other toolkits give it."""
    if named is None:
        return False
    return _ALIASES.get(named, named) == _ALIASES.get(wanted, wanted)


def _of_damaged(errors: Sequence[DataError]) -> DataError:
    """One error for the files of a folder that cannot be read, and how to go on without them."""
    first, others = errors[0], [Path(error.where).name for error in errors[1:]]
    more = f"; {len(others)} more cannot be read: {name_some(others)}" if others else ""
    again = first.fix.rstrip(". ") or "Make it again"
    return DataError(
        f"{first.what}{more}",
        where=first.where,
        fix=f"{again}, or move it out of the folder; a run leaves slides without features out "
        "with --allow-missing",
    )


def _only(root: Path, slide: str, headers: list[BagHeader]) -> Path:
    if len({(h.n, h.dim) for h in headers}) == 1:
        # A pack beside the files it was made of yields to them: it may be rounded.
        headers = [h for h in headers if split_path(h.path) is None] or headers
    if len(headers) > 1:
        # CLAM writes every bag twice, as h5 with coordinates and as a bare tensor.
        rich = [header for header in headers if header.path.suffix in HDF5]
        if len(rich) != 1 or {(h.n, h.dim) for h in headers} != {(rich[0].n, rich[0].dim)}:
            places = ", ".join(str(header.path.relative_to(root)) for header in headers[:4])
            raise DataError(
                f"slide '{slide}' has {len(headers)} feature files ({places})",
                where=str(root),
                fix="Name the folder that is meant",
            )
        headers = rich
    return headers[0].path


def _listed(names: Iterable[str | None]) -> str:
    return ", ".join(sorted("unnamed" if name is None else name for name in names))


def _header(path: Path) -> BagHeader:
    packed = split_path(path) is not None
    if not packed and not path.is_file():
        raise DataError("no such feature file", where=str(path))
    header = look(path) if packed or path.suffix in SUFFIXES else None
    if header is None:
        raise DataError("holds no patch features", where=str(path))
    return header
