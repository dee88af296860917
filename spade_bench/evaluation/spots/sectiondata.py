"""The expression of sections as heads learn it, and which genes are predicted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from spade_bench.console import say, track, warn
from spade_bench.errors import DataError, name_some
from spade_bench.files import hash_array, hash_obj
from spade_bench.spatial.expression import read_expression
from spade_bench.spatial.scales import ValueKind, lognorm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.cohorts.published.hestbench import Sections
    from spade_bench.spatial.expression import Expression
    from spade_bench.spatial.sample import StSample

__all__ = ["SectionData", "chosen_genes", "read_section_data", "say_sections"]

_MOSTLY = 0.5  # share of a section's genes that the others have too, below which names are in doubt
_DETECTED = 0.10  # share of the spots of each training section in which a gene is seen, at least
# What panels count beside genes: probes and codewords that match nothing.
_NO_GENE = re.compile(r"BLANK|Control|^(antisense|Unassigned|Deprecated|Intergenic)")


@dataclass(frozen=True, eq=False)
class SectionData:
    """The spots of one section, over the genes that all sections of the task share.

    Attributes:
        name: Name of the section.
        patient: Its patient.
        genes: Names of the shared genes, G of them, sorted.
        barcodes: Barcode of each spot, (n,).
        coords: Centre of each spot in full-resolution pixels, (n, 2) as (x, y).
        values: Expression as in the file, (n, G).
        scaled: The same, each spot scaled to 10,000 over ALL its genes, then log1p, (n, G).
        totals: Sum over all genes of the file, of logarithms over what they are of, (n,).
        kind: What the values are; see `spade_bench.spatial.scales.value_kind`.
    """

    name: str
    patient: str
    genes: NDArray[np.str_]
    barcodes: NDArray[np.str_]
    coords: NDArray[np.float64]
    values: sp.csc_matrix
    scaled: sp.csc_matrix
    totals: NDArray[np.float64]
    kind: ValueKind

    def target(self, genes: Sequence[str], unit: str) -> NDArray[np.float32]:
        """Return what heads learn of some genes, (n, len(genes)) float32.

        Args:
            genes: Names, all of them shared.
            unit: `log1p` of the counts, or `lognorm`.

        Raises:
            DataError: When counts are needed and the file holds something else.
        """
        if unit == "log1p" and self.kind != "counts":
            raise DataError(
                f"holds {self.kind} values, and the target log1p needs counts",
                where=self.name,
                fix="Give raw counts, or use a head with target=lognorm",
            )
        columns = np.searchsorted(self.genes, np.asarray(genes, dtype=np.str_))
        source = self.values if unit == "log1p" else self.scaled
        dense: NDArray[np.float32] = source[:, columns].toarray().astype(np.float32)  # (n, genes)
        return np.log1p(dense) if unit == "log1p" else dense

    @property
    def has_depth(self) -> bool:
        """Whether totals say how deep a spot was sequenced: normalised values have lost it."""
        return self.kind in ("counts", "log-counts")

    def spots(self, rows: NDArray[np.int64]) -> SectionData:
        """Return the section with some of its spots, by position."""
        return replace(
            self,
            barcodes=self.barcodes[rows],
            coords=self.coords[rows],
            values=sp.csc_matrix(self.values[rows]),
            scaled=sp.csc_matrix(self.scaled[rows]),
            totals=self.totals[rows],
        )

    @cached_property
    def digest(self) -> str:
        """Hash of the spots and their expression."""
        arrays = [self.values.data, self.values.indices, self.values.indptr]
        parts = [hash_array(np.asarray(one)) for one in arrays]
        return hash_obj([self.name, self.patient, self.barcodes.tolist(), self.kind, parts])

    @cached_property
    def spread(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each gene the squares about the section's mean, summed, and the share of spots."""
        n = len(self.barcodes)
        total = np.asarray(self.scaled.sum(axis=0, dtype=np.float64)).ravel()  # (G,)
        squares = np.asarray(self.scaled.multiply(self.scaled).sum(axis=0)).ravel()  # (G,)
        seen = np.diff(self.scaled.indptr) / n  # (G,) scaled values hold no zeros of their own
        return np.maximum(squares - total**2 / n, 0.0), seen


def read_section_data(sections: Sections) -> list[SectionData]:
    """Read the expression of every section, cut to the genes that all of them have.

    Raises:
        DataError: When a section cannot be read, holds scaled values, or nothing is shared; or the
            task names a gene that a section lacks.
    """
    read = []
    for sample in track(sections.samples, "Reading expression", len(sections.samples), "sections"):
        read.append((sample, read_expression(sample)))
    _say_findings(read)
    shared = set.intersection(*(set(data.genes.tolist()) for _, data in read))
    if sections.genes is not None:
        for sample, data in read:
            missing = sorted(set(sections.genes) - set(data.genes.tolist()))
            if missing:
                raise DataError(
                    f"lacks {len(missing)} gene(s) that the task names: {name_some(missing)}",
                    where=sample.sample_id,
                )
    if not shared:
        raise DataError(
            f"the {len(read)} sections share no gene",
            fix="Give sections of one species, with the same kind of gene names",
        )
    _warn_of_narrow(read, shared)
    genes = np.array(sorted(shared), dtype=np.str_)
    patient_of = sections.patient_of
    return [
        _section(sample.sample_id, patient_of[sample.sample_id], data, genes)
        for sample, data in read
    ]


def _say_findings(read: Sequence[tuple[StSample, Expression]]) -> None:
    """Say what was noticed while reading, and warn where sections hold values of several kinds."""
    for sample, data in read:
        for finding in data.findings:
            say(f"{sample.sample_id}: {finding.text}")
    of_kind: dict[ValueKind, list[str]] = {}
    for sample, data in read:
        of_kind.setdefault(data.kind, []).append(sample.sample_id)
    if len(of_kind) > 1:
        listed = "; ".join(f"{kind}: {name_some(names)}" for kind, names in of_kind.items())
        warn(f"sections hold values of several kinds ({listed}); what was normalised elsewhere may "
             "differ from what is normalised here, and then a number tells sections apart. Counts "
             "of all of them are safer")  # fmt: skip


def _warn_of_narrow(read: Sequence[tuple[StSample, Expression]], shared: set[str]) -> None:
    """Warn where sections share far fewer genes than each has, and name the odd one out."""
    fewest = min(len(data.genes) for _, data in read)
    if len(read) < 2 or len(shared) >= _MOSTLY * fewest:
        return
    had_by = Counter(gene for _, data in read for gene in data.genes.tolist())
    but_one = {gene for gene, n in had_by.items() if n == len(read) - 1}
    without = {
        sample.sample_id: len(shared) + len(but_one.difference(data.genes.tolist()))
        for sample, data in read
    }
    odd = max(without, key=lambda name: without[name])
    warn(f"the {len(read)} sections share {len(shared):,} genes, and the one with the fewest has "
         f"{fewest:,}: without {odd} they would share {without[odd]:,}. Are its genes named in "
         "another way, or of another species?")  # fmt: skip


def _section(name: str, patient: str, data: Any, genes: NDArray[np.str_]) -> SectionData:
    order = np.argsort(data.genes)
    columns = order[np.searchsorted(data.genes[order], genes)]  # (G,)
    try:
        scaled = lognorm(data.values, data.kind)
    except DataError as error:
        raise DataError(error.what, where=name, fix=error.fix) from error
    scaled = sp.csc_matrix(scaled[:, columns])
    scaled.eliminate_zeros()
    return SectionData(
        name=name,
        patient=patient,
        genes=genes,
        barcodes=np.asarray(data.barcodes, dtype=np.str_),
        coords=np.asarray(data.spatial, dtype=np.float64),
        values=sp.csc_matrix(data.values[:, columns]),
        scaled=scaled,
        totals=np.asarray(_linear(data).sum(axis=1, dtype=np.float64)).ravel(),
        kind=data.kind,
    )


def _linear(data: Expression) -> sp.csr_matrix:
    """Values that add up: those of the file, or what their logarithms are of."""
    if data.kind not in ("log-counts", "log-normalised"):
        return data.values
    out = data.values.astype(np.float64, copy=True)
    np.expm1(out.data, out=out.data)
    return out


def chosen_genes(
    training: Sequence[SectionData], n_genes: int, listed: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the genes to predict: those listed, or the most variable of the training sections.

    A gene counts that is seen in a tenth of the spots of every training section, as HEST-Bench
    asks it of all sections, the test ones among them. What ranks is the variance of the scaled
    logarithm within sections, so that a difference in depth or batch between sections chooses
    nothing.

    Args:
        training: The training sections.
        n_genes: How many to choose; all that count where there are fewer.
        listed: The task's own list; None chooses.

    Raises:
        DataError: When no gene counts.
    """
    if listed is not None:
        return tuple(listed)
    names = training[0].genes
    counts = np.array([not _NO_GENE.search(str(name)) for name in names])  # (G,)
    squares = np.zeros(len(names))
    for section in training:
        about, seen = section.spread
        squares += about
        counts &= (seen >= _DETECTED) & (about > 0)
    usable = np.flatnonzero(counts)
    if not len(usable):
        raise DataError(
            "no gene is seen in a tenth of the spots of every training section",
            where=name_some([section.name for section in training]),
        )
    if len(usable) < n_genes:
        warn(f"{len(usable)} genes instead of {n_genes}: no more are seen in a tenth of the spots "
             "of every training section")  # fmt: skip
    best = usable[np.argsort(-squares[usable], kind="stable")][:n_genes]
    return tuple(str(name) for name in names[np.sort(best)])


def say_sections(name: str, data: Sequence[SectionData]) -> None:
    """Say what there is to learn from."""
    spots, patients = sum(len(one.barcodes) for one in data), {one.patient for one in data}
    say(
        f"{name}: {spots:,} spots of {len(data)} sections of {len(patients)} patient(s), "
        f"{len(data[0].genes):,} shared genes"
    )
