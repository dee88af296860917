"""Expression of named genes on a slide, as an encoder that knows expression predicts it.

An encoder of features that can do so offers `gene_predictor(spots, seed=...)`; what it returns
predicts genes from features. Whatever is drawn of it says that it is predicted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from spade_bench.console import warn
from spade_bench.errors import ConfigError, DataError
from spade_bench.explain.layers import VALUE, Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.types import Bag

__all__ = ["PredictsExpression", "gene_predictor", "predicted_layers"]

_UNITS = {"lognorm": "log1p of counts per 10,000", "raw": "counts"}


class PredictsExpression(Protocol):
    """What an encoder's `gene_predictor` returns."""

    @property
    def genes(self) -> Sequence[str]:
        """Genes that can be predicted."""

    @property
    def samples(self) -> Sequence[str]:
        """Sections that it learned from."""

    @property
    def unit(self) -> str:
        """What its numbers are: `lognorm`, `raw`, or words of its own."""

    @property
    def searched(self) -> int:
        """Number of spots that the prediction draws on."""

    def predict(
        self, features: Any, genes: Sequence[str], *, nearest: int, without: Collection[str] = ()
    ) -> NDArray[np.float32]:
        """Return the expression (n, len(genes)) of patches, without the spots of some sections."""


def gene_predictor(encoder: Any, spots: Path | None = None, *, seed: int = 0) -> PredictsExpression:
    """Return what predicts expression for an encoder.

    Args:
        encoder: A loaded encoder of features.
        spots: Where its training spots lie; None looks beside its weights.
        seed: Seed of anything that is drawn.

    Raises:
        ConfigError: When the encoder predicts no expression.
        UserError: When its weights do not.
        DataError: When its training spots are not at hand.
    """
    make = getattr(encoder, "gene_predictor", None)
    if make is None:
        raise ConfigError(
            f"'{encoder.card.name}' predicts no expression",
            where="--genes",
            fix="Leave it out, or name an encoder that was trained with expression, such as spade",
        )
    made: PredictsExpression = make(spots, seed=seed)
    return made


def predicted_layers(
    bag: Bag,
    predictor: PredictsExpression,
    genes: Sequence[str],
    *,
    encoder: str,
    nearest: int = 50,
) -> list[Layer]:
    """Predict genes in the patches of a slide.

    A section that the encoder learned from is predicted from the others, and that is said.

    Args:
        bag: Base features of the slide, with positions.
        predictor: From `gene_predictor`.
        genes: Names of genes.
        encoder: Name of the encoder.
        nearest: Training spots that are averaged.

    Returns:
        A layer per gene, marked as predicted.

    Raises:
        UserError: When a gene is not among those that can be predicted.
        DataError: When the bag does not say where its patches lie.
    """
    if bag.coords is None or bag.patch_size_level0 is None:
        raise DataError(
            "the features do not say where their patches lie",
            where=bag.slide_id,
            fix="Extract them with `spade-bench extract`",
        )
    without = [bag.slide_id] if bag.slide_id in predictor.samples else []
    if without:
        warn(f"{bag.slide_id} trained this encoder: its own spots are left out of the prediction, "
             "but the heads have seen them")  # fmt: skip
    values = predictor.predict(bag.features, genes, nearest=nearest, without=without)  # (n, genes)
    unit = _UNITS.get(predictor.unit, predictor.unit)
    legend = f"PREDICTED {unit}, mean of {nearest} spots"
    coords = np.asarray(bag.coords, dtype=np.int64)
    return [
        Layer(f"{encoder}.predicted.{gene}", f"{encoder}: {gene}, predicted", legend, coords,
              bag.patch_size_level0, values[:, i].astype(np.float64), VALUE)
        for i, gene in enumerate(genes)
    ]  # fmt: skip
