"""Run an encoder of features over a folder of bags: base features in, new features out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import ConfigError
from spade_bench.extraction.folders import EncodedFolder, over_bags
from spade_bench.extraction.outputs import checked_encode
from spade_bench.features.bags import placement, read_bag, write_features
from spade_bench.features.formats import HDF5, look, opened
from spade_bench.features.routinggroup import GROUP, has_routing

if TYPE_CHECKING:
    from spade_bench.extraction.sharing import Sharing
    from spade_bench.types import Bag, FeatureEncoder, Routing

__all__ = ["encode_bags", "routes_of"]

# Not carried: names of what made the source, and the unit of its coordinates, which are pixels now.
_OWN = ("name", "encoder", "extractor", "recipe", "recipe_hash", "identity", "source_hash", "unit",
        "tile_size", "tile_size_um", "tile_size_px")  # fmt: skip


def encode_bags(
    encoder: FeatureEncoder,
    features: Path,
    out: Path,
    *,
    recipe: Mapping[str, Any] | None = None,
    with_routing: bool = False,
    sharing: Sharing | None = None,
) -> EncodedFolder:
    """Encode every bag under a folder and write the same layout under `features_{encoder}`.

    Coordinates, barcodes and attributes are carried through. A file is left alone when what made it
    (`identity`) and the content of its source are unchanged; a bad file is reported and the rest go
    on.

    Args:
        encoder: The encoder; its card's `upstream` names the features it takes, `any` or an empty
            name takes all.
        features: Folder of base features, searched recursively.
        out: Folder to write.
        recipe: What is recorded of the encoder in words; None for what can be told from it.
        with_routing: Also store to which experts each patch was sent. Files without it are then
            made again; files with it stay when it is not asked for.
        sharing: How the bags are shared with other processes.

    Raises:
        ConfigError: When routing is asked of an encoder that has no experts.
        DataError: When the folder holds no features of the upstream encoder.
    """
    name = encoder.card.name
    route = routes_of(encoder) if with_routing else None

    def write(source: Path, target: Path, attrs: dict[str, Any]) -> None:
        _encode_one(encoder, source, target, attrs, route)

    return over_bags(
        encoder,
        features,
        unit="bags",
        recipe=recipe,
        target_of=lambda slide_id, source: _target(features, source, out, name),
        write=write,
        lacks=None if route is None else _lacks_routing,
        sharing=sharing,
    )


def routes_of(encoder: Any) -> Callable[[Any], Routing]:
    """Return the function of an encoder that says to which experts patches are sent.

    An encoder with experts offers it as its method `route`: (n, D) features in, `Routing` out.

    Raises:
        ConfigError: When it has no experts.
    """
    route: Callable[[Any], Routing] | None = getattr(encoder, "route", None)
    if route is None or encoder.card.level == "slide":
        raise ConfigError(
            f"'{encoder.card.name}' sends patches to no experts: it has no routing to store",
            where="--with-routing",
            fix="Leave it out, or name a mixture of experts such as spade",
        )
    return route


def _lacks_routing(path: Path) -> str:
    header = look(path)
    empty = header is not None and not header.n  # a slide without patches has nothing to route
    return "" if empty or has_routing(path) else "no routing was stored"


def _encode_one(
    encoder: FeatureEncoder,
    source: Path,
    target: Path,
    attrs: dict[str, Any],
    route: Callable[[Any], Routing] | None,
) -> None:
    import numpy as np

    bag = read_bag(source)
    if bag.features.shape[0]:
        encoded = checked_encode(encoder)(bag.features)  # (n, dim)
    else:
        encoded = np.empty((0, encoder.dim), dtype=np.float32)
    routing = route(bag.features) if route is not None and len(bag.features) else None
    write_features(
        target,
        encoded,
        bag.coords,
        slide_id=bag.slide_id,
        encoder=encoder.card.name,
        barcodes=bag.barcodes,
        attrs={**_carried(source, bag), **attrs, "upstream": bag.encoder},
        routing=routing,
    )


def _target(root: Path, source: Path, out: Path, encoder: str) -> Path:
    """Return where a bag goes: its own layout with the encoder's folder in place of the old one."""
    above = root.resolve().parts
    parts = [*above, *source.relative_to(root).parent.parts]
    named = [i for i, part in enumerate(parts) if part.startswith("features_")]
    if not named or named[-1] < len(above) - 1:
        return out.joinpath(f"features_{encoder}", *parts[len(above) :], f"{source.stem}.h5")
    parts[named[-1]] = f"features_{encoder}"
    first = min(len(above), named[-1])
    if first and parts[first - 1].endswith("_overlap"):
        first -= 1  # this folder says magnification and patch size: it belongs to the layout
    return out.joinpath(*parts[first:], f"{source.stem}.h5")


def _carried(source: Path, bag: Bag) -> dict[str, Any]:
    """Return the source's attributes, and what the bag says where the source has none."""
    attrs: dict[str, Any] = {}
    if source.suffix in HDF5:
        import h5py

        with opened(source) as file:
            for name in file:
                if name != GROUP and isinstance(file.get(name, getlink=True), h5py.HardLink):
                    attrs |= dict(file[name].attrs)
    for attribute in _OWN:
        attrs.pop(attribute, None)
    known = {"mpp": bag.mpp, "patch_size_level0": bag.patch_size_level0, **placement(bag)}
    return {key: value for key, value in known.items() if value is not None} | attrs
