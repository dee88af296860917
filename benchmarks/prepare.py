"""Peak memory and time of preparing and clustering many samples.

Synthetic counts and precomputed features are written to a temporary folder first; the preparation
then runs in a process of its own, and so does the clustering into experts, so that the peak of each
is measured alone. Peaks are of anonymous memory, which the system cannot take back, of the process
and of those that work beside it. `--growth` does it for n, 2n, 4n and 8n spots and prints the
exponents.

    python benchmarks/prepare.py --json
    python benchmarks/prepare.py --spots 4000 --samples 10 --genes 2000 --dim 64 --growth
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
from peakmemory import PeakMemory, exponent

LIMIT_GIB = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spots", type=int, default=100_000, help="Spots in all.")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--genes", type=int, default=18_000, help="Genes a sample.")
    parser.add_argument("--density", type=float, default=0.12, help="Share of counts above zero.")
    parser.add_argument("--dim", type=int, default=1024, help="Width of the features.")
    parser.add_argument("--n-top", type=int, default=200, help="Variable genes per sample.")
    parser.add_argument("--workers", type=int, default=0, help="Processes; 0 picks by machine.")
    parser.add_argument("--space", default="image", help="Space of the clustering.")
    parser.add_argument("--cluster-only", action="store_true", help="Cluster random features.")
    parser.add_argument("--growth", action="store_true", help="Also at 2, 4 and 8 times the spots.")
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        # Beside this file lies one with the name of a package that others import.
        sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).parent]
        work = prepare_folder if options.part == "prepare" else cluster_folder
        print(json.dumps(work(options.child, options)))
        return
    rows = [measure(options, factor) for factor in ((1, 2, 4, 8) if options.growth else (1,))]
    result: dict[str, Any] = {"limit_gib": LIMIT_GIB, "rows": rows}
    result["within_limit"] = all(
        part["peak_gib"] < LIMIT_GIB for row in rows for part in row["parts"].values()
    )
    if options.growth:
        result["exponents"] = {
            f"{part} {what}": exponent(
                [row["spots"] for row in rows], [row["parts"][part][what] for row in rows]
            )
            for part in rows[0]["parts"]
            for what in ("seconds", "peak_gib")
        }
    if options.json:
        print(json.dumps(result))
    else:
        for row in rows:
            print(row)
        print({key: value for key, value in result.items() if key != "rows"})


def measure(options: argparse.Namespace, factor: int) -> dict[str, Any]:
    """Prepare and cluster so many times the spots and samples."""
    sized = argparse.Namespace(**vars(options))
    sized.spots, sized.samples = factor * options.spots, factor * options.samples
    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as name:
        if options.cluster_only:
            write_features_only(Path(name), sized)
        else:
            write_cohort(Path(name), sized)
            parts["prepare"] = _child(name, "prepare", sized)
        parts["cluster"] = _child(name, "cluster", sized)
    return {
        "spots": sized.spots,
        "samples": sized.samples,
        "genes": sized.genes,
        "dim": sized.dim,
        "parts": parts,
    }


def _child(folder: str, part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a part in a process of its own, which prints what it found."""
    words = ["--child", folder, "--part", part, "--n-top", options.n_top]
    words += ["--workers", options.workers, "--space", options.space]
    run = subprocess.run(
        [sys.executable, __file__, *map(str, words)],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(run.stdout.decode().splitlines()[-1])
    return found


def write_features_only(folder: Path, options: argparse.Namespace) -> None:
    """Write random features of spots of two organs, block by block."""
    (folder / "out").mkdir()
    shape = options.spots, options.dim
    x = np.lib.format.open_memmap(folder / "out" / "x.npy", "w+", np.float32, shape)
    rng = np.random.default_rng(0)
    for start in range(0, options.spots, 20_000):
        x[start : start + 20_000] = rng.standard_normal(x[start : start + 20_000].shape, np.float32)
    x.flush()


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
    draws = options.density * genes * 1.3  # per spot; repeats fall together
    seen = (1 - np.exp(-draws * popular / popular.sum())).astype(np.float32)  # (G,)
    counts = sp.csr_matrix(rng.random((n, genes), dtype=np.float32) < seen, dtype=np.float32)
    counts.data[:] = rng.geometric(0.6, size=counts.nnz)
    side = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), side)
    centres = np.stack([200.0 * (column + 0.5 * (row % 2)), 173.2 * row], axis=1)
    anndata.AnnData(
        counts,
        obs=pd.DataFrame(index=barcodes),
        var=pd.DataFrame(index=[f"G{i}" for i in range(genes)]),
        obsm={"spatial": centres},
    ).write_h5ad(path, compression="lzf")


def prepare_folder(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the preparation."""
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
        genes=GenesConfig(n_top=options.n_top),
    )
    base = BaseEncoder("synthetic", workers=options.workers)
    start = time.perf_counter()
    with PeakMemory(children=True) as peak:
        prepared = prepare(config, folder / "out", base)
    seconds = time.perf_counter() - start
    return {
        "spots": prepared.spots.features.shape[0],
        "panel": len(prepared.spots.genes),
        "seconds": round(seconds, 1),
        "peak_gib": round(peak.most.anonymous / 2**30, 3),
    }


def cluster_folder(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Cluster the prepared spots, or random features, into experts."""
    from spade_bench.encoders.spade.preparedspots import Spots
    from spade_bench.encoders.spade.pretraining.clustering import fit_experts
    from spade_bench.encoders.spade.pretraining.pretrainconfig import ClusteringConfig

    config = ClusteringConfig(k_organ=8, k_experts=4, space=options.space, n_init=1, max_iter=5)
    start = time.perf_counter()
    with PeakMemory(children=True) as peak:
        if (folder / "out" / "spots.h5ad").is_file():
            spots = Spots(folder / "out" / "spots.h5ad")
            features, expression = spots.features, spots.expression
            organs = spots.obs["organ"].astype(str).to_numpy()
        else:
            features, expression = np.load(folder / "out" / "x.npy", mmap_mode="r"), None
            organs = np.array(["one", "two"])[(np.arange(len(features)) % 10 == 0).astype(int)]
        train = np.arange(len(organs)) % 10 < 9
        experts, _ = fit_experts(features, organs, config, train=train, expression=expression)
    return {
        "centroids": len(experts.centroids),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gib": round(peak.most.anonymous / 2**30, 3),
    }


if __name__ == "__main__":
    main()
