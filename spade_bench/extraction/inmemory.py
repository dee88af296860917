"""Extraction and encoding as Python asks for them: one slide in memory, or a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from spade_bench.console import warn
from spade_bench.errors import ConfigError, DataError, UserError
from spade_bench.extraction.engine import run_jobs
from spade_bench.extraction.feature_bags import encode_bags, routes_of
from spade_bench.extraction.jobs import SlideJob
from spade_bench.extraction.outputs import checked_encode
from spade_bench.extraction.slide_vectors import encode_slides
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.features.identity import identity_of, read_identity, with_base
from spade_bench.features.slidevectors import check_patches
from spade_bench.types import Bag

if TYPE_CHECKING:
    from anndata import AnnData

    from spade_bench.extraction.folders import EncodedFolder
    from spade_bench.extraction.recipe import EncoderSource, Settings
    from spade_bench.extraction.sharing import Sharing
    from spade_bench.types import EncoderCard, FeatureEncoder, SlideEncoder

__all__ = ["check_takes_features", "encode_anndata", "encode_bag", "encode_folder", "extract_bag"]


def extract_bag(slides: Sequence[Path], source: EncoderSource, settings: Settings) -> Bag:
    """Extract the features of one slide.

    Args:
        slides: A list that holds the slide alone.
        source: The patch encoder.
        settings: How to extract; no preview is drawn.

    Raises:
        UserError: When it is not one slide.
        DataError: When it cannot be read, or has no tissue.
    """
    from spade_bench.slides.opening import find_slides

    if len(slides) != 1 or slides[0].is_dir():
        raise UserError("several slides do not fit into one bag", fix="Give out=FOLDER")
    ((name, path),) = find_slides(slides[0]).items()
    chosen = replace(settings, preview=False)
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as folder:
        done = run_jobs([SlideJob(name, path, source, chosen)], source, chosen, Path(folder))
        if done.failed:
            raise DataError(done.failed[name])
        return read_bag(find_bags(done.folder)[name])


def encode_bag(
    bag: Bag, encoder: FeatureEncoder | SlideEncoder, *, with_routing: bool = False
) -> Bag:
    """Send one bag through an encoder of features or a slide encoder.

    Args:
        bag: Features (n, D) of the encoder that it takes.
        encoder: The encoder.
        with_routing: Also say to which experts each patch was sent, as the bag's `routing`.

    Returns:
        The bag with features (n, dim) and the same positions; of a slide encoder (1, dim) without
        positions.

    Raises:
        ConfigError: When routing is asked of an encoder that has no experts.
        DataError: When the features are of another encoder, of another width, or not finite.
    """
    import numpy as np

    card = encoder.card
    route = routes_of(encoder) if with_routing else None
    features = np.array(bag.features, dtype=np.float32)  # (n, D), a copy torch may write to
    if features.ndim != 2 or not np.isfinite(features).all():
        raise DataError("features are not (n, D) finite numbers", where=bag.slide_id)
    unstated = check_patches(card, bag, None)
    made_by = with_base(identity_of(encoder), read_identity(bag.identity)).to_json()
    if card.level == "slide":
        for what in unstated if bag.encoder is not None else ():
            warn(f"{bag.slide_id}: the bag does not say {what}; not checked")
        vector = encoder.encode_slide(  # type: ignore[union-attr]
            features, bag.coords, bag.patch_size_level0
        )  # (dim,)
        single = np.asarray(vector, dtype=np.float32)[None]  # (1, dim)
        return Bag(bag.slide_id, single, mpp=bag.mpp, encoder=card.name, identity=made_by)
    encoded = checked_encode(encoder)(features)  # (n, dim)
    routing = None if route is None else route(features)
    return replace(bag, features=encoded, encoder=card.name, identity=made_by, routing=routing)


def encode_anndata(
    data: AnnData, encoder: FeatureEncoder | SlideEncoder, *, with_routing: bool = False
) -> AnnData:
    """Send the patches of one slide through an encoder; rows of patches keep what `obs` says.

    Raises:
        ConfigError: As `encode_bag`.
        DataError: As `encode_bag`.
    """
    bag = encode_bag(Bag.from_anndata(data), encoder, with_routing=with_routing)
    encoded = bag.to_anndata()
    if encoded.n_obs == data.n_obs and encoder.card.level != "slide":
        routed = encoded.obs.drop(columns=["slide_id", "barcode"], errors="ignore")
        encoded.obs = data.obs.copy()
        for name, values in routed.items():
            encoded.obs[name] = values.array
        for key, values in data.obsm.items():
            encoded.obsm[key] = values
    return encoded


def encode_folder(
    features: Path,
    encoder: FeatureEncoder | SlideEncoder,
    out: Path,
    *,
    with_routing: bool = False,
    sharing: Sharing | None = None,
) -> EncodedFolder:
    """Send every bag of a folder through an encoder of features or a slide encoder.

    Args:
        features: The folder.
        encoder: The encoder.
        out: Folder to write.
        with_routing: Also store to which experts patches are sent.
        sharing: How the bags are shared with other processes.

    Raises:
        ConfigError: When routing is asked of an encoder that has no experts.
        DataError: When the folder holds no features of the encoder that it takes.
    """
    if encoder.card.level == "slide":
        if with_routing:
            routes_of(encoder)
        return encode_slides(cast("SlideEncoder", encoder), features, out, sharing=sharing)
    return encode_bags(
        cast("FeatureEncoder", encoder), features, out, with_routing=with_routing, sharing=sharing
    )


def check_takes_features(card: EncoderCard) -> None:
    """Refuse an encoder of images.

    Raises:
        ConfigError: Naming the command for it.
    """
    if card.input != "features":
        raise ConfigError(
            f"'{card.name}' encodes images, not features",
            where="--encoder",
            fix="Use `spade-bench extract` for it",
        )
