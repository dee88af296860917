"""What a feature file says of what made it, those from before there were identities too."""

from __future__ import annotations

from pathlib import Path

from spade_bench.features.bags import bag_encoder
from spade_bench.features.formats import HDF5, opened
from spade_bench.features.identity import stored_identity
from spade_bench.features.packs import split_path
from spade_bench.files import hash_obj, parse_json

__all__ = ["FROM_RECIPE", "maker_in"]

FROM_RECIPE = "recipe:"
"""Begins a hash of what older files say, which is less and compared among them only."""

_OF_THE_ENCODER = (
    *("source", "revision", "patch_px", "interpolation", "crop_pct", "precision"),
    *("seed", "options", "weights", "mpp", "overlap"),
)
"""What of the recipe of a feature file holds for every slide of an extraction."""


def maker_in(path: Path) -> tuple[str, str]:
    """Encoder of a feature file, and a hash of what it says of weights and options.

    Files say it in `identity`; older ones in `recipe`, beside what is the slide's own, or, where
    `encode` wrote them, in attributes `recipe_*`.
    """
    encoder = bag_encoder(path) or ""
    identity = stored_identity(path)
    if identity is not None:
        return encoder, identity.digest
    if path.suffix not in HDF5 or split_path(path) is not None:
        return encoder, ""
    with opened(path) as file:
        attrs = dict(file["features"].attrs) if "features" in file else {}
    said = {
        key: str(value)
        for key, value in attrs.items()
        if key.startswith("recipe_") and key != "recipe_hash"  # that one is of the slide too
    }
    recipe = str(attrs.get("recipe", ""))
    if recipe.startswith("{"):
        content = parse_json(recipe, str(path))
        said |= {key: content[key] for key in _OF_THE_ENCODER if key in content}
    return encoder, f"{FROM_RECIPE}{hash_obj(said)}" if said else ""
