"""Peak memory and time of preparing many samples into one `spots.h5ad`.

Synthetic counts and precomputed features are written to a temporary folder first; the preparation
then runs in a process of its own, so that its peak resident size is measured alone.

    python benchmarks/prepare.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_GIB = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spots", type=int, default=100_000, help="Spots in all.")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--genes", type=int, default=18_000, help="Genes a sample.")
    parser.add_argument("--density", type=float, default=0.12, help="Share of counts above zero.")
    parser.add_argument("--dim", type=int, default=1024, help="Width of the features.")
    parser.add_argument("--n-top", type=int, default=200, help="Variable genes per sample.")
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(prepare_folder(options.child, options.n_top)))
        return
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as name:
        start = time.perf_counter()
        write_cohort(Path(name), options)
        wrote = time.perf_counter() - start
        arguments = [sys.executable, __file__, "--child", name, "--n-top", str(options.n_top)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, env=one_thread)
    result = json.loads(run.stdout.decode().splitlines()[-1])
    result |= {
        "sizes": {
            "spots": result.pop("spots"),
            "samples": options.samples,
            "genes": options.genes,
            "panel": result.pop("panel"),
            "dim": options.dim,
        },
        "seconds_writing_input": round(wrote, 1),
        "limit_gib": LIMIT_GIB,
        "within_limit": result["peak_rss_gib"] < LIMIT_GIB,
    }
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")


def write_cohort(folder: Path, options: argparse.Namespace) -> None:
    """Writes a manifest, and expression and features of every sample."""
    from spade_bench import console
    from spade_bench.features.bags import write_features

    per_sample = options.spots // options.samples
    lines = ["sample_id,h5ad,features,pixel_size_um,organ,patient,technology"]
    for number in console.track(range(options.samples), "writing input", unit="samples"):
        rng, name = np.random.default_rng(number), f"S{number:03}"
        barcodes = [f"{number:03}-{i:05}" for i in range(per_sample)]
        write_expression(folder / f"{name}.h5ad", barcodes, options, rng)
        write_features(
            folder / f"{name}.h5",
            rng.normal(size=(per_sample, options.dim)).astype(np.float32),
            slide_id=name,
            encoder="synthetic",
            barcodes=barcodes,
        )
        lines.append(f"{name},{name}.h5ad,{name}.h5,0.5,organ{number % 10},P{number},Visium")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_expression(
    path: Path, barcodes: list[str], options: argparse.Namespace, rng: np.random.Generator
) -> None:
    """Sparse counts whose variable genes differ from sample to sample."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    n, genes = len(barcodes), options.genes
    popular = rng.gamma(0.7, size=genes)
    popular /= popular.sum()
    each = int(options.density * genes * 1.3)  # draws per spot; repeats fall together
    columns = rng.choice(genes, size=(n, each), p=popular).astype(np.int32)
    rows = np.repeat(np.arange(n, dtype=np.int32), each)
    values = rng.geometric(0.6, size=n * each).astype(np.float32)
    counts = sp.csr_matrix((values, (rows, columns.ravel())), shape=(n, genes))
    side = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), side)
    centres = np.stack([200.0 * (column + 0.5 * (row % 2)), 173.2 * row], axis=1)
    anndata.AnnData(
        counts,
        obs=pd.DataFrame(index=barcodes),
        var=pd.DataFrame(index=[f"G{i}" for i in range(genes)]),
        obsm={"spatial": centres},
    ).write_h5ad(path, compression="lzf")


def prepare_folder(folder: Path, n_top: int) -> dict[str, Any]:
    """Runs the preparation and reads this process's peak."""
    from spade_bench.encoders.spade.pretraining.prepare.basefeatures import BaseEncoder
    from spade_bench.encoders.spade.pretraining.prepare.preparation import prepare
    from spade_bench.encoders.spade.pretraining.pretrainconfig import (
        GenesConfig,
        PretrainConfig,
        SamplesConfig,
    )

    config = PretrainConfig(
        encoder="synthetic",
        samples=SamplesConfig(manifest=folder / "manifest.csv"),
        genes=GenesConfig(n_top=n_top),
    )
    start = time.perf_counter()
    prepared = prepare(config, folder / "out", BaseEncoder("synthetic"))
    seconds = time.perf_counter() - start
    peak = _peak_gib()
    return {
        "spots": prepared.spots.features.shape[0],
        "panel": len(prepared.spots.genes),
        "seconds": round(seconds, 1),
        "peak_rss_gib": None if peak is None else round(peak, 3),
    }


def _peak_gib() -> float | None:
    """Most memory that this process has had, in GiB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


if __name__ == "__main__":
    main()
