"""Expression: genes in the spots of sections, predicted from the image around each spot.

The unit of a split is the section, the case is the patient: sections of one patient are on both
sides only where the protocol says so, and rows then carry a flag. See docs/EXPRESSION.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from spade_bench.cohorts.published.hestbench import EXPRESSION_METRICS, Sections
from spade_bench.errors import DataError, UserError
from spade_bench.registry import kinds
from spade_bench.tasks.kind import KindCard
from spade_bench.types import Episode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PATIENTS_REPEAT", "Expression"]

PATIENTS_REPEAT = "patients-repeat"
"""Flag of rows whose test sections are of patients that also train."""

CARD = KindCard(
    name="expression",
    description="Genes in the spots of sections; correlation over spots, gene by gene, ranks",
    protocols=("official", "leave-one-patient-out", "leave-one-section-out"),
    head_kind="expression",
    metrics=EXPRESSION_METRICS,
    default_head="ridge",
    units="spots",
)


@kinds.register(CARD)
def load() -> Expression:
    """Make the kind."""
    return Expression()


class Expression:
    """Sections with spots, each with the expression of genes."""

    card = CARD

    def protocol(self, sections: Sections, asked: str) -> str:
        """Return the protocol to run: the one asked for, else the task's own, else by patient.

        Raises:
            UserError: When the sections do not allow the one asked for.
        """
        if asked == "official" and not sections.splits:
            raise UserError(
                "the task has no splits of its own",
                where="--protocol official",
                fix="Use leave-one-patient-out or leave-one-section-out",
            )
        return asked or ("official" if sections.splits else "leave-one-patient-out")

    def episodes(
        self, sections: Sections, protocol: str, seed: int = 0
    ) -> tuple[list[Episode], tuple[str, ...]]:
        """Return a fold per published split, patient or section, and the flags of its rows.

        Args:
            sections: The sections that every encoder covers.
            protocol: A protocol of the kind.
            seed: Seed of what heads do at random; folds are not drawn.

        Raises:
            DataError: When there are too few patients or sections, or a split has an empty side.
        """
        patient_of = sections.patient_of
        if protocol == "official":
            sides = [_within(split, patient_of) for split in sections.splits]
        else:
            by_patient = protocol == "leave-one-patient-out"
            held = patient_of if by_patient else {name: name for name in patient_of}
            groups = sorted(set(held.values()))
            if len(groups) < 2:
                what = "patient" if by_patient else "section"
                also = " Use --protocol leave-one-section-out" if by_patient else ""
                raise DataError(
                    f"one {what} alone leaves nothing to train on",
                    where=f"--protocol {protocol}",
                    fix=f"Give sections of two {what}s or more.{also}",
                )
            sides = [
                (
                    tuple(name for name in patient_of if held[name] != group),
                    tuple(name for name in patient_of if held[name] == group),
                )
                for group in groups
            ]
        for number, (train, test) in enumerate(sides):
            if not train or not test:
                raise DataError(f"fold {number} has an empty side", where=f"--protocol {protocol}")
        repeat = any({patient_of[s] for s in train} & {patient_of[s] for s in test}
                     for train, test in sides)  # fmt: skip
        episodes = [
            Episode(protocol=protocol, train=train, test=test, fold=number, seed=seed)
            for number, (train, test) in enumerate(sides)
        ]
        return episodes, (PATIENTS_REPEAT,) if repeat else ()

    def permute(
        self, target: NDArray[np.floating], section: NDArray[np.int64], seed: int
    ) -> NDArray[np.floating]:
        """Return targets, (n, G), dealt anew among the spots of each section, (n,)."""
        import numpy as np

        rng = np.random.default_rng([seed, 2])
        out = target.copy()
        for one in np.unique(section):
            at = np.flatnonzero(section == one)
            out[at] = target[rng.permutation(at)]
        return out

    def score(
        self,
        metrics: Sequence[str],
        observed: NDArray[np.floating],
        predicted: NDArray[np.floating],
        section: NDArray[np.int64],
    ) -> Mapping[str, float]:
        """Metrics of one fold: of each gene over its spots, then the mean over genes.

        Args:
            metrics: Metric names.
            observed: (m, G) expression of the test spots.
            predicted: (m, G) what was predicted.
            section: (m,) section of each spot.
        """
        from spade_bench.statistics.genescores import gene_values, over_genes

        return {
            name: over_genes(gene_values(name, observed, predicted, section)) for name in metrics
        }


def _within(
    split: tuple[tuple[str, ...], tuple[str, ...]], known: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A published split without the sections that were left out."""
    train, test = (tuple(name for name in side if name in known) for side in split)
    return train, test
