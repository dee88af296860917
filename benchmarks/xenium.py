"""How much faster transcripts of Xenium become pseudo-spots than with pandas, and in what memory.

The plain way (own code) reads the columns it needs with pandas, keeps genes of quality 20 or more,
floors the positions, counts with `groupby`, and makes a sparse matrix of the categories. Ours
streams batches. Each runs in a process of its own, so that the peak memory is its own. The file
imitates the instrument's: transcripts by field of view, names as text, all columns of XOA 3.

    python benchmarks/xenium.py --json
    python benchmarks/xenium.py --transcripts 100000000 --only spade_bench --json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("pandas", "spade_bench")
_FIELD_UM = 500.0  # side of a field of view
_DENSITY = 1.4  # transcripts per µm²


def write_transcripts(path: Path, args: argparse.Namespace) -> None:
    """Write a transcripts file, a row group per million."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    per_field = int(_DENSITY * _FIELD_UM**2)
    fields = -(-args.transcripts // per_field)
    across = max(1, int(np.sqrt(fields)))
    genes = [f"GENE{i}" for i in range(args.genes)]
    controls = [f"NegControlProbe_{i:05d}" for i in range(40)]
    names = pa.array(genes + controls)
    kinds = pa.array(["predesigned_gene", "negative_control_probe"])
    weight = rng.gamma(0.5, size=len(names))
    weight[args.genes :] *= 0.05
    cumulative = np.cumsum(weight / weight.sum())
    writer = None
    for number in range(fields):
        n = min(per_field, args.transcripts - number * per_field)
        feature = np.minimum(np.searchsorted(cumulative, rng.random(n)), len(names) - 1)
        place = rng.random((2, n)) * _FIELD_UM
        gene = feature < args.genes
        cell = rng.integers(0, 1500, n) + 1500 * number
        table = pa.table(
            {
                "transcript_id": pa.array(np.arange(n, dtype=np.uint64)),
                "cell_id": pa.array([f"c{c:07d}-1" for c in range(1500 * number,
                                    1500 * (number + 1))]).take(pa.array(cell - 1500 * number)),
                "overlaps_nucleus": pa.array((cell % 2).astype(np.uint8)),
                "feature_name": names.take(pa.array(feature)),
                "x_location": pa.array((place[0] + _FIELD_UM * (number % across)).astype("f4")),
                "y_location": pa.array((place[1] + _FIELD_UM * (number // across)).astype("f4")),
                "z_location": pa.array(rng.normal(15, 3, n).astype("f4")),
                "qv": pa.array(np.where(rng.random(n) < 0.85, 40, 12).astype("f4")),
                "codeword_category": kinds.take(pa.array((~gene).astype(np.int8))),
                "is_gene": pa.array(gene),
            }
        )  # fmt: skip
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def by_pandas(path: Path, spot_um: float) -> tuple[Any, np.ndarray, np.ndarray]:
    """Count with pandas: the matrix, places of its rows (row, column), and genes."""
    import pandas as pd
    import scipy.sparse as sp

    columns = ["feature_name", "x_location", "y_location", "qv", "is_gene"]
    table = pd.read_parquet(path, columns=columns)
    table = table[(table["qv"] >= 20) & table["is_gene"]]
    row = np.floor(table["y_location"].astype("f8") / spot_um).astype("i8")
    column = np.floor(table["x_location"].astype("f8") / spot_um).astype("i8")
    counted = table.groupby([row, column, "feature_name"]).size()
    counted.index.names = ["row", "column", "gene"]
    frame = counted.reset_index(name="n")
    spots = frame.groupby(["row", "column"]).ngroup().to_numpy()
    gene = frame["gene"].astype("category")
    matrix = sp.csr_matrix((frame["n"].to_numpy("f4"), (spots, gene.cat.codes)))
    places = frame[["row", "column"]].drop_duplicates().to_numpy()
    return matrix, places, gene.cat.categories.to_numpy(dtype=str)


def by_us(path: Path, spot_um: float) -> tuple[Any, np.ndarray, np.ndarray]:
    """Count as `read_spots` does: the matrix, places of its rows, and genes."""
    from spade_bench.spatial.instruments.pseudospots import SpotGrid
    from spade_bench.spatial.instruments.transcripts import count_transcripts

    tally = count_transcripts(path, SpotGrid(spot_um))
    return tally.counts, np.stack([tally.row, tally.column], axis=1), tally.genes


def measure(way: str, path: Path, spot_um: float) -> dict[str, Any]:
    """Run one way in this process: seconds, peak memory, and sums that tell the result."""
    import pandas  # noqa: F401 - its import is not what is measured
    import pyarrow.parquet  # noqa: F401
    import scipy.sparse

    from spade_bench import console
    from spade_bench.files import hash_array
    from spade_bench.spatial.instruments import transcripts  # noqa: F401

    console.set_quiet(True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    matrix, places, genes = (by_pandas if way == "pandas" else by_us)(path, spot_um)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = np.flatnonzero(np.asarray(matrix.getnnz(axis=0)))
    seen = seen[np.argsort(genes[seen])]
    ordered = scipy.sparse.csr_matrix(matrix)[:, seen]
    ordered.sort_indices()
    parts = (ordered.data, ordered.indices.astype("i8"), ordered.indptr.astype("i8"), places)
    return {
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_gib": peak / 2**20,
        "gib_before": before / 2**20,
        "spots": int(matrix.shape[0]),
        "counts": float(matrix.sum(dtype=np.float64)),
        "stored": int(matrix.nnz),
        "digest": "-".join(hash_array(np.ascontiguousarray(part)) for part in parts),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--transcripts", type=int, default=10_000_000)
    parser.add_argument("--genes", type=int, default=5_001)
    parser.add_argument("--spot-um", type=float, default=100.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=WAYS, help="measure one way")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    if args.file is not None:
        found = measure(args.only, args.file, args.spot_um)
        print(json.dumps(found))
        return found
    ways = [args.only] if args.only else WAYS
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "transcripts.parquet"
        write_transcripts(path, args)
        size = path.stat().st_size / 2**30
        measured = {way: best_of(way, path, args) for way in ways}
    sizes = {key: getattr(args, key) for key in ("transcripts", "genes", "spot_um", "repeats")}
    result: dict[str, Any] = {"benchmark": "xenium", "sizes": {**sizes, "file_gib": size},
                              **measured, "target": 5.0}  # fmt: skip
    if len(ways) == 2:
        plain, ours = (measured[way] for way in WAYS)
        result["ratio"] = plain["seconds"] / ours["seconds"]
        result["ratio_cpu"] = plain["cpu_seconds"] / ours["cpu_seconds"]
        result["memory_ratio"] = plain["peak_gib"] / ours["peak_gib"]
        result["equality"] = {"equal": plain["digest"] == ours["digest"]}
    result["load_average"] = list(os.getloadavg())
    print(json.dumps(result) if args.json else in_words(result))
    return result


def best_of(way: str, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The fastest of several runs, each in a process of its own."""
    command = [sys.executable, __file__, "--only", way, "--file", str(path)]
    command += ["--spot-um", str(args.spot_um)]
    runs = []
    for _ in range(args.repeats):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    best: dict[str, Any] = min(runs, key=lambda run: float(run["seconds"]))
    return {**best, "peak_gib": max(run["peak_gib"] for run in runs)}


def in_words(result: dict[str, Any]) -> str:
    """One line."""
    parts = [
        f"{way} {result[way]['seconds']:.1f} s, {result[way]['peak_gib']:.2f} GiB"
        for way in WAYS
        if way in result
    ]
    if "ratio" in result:
        same = "equal" if result["equality"]["equal"] else "DIFFERENT"
        parts.append(f"{result['ratio']:.1f}x, results {same}")
    return f"{result['sizes']['transcripts']:,} transcripts: {'; '.join(parts)}"


if __name__ == "__main__":
    main()
