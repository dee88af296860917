"""What a change of stain or of scanner does to the features of patches, and to a linear probe.

Stain: the patch is taken apart into haematoxylin, eosin and DAB (Ruifrok and Johnston 2001, as
scikit-image has it), and each is scaled and shifted at random (Tellez et al., Medical Image
Analysis 2019). Scanner: another gamma, another gain of each channel, and a blurred or sharpened
picture. Nothing is trained on changed patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.folds import assign_folds
from spade_bench.console import progress
from spade_bench.errors import ConfigError, UserError
from spade_bench.extraction import EncoderSource, PatchGroup, Settings
from spade_bench.extraction.jobs import FolderJob
from spade_bench.extraction.outputs import checked_encode
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions, fit_predict
from spade_bench.registry import encoders, heads
from spade_bench.types import Case, LoadOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Images = NDArray[np.uint8]

__all__ = ["CHANGES", "Changed", "changed_images", "measure_changes"]

CHANGES = ("stain", "scanner")
STRENGTH = 0.2
N_BOOT = 1000
_BATCH = 64
_FOLDS = 5


@dataclass(frozen=True)
class Changed:
    """What one change does to the features of an encoder.

    Attributes:
        encoder: Label.
        change: `stain` or `scanner`.
        strength: How strong it is.
        patches: Number of patches.
        cosine: Mean cosine between the features of a patch and of itself changed.
        cosine_low: Lower end of its 95% interval over resampled slides.
        cosine_high: Upper end.
        cosine_q05: Its 5% quantile over patches.
        found: Share of changed patches whose nearest unchanged patch is themselves.
        auroc: Macro AUROC of a linear probe on unchanged patches of slides that did not train it;
            None where patches have no classes.
        auroc_changed: The same on these patches changed.
        drop: The second minus the first.
        drop_low: Lower end of its 95% interval over resampled slides.
        drop_high: Upper end.
    """

    encoder: str
    change: str
    strength: float
    patches: int
    cosine: float
    cosine_low: float
    cosine_high: float
    cosine_q05: float
    found: float
    auroc: float | None = None
    auroc_changed: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def changed_images(images: Images, change: str, strength: float, seed: int) -> Images:
    """Change patches, each in a way of its own.

    Args:
        images: (n, h, w, 3) RGB.
        change: One of `CHANGES`.
        strength: 0 changes nothing; 0.2 is what laboratories and scanners differ by.
        seed: Seed of what is drawn.

    Raises:
        ConfigError: When there is no such change, or its strength is not within 0 and 1.
    """
    import numpy as np

    if change not in CHANGES:
        raise ConfigError(f"there is no change '{change}'", fix=f"Use {', '.join(CHANGES)}")
    if not 0 <= strength <= 1:
        raise ConfigError(f"a strength of {strength:g}", fix="Use a number from 0 to 1")
    rng = np.random.default_rng([seed, CHANGES.index(change)])
    make = _other_stain if change == "stain" else _other_scanner
    return np.stack([make(image, strength, rng) for image in images])


def measure_changes(
    groups: Sequence[PatchGroup],
    requests: Mapping[str, LoadOptions],
    *,
    strength: float = STRENGTH,
    seed: int = 0,
) -> list[Changed]:
    """Encode patches as they are and changed, and compare.

    Args:
        groups: Patches of each slide, with a class where their folders have one.
        requests: Encoder -> how to load it; of an encoder of features its base loads by its name.
        strength: How strong the changes are.
        seed: Seed of the changes, folds and resamples.

    Raises:
        UserError: When an encoder takes whole slides, or features of any encoder.
        DataError: When a patch cannot be read.
    """
    import numpy as np

    owner = np.repeat(np.arange(len(groups)), [len(group.files) for group in groups])  # (n,)
    out = []
    total = len(requests) * (1 + len(CHANGES)) * len(owner)
    with progress("Encoding changed patches", total, "patches") as bar:
        for label, options in requests.items():
            encode, source = _encoder(label.partition("=")[2] or label, options)
            parts: dict[str, list[Floats]] = {name: [] for name in ("", *CHANGES)}
            for group in groups:
                for images in _images(group, source):
                    for change, kept in parts.items():
                        seen = images
                        if change:
                            place = len(kept)  # so that no two batches are changed alike
                            seen = changed_images(images, change, strength, seed + 7919 * place)
                        kept.append(encode(seen))
                        bar.advance(len(seen), group.slide_id)
            x = {name: np.concatenate(kept) for name, kept in parts.items()}  # (n, D) each
            name = label.partition("=")[0]
            for change in CHANGES:
                pair = (x[""], x[change])
                out.append(Changed(name, change, strength, *_compared(pair, owner, groups, seed)))
    return out


def _compared(
    pair: tuple[Floats, Floats],
    owner: NDArray[np.int64],
    groups: Sequence[PatchGroup],
    seed: int,
) -> tuple[Any, ...]:
    """What `Changed` says from the number of patches on."""
    import numpy as np

    from spade_bench.statistics.intervals import case_weights

    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in pair)  # (n, D) each
    cosine = (first * second).sum(axis=1)  # (n,)
    strata = np.zeros(len(groups), dtype=np.int64)
    weights = case_weights(strata, N_BOOT, seed)[:, owner]  # (B, n)
    low, high = np.quantile(weights @ cosine / weights.sum(axis=1), [0.025, 0.975])
    nearest = np.concatenate(
        [(second[at : at + 4096] @ first.T).argmax(axis=1) for at in range(0, len(first), 4096)]
    )  # (n,)
    scores = _probe(pair, owner, groups, weights, seed)
    return (
        len(owner),
        float(cosine.mean()),
        float(low),
        float(high),
        float(np.quantile(cosine, 0.05)),
        float((nearest == np.arange(len(first))).mean()),
        *scores,
    )


def _probe(
    pair: tuple[Floats, Floats],
    owner: NDArray[np.int64],
    groups: Sequence[PatchGroup],
    weights: Floats,
    seed: int,
) -> tuple[float | None, ...]:
    """AUROC on unchanged and on changed patches, and the difference with its interval."""
    import numpy as np

    from spade_bench.statistics.metrics import auroc

    names = sorted({group.label for group in groups if group.label is not None})
    sizes = [sum(group.label == name for group in groups) for name in names]
    if len(names) < 2 or any(group.label is None for group in groups) or min(sizes) < 2:
        return ()
    label = np.array([names.index(str(groups[at].label)) for at in owner])  # (n,)
    cases = [Case(f"{at:06d}", (), label=str(group.label)) for at, group in enumerate(groups)]
    folds = assign_folds(cases, min(_FOLDS, *sizes), [seed, 13], where="probe")
    both, n = np.concatenate(pair).astype(np.float32), len(owner)  # (2n, D)
    bags = CaseBags(lambda i: both[i][None], 2 * n, both.shape[1])
    held = [np.isin(owner, [int(name) for name in fold]) for fold in folds]
    jobs = [
        Fit(np.flatnonzero(~out), label[~out], np.flatnonzero(np.tile(out, 2)), seed)
        for out in held
    ]
    scores = np.zeros((2 * n, len(names)))
    head = heads.get("logistic").load(HeadOptions())
    predicted = fit_predict(head, bags, jobs, len(names), name="logistic")
    for job, said in zip(jobs, predicted, strict=True):
        scores[job.test] = said
    plain, changed = scores[:n], scores[n:]
    apart = auroc(label, changed, weights) - auroc(label, plain, weights)  # (B,)
    low, high = np.quantile(apart[np.isfinite(apart)], [0.025, 0.975])
    before, after = float(auroc(label, plain)[0]), float(auroc(label, changed)[0])
    return before, after, after - before, float(low), float(high)


def _encoder(name: str, options: LoadOptions) -> tuple[Any, EncoderSource]:
    """What turns (n, h, w, 3) images into features, and what reads the images for it."""
    import numpy as np

    card = encoders.get(name).card
    if card.level == "slide":
        raise UserError(f"'{name}' takes whole slides, not patches", where="--patches",
                        fix="Leave it out")  # fmt: skip
    after, source_name = None, name
    if card.input == "features":
        loaded = encoders.get(name).load(options)
        after, source_name = checked_encode(loaded), loaded.card.upstream
        if source_name in (None, "", "any"):
            raise UserError(
                f"'{name}' takes features of any encoder: nobody says which images they come from",
                where="--patches",
                fix="Name an encoder of images",
            )
        options = LoadOptions(device=options.device)
    source = EncoderSource(str(source_name), options)
    images = source.get()

    def encode(batch: Images) -> Floats:
        features = images.encode(batch).numpy()  # (n, D)
        return np.asarray(features if after is None else after(features), dtype=np.float64)

    return encode, source


def _images(group: PatchGroup, source: EncoderSource) -> Sequence[Images]:
    """The patches of a slide as the encoder takes them, batch by batch."""
    reader = FolderJob(group.slide_id, group.files, source, Settings(preview=False)).prepare(Path())
    n = len(group.files)
    return [reader.read(start, min(start + _BATCH, n)) for start in range(0, n, _BATCH)]


def _other_stain(image: Images, strength: float, rng: np.random.Generator) -> Images:
    """Scale and shift haematoxylin, eosin and DAB of one patch, (h, w, 3)."""
    import numpy as np
    from skimage.color import hed2rgb, rgb2hed

    stains = rgb2hed(image)  # (h, w, 3)
    scale = rng.uniform(1 - strength, 1 + strength, 3)
    shift = rng.uniform(-strength, strength, 3) * stains.std(axis=(0, 1))
    rgb = hed2rgb(stains * scale + shift)  # (h, w, 3) in 0..1
    changed: Images = np.clip(np.rint(255 * rgb), 0, 255).astype(np.uint8)
    return changed


def _other_scanner(image: Images, strength: float, rng: np.random.Generator) -> Images:
    """Change gamma, gains and sharpness of one patch, (h, w, 3)."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    x = image / 255.0  # (h, w, 3)
    x = x ** rng.uniform(1 - strength, 1 + strength)
    x = x * rng.uniform(1 - strength / 4, 1 + strength / 4, 3)
    blurred = gaussian_filter(x, (1.0, 1.0, 0.0))  # (h, w, 3)
    x = x + rng.uniform(-1, 1) * min(1.0, 4 * strength) * (x - blurred)
    changed: Images = np.clip(np.rint(255 * x), 0, 255).astype(np.uint8)
    return changed
