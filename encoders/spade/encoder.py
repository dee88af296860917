"""A SPADE folder behind the harness's interface for encoders of features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spade_bench.console import say
from spade_bench.device import resolve_device, setup_numerics
from spade_bench.encoders.spade.routing import ROUTINGS
from spade_bench.encoders.spade.spadecard import CARD
from spade_bench.errors import ConfigError, DataError, UserError, WeightsError
from spade_bench.features.routinggroup import routing_of
from spade_bench.registry import suggest
from spade_bench.types import Control, EncoderCard, LoadOptions, Routing

if TYPE_CHECKING:
    from spade_bench.encoders.spade.genepredictor import GenePredictor
    from spade_bench.encoders.spade.jointspace import SpadeSpace
    from spade_bench.encoders.spade.model import SpadeModel

__all__ = ["SpadeEncoder"]

_OPTIONS = ("routing", "tau", "batch")


class SpadeEncoder:
    """Encode base features by routing them through the experts.

    Attributes:
        card: The card, with `dim`, `upstream` and `pretrained_on` of the weights at hand.
        dim: Width of the features: P, or K x P for concat routing.
        model: The model.
        routing: How patches are routed.
        tau: Routing temperature.
        training_samples: Samples that the experts were trained on, for the contamination ledger.
        training_technologies: What they were measured with.
        training_patients: Their patients, where known.
        simulated: Whether they are simulated.
    """

    card: EncoderCard
    dim: int

    def __init__(
        self,
        model: SpadeModel,
        *,
        routing: str | None = None,
        tau: float | None = None,
        batch: int = 8192,
        loaded_by: LoadOptions | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model, on the device where it shall run.
            routing: One of `ROUTINGS`; the one stored with the model when None.
            tau: Routing temperature; the model's own when None.
            batch: Patches encoded at once.
            loaded_by: How it was loaded, from which its controls follow; None for none.

        Raises:
            ConfigError: When the routing is unknown or tau is not positive.
        """
        if routing is None:
            routing = str(model.info.config.get("routing", {}).get("mode", "soft"))
        if routing not in ROUTINGS:
            near = suggest(routing, ROUTINGS)
            fix = f"Did you mean {near}?" if near else f"Known: {', '.join(ROUTINGS)}"
            raise ConfigError(f"unknown routing '{routing}'", where="routing", fix=fix)
        self.model = model
        self.routing = routing
        self.tau = model.tau if tau is None else float(tau)
        self.training_samples = tuple(model.info.samples)
        self.training_patients = tuple(model.info.patients)
        technologies = model.info.extra.get("technologies", {})
        trained = (technologies[name] for name in model.info.samples if name in technologies)
        self.training_technologies = tuple(sorted(set(trained)))
        self.simulated = model.info.simulated
        if not self.tau > 0:
            raise ConfigError(f"the routing temperature must be above 0, not {tau}", where="tau")
        self.batch = max(1, int(batch))
        self._loaded_by = loaded_by
        self.dim = model.dim * (model.n_experts if routing == "concat" else 1)
        self.card = dataclasses.replace(
            CARD,
            dim=self.dim,
            upstream=model.base_encoder or "any",
            pretrained_on=model.pretrained_on,
        )

    @classmethod
    def load(cls, options: LoadOptions, *, with_controls: bool = True) -> SpadeEncoder:
        """Load the folder `options.weights`.

        Args:
            options: `weights` is a folder written by `pretrain` or `import-spade`; `options` may
                hold `routing`, `tau` and `batch`.
            with_controls: Whether it brings the controls of SPADE.

        Raises:
            WeightsError: When no folder is given, or it is not a SPADE folder.
            ConfigError: When an option is unknown.
        """
        from spade_bench.encoders.spade.model import SpadeModel

        if options.weights is None:
            raise WeightsError(
                "the encoder 'spade' has no weights of its own",
                fix="Give `run` --weights spade=FOLDER, or `encode` --weights FOLDER, which "
                "`spade-bench pretrain` wrote",
            )
        for key in options.options:
            if key not in _OPTIONS:
                near = suggest(key, _OPTIONS)
                fix = f"Did you mean {near}?" if near else f"Known: {', '.join(_OPTIONS)}"
                raise ConfigError(f"unknown option '{key}' of encoder 'spade'", fix=fix)
        device = resolve_device(options.device)
        setup_numerics(device)
        model = SpadeModel.load(
            Path(options.weights), device=str(device), precision=_precision(options.precision)
        )
        own = dict(options.options)
        return cls(model, **own, loaded_by=options if with_controls else None)

    def controls(self, seed: int) -> Sequence[Control]:
        """Bring the same training with one expert, and random routing among the experts.

        Args:
            seed: Seed of the evaluation.
        """
        options = self._loaded_by
        if options is None or options.weights is None:
            return ()
        random_routing = Control(
            name="random-routing",
            label="-random-routing",
            encoder=SpadeEncoder(self.model, routing="random", tau=self.tau, batch=self.batch),
            identity={"routing": "random", "seed": seed},
            description="patches sent to experts at random",
        )
        folder = Path(options.weights) / "controls" / "k1"
        if not folder.is_dir():
            say(f"{options.weights}: no control with one expert, because it has no controls/k1")
            return (random_routing,)
        single = Control(
            name="k1",
            label="-k1",
            encoder=SpadeEncoder.load(dataclasses.replace(options, weights=folder)),
            weights=folder,
            description="the same training with a single expert",
        )
        return single, random_routing

    @property
    def identity_parts(self) -> dict[str, Any]:
        """Settings that change the numbers, the model's own included."""
        return {"routing": self.routing, "tau": self.tau}

    def encode(self, features: Any) -> np.ndarray:
        """Encode base features.

        Args:
            features: (n, D) features of the base encoder, float16 or float32.

        Returns:
            (n, dim) float32.

        Raises:
            DataError: When the width is not that of the base encoder.
        """
        self._check_width(features)
        out = np.empty((features.shape[0], self.dim), dtype=np.float32)
        for start in range(0, len(out), self.batch):
            block = np.asarray(features[start : start + self.batch], dtype=np.float32)  # (b, D)
            out[start : start + self.batch] = self.model.encode(block, self.routing, self.tau)
        return out

    def route(self, features: Any) -> Routing:
        """Say to which experts base features are sent.

        Args:
            features: (n, D) features of the base encoder, float16 or float32.

        Returns:
            The nearest expert, which is that of the nearest centroid whatever the routing, and the
            weights as they are used; with `concat` every expert counts alike.

        Raises:
            DataError: When the width is not that of the base encoder.
        """
        self._check_width(features)
        blocks = [
            np.asarray(features[start : start + self.batch], dtype=np.float32)
            for start in range(0, len(features), self.batch)
        ] or [np.empty((0, self.model.in_dim), dtype=np.float32)]
        # Of concat no weights are used at all; alike is what it does.
        used = "mean" if self.routing == "concat" else self.routing
        weights = [self.model.route(block, used, self.tau) for block in blocks]  # (b, K) each
        nearest = [self.model.nearest(block) for block in blocks]
        expert, distance = (np.concatenate(parts) for parts in zip(*nearest, strict=True))
        return routing_of(np.concatenate(weights), expert, distance, mode=self.routing)

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes of the model; none where it has images only."""
        return self.model.genes

    @property
    def expression_unit(self) -> str:
        """In what unit the model takes expression: `lognorm` or `raw`."""
        return self.model.info.expression

    def joint_space(self, features: Any, expression: Any, genes: Sequence[str]) -> SpadeSpace:
        """Place patches and the expression of spots in the space of the experts.

        Args:
            features: Base features of the patches, (m, D).
            expression: Expression of the spots, (n, len(genes)), in `expression_unit`.
            genes: Names of its columns, in any order.

        Raises:
            UserError: When the model has no gene heads.
            DataError: When features or genes do not fit the model.
        """
        from spade_bench.encoders.spade.jointspace import SpadeSpace

        if not self.genes:
            raise UserError(
                "this model has no gene heads, so it places no expression",
                fix="Use a model that `spade-bench pretrain` made: an import has images only",
            )
        self._check_width(features)
        # Concatenation weighs no expert above another.
        used = "mean" if self.routing == "concat" else self.routing
        return SpadeSpace(self.model, features, expression, genes, routing=used, tau=self.tau)

    def gene_predictor(self, spots: Path | None = None, *, seed: int = 0) -> GenePredictor:
        """Return what predicts the expression of genes from base features.

        Args:
            spots: The training spots: the folder that pretraining wrote or its `spots.h5ad`, or a
                HEST folder with the training sections. None takes those beside the weights.
            seed: Seed of the draw where there are very many spots.

        Raises:
            UserError: When the model has no gene heads.
            DataError: When its training spots are not at hand.
        """
        from spade_bench.encoders.spade.genepredictor import GenePredictor, training_spots

        if spots is None:
            spots = self._own_spots()
        return GenePredictor(self.model, *training_spots(self.model, Path(spots)), seed=seed)

    def _own_spots(self) -> Path:
        """The folder of the weights, or that of the model whose control it is."""
        options = self._loaded_by
        if options is None or options.weights is None:
            raise DataError(
                "the training spots of this model are not at hand",
                fix="Name the folder that pretraining wrote, or the HEST folder it was given",
            )
        folder = Path(options.weights)
        control = folder.parent.name == "controls" and not (folder / "spots.h5ad").is_file()
        return folder.parent.parent if control else folder

    def _check_width(self, features: Any) -> None:
        width = features.shape[1] if getattr(features, "ndim", 0) == 2 else None
        if width != self.model.in_dim:
            raise DataError(
                f"features of shape {tuple(np.shape(features))} for a SPADE model of width "
                f"{self.model.in_dim}",
                fix=f"Give (n, {self.model.in_dim}) features of '{self.model.base_encoder}'",
            )


def _precision(name: str | None) -> Literal["fp32", "bf16"]:
    if name in {None, "fp32"}:
        return "fp32"
    if name == "bf16":
        return "bf16"
    raise ConfigError(f"SPADE runs in fp32 or bf16, not {name}", where="precision")
