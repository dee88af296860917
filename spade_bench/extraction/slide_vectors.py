"""Run a slide encoder over a folder of bags: patch features in, one vector per slide out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.errors import DataError
from spade_bench.extraction.folders import EncodedFolder, over_bags
from spade_bench.features.bags import read_bag
from spade_bench.features.slidevectors import (
    check_patches,
    patch_px,
    slide_vector_path,
    write_slide_vector,
)

if TYPE_CHECKING:
    import numpy as np

    from spade_bench.extraction.sharing import Sharing
    from spade_bench.types import Bag, SlideEncoder

__all__ = ["encode_slides", "vector_maker"]


def vector_maker(
    encoder: SlideEncoder, *, any_base: bool = False
) -> Callable[[Path], tuple[Bag, np.ndarray]]:
    """Return a function that reads one bag, checks its patches and encodes it.

    What the files do not say of themselves is warned of once.

    Args:
        encoder: The slide encoder.
        any_base: Whether features of another encoder than its own base are taken.
    """
    card = replace(encoder.card, upstream="any") if any_base else encoder.card
    warned: set[str] = set()

    def make(path: Path) -> tuple[Bag, np.ndarray]:
        import numpy as np

        bag = read_bag(path)
        for unstated in check_patches(card, bag, patch_px(path)):
            if unstated not in warned:
                warned.add(unstated)
                console.warn(f"{bag.slide_id}: the file does not say {unstated}; not checked")
        if not bag.features.size:
            raise DataError("no patches", where=bag.slide_id)
        features = np.array(bag.features, dtype=np.float32)  # (n, D); a copy torch may write to
        if not np.isfinite(features).all():
            raise DataError("features hold NaN or infinite values", where=bag.slide_id)
        vector = encoder.encode_slide(features, bag.coords, bag.patch_size_level0)  # (dim,)
        return bag, vector

    return make


def encode_slides(
    encoder: SlideEncoder,
    features: Path,
    out: Path,
    *,
    recipe: Mapping[str, Any] | None = None,
    sharing: Sharing | None = None,
) -> EncodedFolder:
    """Encode every bag under a folder into `OUT/slide_features_{encoder}/{slide}.h5`.

    A file is left alone when what made it (`identity`) and the content of its source are unchanged;
    a bad bag is reported and the rest go on.

    Args:
        encoder: The slide encoder; its card's `upstream` names the features it takes.
        features: Folder of patch features, searched recursively.
        out: Folder to write.
        recipe: What is recorded of the encoder in words; None for what can be told from it.
        sharing: How the bags are shared with other processes.

    Raises:
        DataError: When the folder holds no features of the upstream encoder.
    """
    name = encoder.card.name
    make = vector_maker(encoder)

    def write(source: Path, target: Path, attrs: dict[str, Any]) -> None:
        bag, vector = make(source)
        write_slide_vector(
            target,
            vector,
            slide_id=target.stem,
            encoder=name,
            coords=bag.coords,
            attrs={**attrs, "upstream": bag.encoder, "patches": len(bag.features)},
        )

    return over_bags(
        encoder,
        features,
        unit="slides",
        recipe=recipe,
        target_of=lambda slide_id, _: slide_vector_path(out, name, slide_id),
        write=write,
        sharing=sharing,
    )
