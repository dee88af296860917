"""The feature files of cases: read where they read fastest, and held to what they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.features.bagmemory import BagMemory
from spade_bench.features.cache import KnownFiles, discard, signature
from spade_bench.features.encodedbags import EncodedBags
from spade_bench.features.formats import read_bag
from spade_bench.features.packs import Pack, open_pack, split_path
from spade_bench.files import hash_array, hash_obj

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BagFiles"]


class BagFiles:
    """The files of cases.

    Args:
        cases: For each case the files of its slides.
        cache: One of `CACHE_MODES`; all but `off` read copies that are there.
        known: Digest and number of patches of files that have been looked at.

    Attributes:
        cases: The same.
        names: What the bag of each case holds, in a word that can be compared.
        lengths: Number of patches of each case; None where it is not known of all.
    """

    def __init__(
        self,
        cases: Sequence[Sequence[Path]],
        cache: str = "digests",
        known: Mapping[Path, tuple[str, int]] | None = None,
    ) -> None:
        self.cases = cases
        self._cache = cache
        files = None if cache == "off" else KnownFiles()
        looked = known or {}
        self._sources = [
            [_Source.of(path, files, looked.get(path)) for path in paths] for paths in cases
        ]
        self.names: list[Hashable] = [
            tuple(one.digest or str(one.path) for one in sources) for sources in self._sources
        ]
        self.lengths: list[int] | None = [
            sum(one.n for one in sources) for sources in self._sources
        ]
        if not all(one.n for sources in self._sources for one in sources):
            self.lengths = None

    def read(self, index: int, memory: BagMemory) -> NDArray[np.floating]:
        """Read the bag of a case, (n, dim).

        Args:
            index: Position of the case.
            memory: Told of maps.
        """
        import numpy as np

        sources = self._sources[index]
        parts = []
        for source in sources:
            features, let_go = source.read()
            if let_go is not None:
                memory.map(source.path, features.nbytes, let_go)
            parts.append(features)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def kept(
        self,
        make: Callable[[int], NDArray[np.floating]],
        made_by: str,
        dim: int,
        whole_files: bool = False,
    ) -> Callable[[int], NDArray[np.floating]]:
        """Keep what is made of the bags of cases on the disk.

        Args:
            make: Makes it, (n, dim).
            made_by: Digest of all that determines it, beside the bag.
            dim: Its width.
            whole_files: Whether coordinates and the like count, and not the features alone.

        Returns:
            ``make``, which makes only what is not there.
        """
        paths = [path for paths in self.cases for path in paths]
        stores: list[EncodedBags | None] = []

        def load(index: int) -> NDArray[np.floating]:
            sources = self._sources[index]
            if not stores:  # nothing is written before something is made
                stores.append(EncodedBags.of(paths, made_by, self._cache))
            if stores[0] is None or not all(one.digest for one in sources):
                return make(index)
            parts = [one.whole() if whole_files else one.digest for one in sources]
            name = hash_obj(parts)
            found = stores[0].read(name, dim)
            if found is None:
                found = make(index)
                stores[0].write(name, found)
            return found

        return load


@dataclass
class _Source:
    """Where the features of a slide are read.

    Attributes:
        path: The user's file, or a bag in a pack.
        digest: Hash of its features when it was first read; empty when that is not known.
        n: Its patches; 0 when that is not known.
        copy: A fast copy, a pack and the name in it, or None. The pack stays open: its sound bags
            are read even when a damaged one has it removed.
        sound: Whether the file was held against its digest.
    """

    path: Path
    digest: str = ""
    n: int = 0
    copy: tuple[Pack, str] | None = None
    sound: bool = False

    @classmethod
    def of(cls, path: Path, files: KnownFiles | None, looked: tuple[str, int] | None) -> _Source:
        """Say what is known of a file, from a look at it or from the caches.

        Args:
            path: The file.
            files: The caches; None where they are off.
            looked: Digest and number of patches, where the file has been looked at.
        """
        source = cls(path, *(looked or ("", 0)))
        packed = split_path(path)
        if packed is not None:
            slide = open_pack(packed[0]).slide(packed[1])
            source.digest, source.n = slide.digest, slide.stop - slide.start
        elif files is not None:
            earlier, fastest = files.get(path), files.fastest(path)
            if earlier is not None:
                source.digest, source.n = earlier.digest, earlier.n
            copy = None if fastest == path else split_path(fastest)
            if copy is not None:
                with contextlib.suppress(DataError):  # another process has just removed it
                    source.copy = open_pack(copy[0]), copy[1]
        return source

    def whole(self) -> list[Any]:
        """Say what the whole file is, without reading it: coordinates and patch size count."""
        packed = split_path(self.path)
        if packed is None:
            return [self.digest, signature(self.path)]
        slide = open_pack(packed[0]).slide(packed[1])
        return [self.digest, slide.coords_digest, slide.patch_size_level0, slide.mpp, slide.encoder]

    def read(self) -> tuple[NDArray[np.floating], Callable[[], None] | None]:
        """Features (n, dim); of a pack a view of the map, and what lets its pages go.

        Raises:
            DataError: When the file cannot be read, or does not hold what it held before.
        """
        if self.copy is not None:
            try:
                return _mapped(*self.copy)
            except DataError:
                discard(self.copy[0], self.path)
                self.copy = None
        if (packed := split_path(self.path)) is not None:
            return _mapped(open_pack(packed[0]), packed[1])
        features = read_bag(self.path).features
        if self.digest and not self.sound and hash_array(features) != self.digest:
            raise DataError(
                "holds other numbers than when it was first read: it is damaged, or was replaced "
                "a moment ago",
                where=str(self.path),
                fix="Restore it, or `touch` it to take it as it is, and repeat the command",
            )
        self.sound = True
        return features, None


def _mapped(pack: Pack, slide_id: str) -> tuple[NDArray[np.floating], Callable[[], None]]:
    return pack.features(slide_id), partial(pack.let_go, slide_id)
