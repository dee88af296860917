"""Third stage: a feature file with barcodes for every sample, extracted or the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.encoders.spade.pretraining.prepare.gather import Record
from spade_bench.errors import DataError
from spade_bench.features.bags import bag_encoder, find_bags, same_encoder
from spade_bench.features.identity import identity_of
from spade_bench.files import hash_obj
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

if TYPE_CHECKING:
    from spade_bench.extraction import EncoderSource
    from spade_bench.spatial import StSample

__all__ = ["BaseEncoder", "collect_features"]


@dataclass(frozen=True)
class BaseEncoder:
    """The base encoder and how it is to be run.

    Attributes:
        name: Registry name; an unregistered name is fine where all features are precomputed.
        weights: Its weights, where they are not fetched from the card's source.
        device: `auto`, `cpu` or `cuda[:n]`.
        batch_size: Patches a batch.
        workers: Readers; 0 picks by machine.
        patch_px: Side of a spot's patch in pixels.
        mpp: Resolution of a spot's patch in µm/px.
        options: Further options of the encoder.
    """

    name: str
    weights: Path | None = None
    device: str = "auto"
    batch_size: int = 64
    workers: int = 0
    patch_px: int = 224
    mpp: float = 0.5
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def load_options(self) -> LoadOptions:
        """How it is loaded."""
        return LoadOptions(weights=self.weights, device=self.device, options=self.options)

    @property
    def revision(self) -> str:
        """Commit of its weights on the hub, their hash, or their version.

        Empty for an encoder that is not registered.
        """
        if self.name not in encoders:
            return ""
        made_by = identity_of(self.name, self.load_options)
        commit = made_by.source.rpartition("@")[2] if "@" in made_by.source else ""
        own = hash_obj(made_by.weights) if self.weights is not None and made_by.weights else ""
        return commit or own or made_by.revision

    def source(self) -> EncoderSource:
        """The encoder as features are extracted with it; it is loaded when it is needed.

        Raises:
            PluginError: When it is not registered.
        """
        from spade_bench.extraction import EncoderSource

        return EncoderSource(self.name, self.load_options)

    def settings(self) -> dict[str, Any]:
        """What determines extracted features, beside the samples: what makes them, and the size."""
        return {
            "identity": self.source().identity().key,
            "patch_px": self.patch_px,
            "mpp": self.mpp,
        }

    def old_settings(self) -> dict[str, Any]:
        """The settings as older versions wrote them, and as they are where nothing is extracted."""
        from spade_bench.extraction.recipe import old_revision

        stamp = None
        if self.weights is not None:
            stat = self.weights.stat()
            stamp = [stat.st_size, stat.st_mtime_ns]
        return {
            "encoder": self.name,
            "revision": old_revision(encoders.get(self.name).card) if self.name in encoders else "",
            "weights": stamp,
            "patch_px": self.patch_px,
            "mpp": self.mpp,
        }


def collect_features(
    records: Sequence[Record], base: BaseEncoder, out: Path
) -> tuple[dict[str, Path], dict[str, str], str]:
    """Finds precomputed features and extracts the rest.

    Args:
        records: Samples to encode.
        base: The base encoder.
        out: Folder for extracted features, `OUT/prepare/features`. What another `OUT` beside it
            holds of the same identity and input is taken from there.

    Returns:
        Sample id -> feature file, the reason for each sample that could not be encoded, and a
        sentence.

    Raises:
        DataError: Precomputed features name another encoder than `base`.
    """
    files: dict[str, Path] = {}
    missing: list[StSample] = []
    dropped: dict[str, str] = {}
    for record in records:
        path, name = record.sample.features, record.sample.sample_id
        if path is None:
            missing.append(record.sample)
            continue
        try:
            found = bag_encoder(path)
        except DataError as error:
            dropped[name] = str(error).rstrip(".")
            continue
        _check_encoder(found, path, base.name)
        files[name] = path
    said = f"{len(files)} samples precomputed" if files else ""
    if missing:
        made, failed = _extract(missing, base, out)
        files |= made
        dropped |= failed
        said += ("; " if said else "") + f"{len(made)} samples encoded by {base.name}"
    said += f"; {len(dropped)} failed" if dropped else ""
    return files, dropped, said


def _check_encoder(found: str | None, path: Path, name: str) -> None:
    if found is not None and not same_encoder(found, name):
        raise DataError(
            f"the features are of encoder '{found}', not '{name}'",
            where=str(path),
            fix=f"give --encoder {found}, or features of {name}",
        )


def _extract(
    samples: Sequence[StSample], base: BaseEncoder, out: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    from spade_bench.extraction import Settings, extract_hest

    card = encoders.get(base.name).card
    if card.patch_px is not None and card.patch_px != base.patch_px:
        console.warn(
            f"{base.name} takes {card.patch_px} px patches; samples.patch_px={base.patch_px} has "
            f"no effect, and a patch is {card.patch_px * base.mpp:g} µm wide"
        )
    settings = Settings(mpp=base.mpp, batch_size=base.batch_size, workers=base.workers)
    done = extract_hest(
        samples, base.source(), out, settings=settings, checked=True, also=_siblings(out)
    )
    made = find_bags(done.folder, base.name) if done.done or done.skipped else {}
    kept = {s.sample_id: made[s.sample_id] for s in samples if s.sample_id in made}
    failed = {
        s.sample_id: f"not encoded: {done.failed.get(s.sample_id, 'no features were written')}"
        for s in samples
        if s.sample_id not in kept or s.sample_id in done.failed
    }
    return {name: path for name, path in kept.items() if name not in failed}, failed


def _siblings(out: Path) -> list[Path]:
    """Folders of extracted features of the other pretrainings that lie beside this one."""
    own = out.resolve()
    beside = own.parents[2].glob(f"*/{own.parent.name}/{own.name}")
    return sorted(path for path in beside if path.is_dir() and path != own)
