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
from spade_bench.errors import ConfigError, DataError, name_some
from spade_bench.explain.layers import VALUE, Layer
from spade_bench.report.naming import encoder_title

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

    def patient_of(self, section: str) -> str | None:
        """Return the patient of a section; None where the model does not know."""

    def left_out(self, section: str, patients: Collection[str] = ()) -> Sequence[str]:
        """Name the training sections of a section's patient, which may not predict it."""

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
    patients: Collection[str] = (),
) -> list[Layer]:
    """Predict genes in the patches of a slide.

    A section that the encoder learned from is predicted from those of other patients, and that is
    said. So is any section of a patient that it learned from. Where it learned from no other
    patient, the other sections of this one predict, and that is said.

    Args:
        bag: Base features of the slide, with positions.
        predictor: From `gene_predictor`.
        genes: Names of genes.
        encoder: Name of the encoder.
        nearest: Training spots that are averaged.
        patients: What a table calls the patient of the slide.

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
    without, others = _left_out(bag.slide_id, predictor, patients)
    values = predictor.predict(bag.features, genes, nearest=nearest, without=without)  # (n, genes)
    unit = _UNITS.get(predictor.unit, predictor.unit)
    legend = f"PREDICTED {unit}, mean of {nearest} spots{others}"
    coords = np.asarray(bag.coords, dtype=np.int64)
    title = encoder_title(encoder)
    return [
        Layer(f"{encoder}.predicted.{gene}", f"{title}: {gene}, predicted", legend, coords,
              bag.patch_size_level0, values[:, i].astype(np.float64), VALUE)
        for i, gene in enumerate(genes)
    ]  # fmt: skip


def _left_out(
    slide: str, predictor: PredictsExpression, patients: Collection[str]
) -> tuple[Sequence[str], str]:
    """Which sections may not predict a slide, once it is said, and whose the others are."""
    without = predictor.left_out(slide, patients)
    if not without:
        return (), ""
    patient = predictor.patient_of(without[0])
    if len(without) == len(predictor.samples) > (slide in without):
        warn(f"this encoder learned from no patient but {patient}, of whom {slide} is: it is "
             "predicted from other sections of the same patient")  # fmt: skip
        return [name for name in without if name == slide], " of the same patient"
    rest = [name for name in without if name != slide]
    if slide not in without:
        warn(f"{slide} is of patient {patient}, who trained this encoder: the spots of "
             f"{name_some(rest, 3)} are left out of the prediction, but the heads have seen "
             "them")  # fmt: skip
    else:
        more = f" and those of {name_some(rest, 3)} of the same patient" if rest else ""
        unknown = "" if patient else ("; the model does not say whose it is, so other sections of "
                                      "that patient may be among the spots")  # fmt: skip
        warn(f"{slide} trained this encoder: its own spots{more} are left out of the prediction, "
             f"but the heads have seen them{unknown}")  # fmt: skip
    return without, " of other patients" if patient else " of other sections"
