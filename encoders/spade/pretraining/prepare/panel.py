"""Gene panel: the union over samples of the genes most variable in each, among those all share.

Source: arXiv 2506.21857, gene selection: the intersection of genes is kept above a floor by
leaving out samples, then the 50 most highly variable genes of each sample are united.
"""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from spade_bench import console
from spade_bench.device import kept_threads
from spade_bench.encoders.spade.pretraining.prepare.gather import Record
from spade_bench.encoders.spade.pretraining.prepare.sampleworkers import work_ahead
from spade_bench.encoders.spade.pretraining.pretrainconfig import GenesConfig
from spade_bench.errors import DataError
from spade_bench.files import hash_obj, remember, remembered
from spade_bench.spatial.expression import Expression, read_expression
from spade_bench.spatial.genenames import UNNAMED

__all__ = [
    "MIN_SHARED",
    "Panel",
    "gene_floor",
    "intersect_genes",
    "make_panel",
    "measured_genes",
    "unite_panel",
    "variable_genes",
]

MIN_SHARED = 10_000


@dataclass(frozen=True)
class Panel:
    """The genes that a model is trained on.

    Attributes:
        genes: Their names in order.
        shared: Genes that all kept samples measure; of a union, those of the panel.
        floor: A sample that would bring the shared genes to this many or fewer was left out.
        dropped: Sample id -> why it was left out.
    """

    genes: list[str]
    shared: int
    floor: int
    dropped: dict[str, str]


def gene_floor(sizes: Sequence[int], setting: int | str) -> int:
    """The number of shared genes that a sample must not bring the intersection down to.

    Args:
        sizes: Number of genes of each sample.
        setting: A number, or `auto`: half the median size, at most the paper's 10,000.
    """
    if isinstance(setting, int):
        return setting
    return min(MIN_SHARED, int(statistics.median(sizes) // 2))


def intersect_genes(
    names: Sequence[str], genes_of: Callable[[str], Sequence[str]], floor: int
) -> tuple[list[str], dict[str, str]]:
    """Finds the genes that samples share, leaving out those that cost too many genes.

    Samples are taken in by how many genes of the majority they have, so that an odd one (other
    species, ids instead of symbols, a prefix) is left out wherever it stands in the list.

    Args:
        names: Sample ids in order.
        genes_of: Gives a sample's gene names; called a few times a sample.
        floor: A sample that would bring the intersection to this many or fewer is left out.

    Returns:
        The shared genes in the order of the first kept sample, and for each sample left out the
        reason.
    """
    counts: Counter[str] = Counter()
    for name in names:
        counts.update(set(genes_of(name)))
    common = {gene for gene, n in counts.items() if 2 * n > len(names)}
    if not common:  # no majority: each is as odd as the others
        most = max(counts.values(), default=0)
        common = {gene for gene, n in counts.items() if n == most}
    usual = {name: len(common & set(genes_of(name))) for name in names}
    walk = sorted(names, key=lambda name: -usual[name])  # stable: equals stay in order
    shared: set[str] | None = None
    dropped = {}
    for name in walk:
        inside = set(genes_of(name))
        after = inside if shared is None else shared & inside
        if len(after) <= floor:
            before = "" if shared is None else f" from {len(shared):,}"
            dropped[name] = (
                f"would bring the shared genes{before} to {len(after):,}, not above {floor:,}"
            )
        else:
            shared = after
    kept = next((name for name in names if name not in dropped), None)
    if shared is None or kept is None:
        return [], dropped
    return [gene for gene in genes_of(kept) if gene in shared], dropped


def variable_genes(data: Expression, shared: Sequence[str], n_top: int) -> list[str]:
    """The most highly variable of the shared genes in one sample (scanpy, default flavour).

    Counts are normalised to equal spot totals over the shared genes and logged first; values
    that are already logarithms are used as they are.

    Args:
        data: Expression of the sample.
        shared: Genes to choose from; the sample has them all.
        n_top: How many to take.
    """
    import anndata
    import scanpy

    place = {gene: i for i, gene in enumerate(data.genes.tolist())}
    values = data.values[:, [place[g] for g in shared]].astype(np.float32)  # (spots, shared)
    if data.kind == "log-counts":
        values.data = np.expm1(values.data)
    values = values[np.diff(values.indptr) > 0]  # spots without any of these genes say nothing
    adata = anndata.AnnData(sp.csr_matrix(values))
    with kept_threads(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty bins and of genes absent from all spots
        if data.kind != "log-normalised":
            scanpy.pp.normalize_total(adata)
            scanpy.pp.log1p(adata)
        scanpy.pp.highly_variable_genes(adata, n_top_genes=min(n_top, len(shared)))
    chosen = adata.var["highly_variable"].to_numpy()
    return [gene for gene, taken in zip(shared, chosen, strict=True) if taken]


def make_panel(
    records: Sequence[Record],
    config: GenesConfig,
    folder: Path,
    held_out: Collection[str] = (),
    *,
    workers: int = 1,
) -> Panel:
    """Chooses the panel among the genes that samples share.

    Each sample is read once, one at a time, and remembered in `folder`.

    Args:
        records: Samples in order.
        config: Settings.
        folder: Where each sample's choice is remembered.
        held_out: Test samples: their genes count in the intersection, so that they can be scored,
            but they have no say in which genes are variable.
        workers: Processes that look at samples ahead; 0 picks by machine.

    Returns:
        The panel, in the order of the shared genes.

    Raises:
        DataError: When no sample passes the gene rule.
    """
    by_id = {r.sample.sample_id: r for r in records}
    floor = gene_floor([r.n_genes for r in records], config.min_shared)
    shared, dropped = intersect_genes(list(by_id), lambda name: by_id[name].genes(), floor)
    kept = [r for name, r in by_id.items() if name not in {*dropped, *held_out}]
    if not kept:
        raise DataError(
            f"no training sample has more than {floor:,} genes",
            where="genes.min_shared",
            fix="lower genes.min_shared, or set genes.panel=union",
        )
    chosen: set[str] = set()
    rule = hash_obj({"shared": shared, "n_top": config.n_top})
    jobs = [(record, shared, config.n_top, rule, folder) for record in kept]
    work_ahead("choosing genes", _remembered, jobs, workers)
    with console.progress("choosing genes", len(kept), "samples") as bar:
        for record in kept:
            chosen.update(_remembered(record, shared, config.n_top, rule, folder))
            bar.advance(note=record.sample.sample_id)
    return Panel([g for g in shared if g in chosen], len(shared), floor, dropped)


def unite_panel(
    records: Sequence[Record],
    config: GenesConfig,
    folder: Path,
    held_out: Collection[str] = (),
    *,
    workers: int = 1,
) -> Panel:
    """Chooses the panel as the union of the genes most variable in each sample, measured or not.

    Args:
        records: Samples in order.
        config: Settings.
        folder: Where each sample's choice is remembered.
        held_out: Test samples, which have no say; one that measures no gene of the panel is left
            out.
        workers: Processes that look at samples ahead; 0 picks by machine.

    Returns:
        The panel, in the order of the samples and of the genes in each.
    """
    training = [r for r in records if r.sample.sample_id not in held_out]
    chosen: dict[str, None] = {}
    work_ahead("choosing genes", _own, [(r, config.n_top, folder) for r in training], workers)
    with console.progress("choosing genes", len(training), "samples") as bar:
        for record in training:
            chosen |= dict.fromkeys(_own(record, config.n_top, folder))
            bar.advance(note=record.sample.sample_id)
    genes = list(chosen)
    if not genes:
        raise DataError("no training sample has genes with names", where="genes.panel")
    measured = measured_genes(records, genes)
    dropped = {
        name: "measures none of the panel genes" for name, has in measured.items() if not has.any()
    }
    kept = [has for name, has in measured.items() if name not in dropped]
    return Panel(genes, int(np.all(kept, axis=0).sum()), 0, dropped)


def measured_genes(records: Sequence[Record], panel: Sequence[str]) -> dict[str, np.ndarray]:
    """Return which genes of a panel each sample measures, (G,) bool by sample id."""
    out = {}
    for record in records:
        own = set(record.genes())
        out[record.sample.sample_id] = np.array([gene in own for gene in panel], dtype=bool)
    return out


def _own(record: Record, n_top: int, folder: Path) -> list[str]:
    """The most variable of a sample's own genes."""
    own = [gene for gene in record.genes() if not gene.startswith(UNNAMED)]
    return _remembered(record, own, n_top, hash_obj({"own": own, "n_top": n_top}), folder)


def _remembered(
    record: Record, shared: Sequence[str], n_top: int, rule: str, folder: Path
) -> list[str]:
    path = folder / f"{record.sample.sample_id}.json"
    key = hash_obj({"identity": record.identity, "rule": rule})
    earlier = remembered(path, key)
    if earlier is not None:
        return list(earlier["genes"])
    genes = variable_genes(read_expression(record.sample), shared, n_top)
    remember(path, key, {"genes": genes})
    return genes
