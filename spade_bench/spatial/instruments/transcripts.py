"""Single transcripts of Xenium, read in batches and counted over a lattice of spots.

A batch is turned into sorted keys of (row, column, gene) with their counts, and the keys of many
batches are merged when as many wait as have been merged before. Memory therefore grows with the
number of different (spot, gene) pairs, not with the number of transcripts.

Source: 10x Genomics, "Understanding Xenium outputs": `transcripts.parquet` and its columns; a
transcript counts from a quality value of 20 on, as in the instrument's own cell matrix.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from spade_bench import console
from spade_bench.errors import BROKEN_FILE, DataError
from spade_bench.spatial.instruments.pseudospots import SpotGrid

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TRANSCRIPTS", "Tally", "count_transcripts", "is_control"]

TRANSCRIPTS = ("transcripts.parquet", "transcripts.csv.gz", "transcripts.csv")
_BATCH = 1 << 20  # transcripts at once
_COLUMNS = ("feature_name", "x_location", "y_location", "qv")
_CATEGORY, _GENE = "codeword_category", "is_gene"
_CONTROL = re.compile(
    r"(?:NegControl|BLANK[_-]|antisense_|Unassigned|Deprecated|Intergenic)", re.IGNORECASE
)
_BITS, _GENE_BITS = 21, 20  # of a row or column, and of a gene, in a key of 62 bits
_MIDDLE = 1 << (_BITS - 1)
_TABLE = 4  # cells per transcript up to which a batch is counted in a table
_FIRST_MERGE = 8_000_000  # waiting keys below which merging is put off
_WORKERS = 4  # threads that sort; more would wait for the file
_WAITING = 2  # batches ahead of each worker


@dataclass(frozen=True)
class Tally:
    """Transcripts of one section counted over spots.

    Attributes:
        counts: (spots, genes) CSR float32; spots by row, then column.
        genes: (genes,) names.
        row: (spots,) row of the lattice.
        column: (spots,) column of the lattice.
        transcripts: Rows of the file.
        kept: Transcripts counted: those of genes, of enough quality, in a spot.
        low_quality: Transcripts below the quality value.
        controls: Control and unassigned codewords among those of enough quality.
        between: Transcripts of genes that lie between spots.
    """

    counts: sp.csr_matrix
    genes: np.ndarray
    row: np.ndarray
    column: np.ndarray
    transcripts: int
    kept: int
    low_quality: int
    controls: int
    between: int


def is_control(name: str) -> bool:
    """Whether a feature is a control, blank or unassigned codeword, by its name."""
    return bool(_CONTROL.match(name))


def count_transcripts(
    path: Path, grid: SpotGrid, *, min_qv: float = 20.0, genes: np.ndarray | None = None
) -> Tally:
    """Count the transcripts of a section over a lattice.

    Args:
        path: `transcripts.parquet` of any version, or `transcripts.csv.gz`.
        grid: The lattice.
        min_qv: Least quality value of a transcript that counts.
        genes: Names that come first among the genes, in this order: those of the panel, whether
            or not they have transcripts.

    Raises:
        DataError: When the file is missing, damaged, lacks a column, or has no transcript that
            counts.
    """
    names = _Names([] if genes is None else genes.tolist())
    total = _Sums()
    workers = min(_WORKERS, os.cpu_count() or 1)
    pending: deque[Future[_Counted]] = deque()
    try:
        with ThreadPoolExecutor(workers) as pool:
            for batch in _batches(path):
                gene = _gene_numbers(batch, names)  # in order, so that numbers are too
                pending.append(pool.submit(_count, batch, gene, grid, min_qv))
                if len(pending) > _WAITING * workers:
                    total.add(pending.popleft().result())
            while pending:
                total.add(pending.popleft().result())
    except DataError as error:
        raise DataError(error.what, where=error.where or str(path), fix=error.fix) from error
    except BROKEN_FILE as error:
        raise DataError(
            f"transcripts cannot be read ({type(error).__name__}: {error})", where=str(path)
        ) from error
    if not total.transcripts:
        raise DataError(
            "holds no transcript",
            where=str(path),
            fix="Give the transcripts file that the instrument wrote",
        )
    if not total.kept:
        raise DataError(
            f"none of {total.transcripts:,} transcripts counts: {total.low_quality:,} have a "
            f"quality value below {min_qv:g}, {total.controls:,} are controls",
            where=str(path),
            fix="Lower min_qv, or check the file",
        )
    return total.finish(np.array(names.genes, dtype=str))


class _Names:
    """Numbers for gene names; controls have none (-1)."""

    def __init__(self, genes: list[str]) -> None:
        self.genes = list(genes)
        self._number = {name: i for i, name in enumerate(genes)}

    def numbers(self, names: list[str], controls: np.ndarray | None) -> np.ndarray:
        """Return the number of each name, (n,) int64, -1 for controls.

        Args:
            names: Features of a batch.
            controls: (n,) whether each is a control; None tells by the names.
        """
        out = np.full(len(names), -1, dtype=np.int64)
        for i, name in enumerate(names):
            if is_control(name) if controls is None else controls[i]:
                continue
            if name not in self._number:
                self._number[name] = len(self.genes)
                self.genes.append(name)
            out[i] = self._number[name]
        return out


@dataclass(frozen=True)
class _Counted:
    keys: np.ndarray
    counts: np.ndarray
    transcripts: int
    low_quality: int
    controls: int
    between: int


def _gene_numbers(batch: pa.RecordBatch, names: _Names) -> np.ndarray:
    """Number of the gene of each transcript, (n,) int64, -1 for controls; numbers new genes.

    Controls are told by the columns `is_gene` or `codeword_category` where there are any, and by
    their names in older bundles.
    """
    codes, features = _coded(batch.column("feature_name"))
    control: np.ndarray | None = None
    if _GENE in batch.schema.names:
        control = ~np.asarray(batch.column(_GENE).to_numpy(zero_copy_only=False), dtype=bool)
    elif _CATEGORY in batch.schema.names:
        of_row, categories = _coded(batch.column(_CATEGORY))
        control = np.array([not name.endswith("_gene") for name in categories])[of_row]
    if control is None:
        return np.asarray(names.numbers(features, None)[codes])
    by_name = np.ones(len(features), dtype=bool)
    by_name[codes[~control]] = False  # a feature is of one kind, so any of its rows tells
    return np.asarray(names.numbers(features, by_name)[codes])


def _count(batch: pa.RecordBatch, gene: np.ndarray, grid: SpotGrid, min_qv: float) -> _Counted:
    """Turn a batch into sorted keys, each with its number of transcripts."""
    x, y, qv = (_floats(batch.column(name)) for name in _COLUMNS[1:])
    good = qv >= min_qv
    kept = np.flatnonzero(good & (gene >= 0))
    gene = gene[kept]
    cells = grid.cells(x[kept].astype(np.float64), y[kept].astype(np.float64))
    row, column = cells.row, cells.column
    if cells.inside is not None:
        row, column, gene = row[cells.inside], column[cells.inside], gene[cells.inside]
    n, n_good, n_kept = len(good), int(good.sum()), len(kept)
    left_out = n - n_good, n_good - n_kept, n_kept - len(gene)
    return _Counted(*_sorted_keys(row, column, gene), n, *left_out)


def _sorted_keys(
    row: np.ndarray, column: np.ndarray, gene: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Different keys of (row, column, gene), ascending, and how often each occurs.

    Raises:
        DataError: When a place lies beyond any slide.
    """
    if not len(row):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
    top, left = int(row.min()), int(column.min())
    height, width = int(row.max()) - top + 1, int(column.max()) - left + 1
    if min(top, left) < -_MIDDLE or max(top + height, left + width) > _MIDDLE:
        raise DataError("a transcript lies beyond any slide", fix="Check x_location and y_location")
    n_genes = int(gene.max()) + 1
    if height * width * n_genes <= _TABLE * len(row):
        # Transcripts lie by field of view, so a batch has few spots: a table of all is smaller.
        table = np.bincount(((row - top) * width + (column - left)) * n_genes + gene)
        places = np.flatnonzero(table)
        spot, gene = np.divmod(places, n_genes)
        row, column = np.divmod(spot, width)
        return _keys(row + top, column + left, gene), table[places].astype(np.int32)
    keys = _keys(row, column, gene)
    keys.sort()
    first = _firsts(keys)
    return keys[first], np.diff(np.append(first, len(keys))).astype(np.int32)


def _keys(row: np.ndarray, column: np.ndarray, gene: np.ndarray) -> np.ndarray:
    place = ((row + _MIDDLE) << _BITS) | (column + _MIDDLE)
    return np.asarray((place << _GENE_BITS) | gene)


def _firsts(ascending: np.ndarray) -> np.ndarray:
    """Where each different value begins."""
    return np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))


class _Sums:
    """Counts by key, merged now and then."""

    def __init__(self) -> None:
        self.keys = np.empty(0, dtype=np.int64)
        self.counts = np.empty(0, dtype=np.int32)
        self._waiting: list[_Counted] = []
        self._n_waiting = 0
        self.transcripts = self.low_quality = self.controls = self.between = self.kept = 0

    def add(self, part: _Counted) -> None:
        """Add the counts of a batch."""
        self.transcripts += part.transcripts
        self.low_quality += part.low_quality
        self.controls += part.controls
        self.between += part.between
        self.kept += int(part.counts.sum(dtype=np.int64))
        self._waiting.append(part)
        self._n_waiting += len(part.keys)
        if self._n_waiting > max(_FIRST_MERGE, len(self.keys)):
            self._merge()

    def _merge(self) -> None:
        keys = np.concatenate([self.keys, *(part.keys for part in self._waiting)])
        counts = np.concatenate([self.counts, *(part.counts for part in self._waiting)])
        self._waiting, self._n_waiting = [], 0
        order = np.argsort(keys, kind="stable")  # runs that are sorted already merge fast
        keys, counts = keys[order], counts[order]
        del order
        first = _firsts(keys)
        self.counts = np.add.reduceat(counts, first)
        self.keys = keys[first]

    def finish(self, genes: np.ndarray) -> Tally:
        """Return everything as one matrix."""
        self._merge()
        place = self.keys >> _GENE_BITS
        first = _firsts(place)
        place = place[first]
        counts = sp.csr_matrix(
            (
                self.counts.astype(np.float32),
                (self.keys & ((1 << _GENE_BITS) - 1)).astype(np.int32),
                np.append(first, len(self.keys)),
            ),
            shape=(len(first), len(genes)),
        )
        row, column = (place >> _BITS) - _MIDDLE, (place & ((1 << _BITS) - 1)) - _MIDDLE
        numbers = (self.transcripts, self.kept, self.low_quality, self.controls, self.between)
        return Tally(counts, genes, row, column, *numbers)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The columns that are needed, a batch at a time, with a bar.

    Raises:
        DataError: When the file lacks a column.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path))
    reader, total = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    with console.progress(
        f"counting transcripts of {path.parent.name}", total, "transcripts"
    ) as bar:
        for batch in reader:
            if batch.num_rows:
                yield batch
            bar.advance(batch.num_rows)


def _parquet(path: Path) -> tuple[Iterator[pa.RecordBatch], int]:
    import pyarrow.parquet as pq

    there = pq.read_schema(path).names
    coded = [name for name in ("feature_name", _CATEGORY) if name in there]
    file = pq.ParquetFile(path, read_dictionary=coded, memory_map=True)
    columns = _wanted(file.schema_arrow.names, path)
    return file.iter_batches(_BATCH, columns=columns), file.metadata.num_rows


def _csv(path: Path) -> tuple[Iterator[pa.RecordBatch], None]:
    import pyarrow as pa
    import pyarrow.csv

    with path.open("rb") as handle:
        source = pa.CompressedInputStream(handle, "gzip") if path.suffix == ".gz" else handle
        header = pa.csv.open_csv(source).schema.names
    options = pa.csv.ConvertOptions(
        include_columns=_wanted(header, path), column_types={"qv": pa.float32()}
    )
    block = pa.csv.ReadOptions(block_size=1 << 26)
    return iter(pa.csv.open_csv(str(path), read_options=block, convert_options=options)), None


def _wanted(there: list[str], path: Path) -> list[str]:
    missing = [name for name in _COLUMNS if name not in there]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)}",
            where=str(path),
            fix="Give the transcripts file that the instrument wrote",
        )
    one = next((name for name in (_GENE, _CATEGORY) if name in there), None)
    return [*_COLUMNS, *([one] if one else [])]


def _coded(column: Any) -> tuple[np.ndarray, list[str]]:
    """Codes (n,) and the texts that they stand for; bytes become text."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False)
    if column.null_count:
        raise DataError(f"{column.null_count} transcripts have no feature name or category")
    texts = [v.decode() if isinstance(v, bytes) else str(v) for v in column.dictionary.to_pylist()]
    return codes, texts


def _floats(column: Any) -> np.ndarray:
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "iuf":
        raise DataError(
            f"positions or qualities are stored as {column.type}, not as numbers",
            fix="Give the transcripts file that the instrument wrote",
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} positions or qualities are no numbers"
        )
    return values
