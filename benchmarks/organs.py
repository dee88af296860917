"""Does a mixture help where organs truly differ? SPADE against its single expert, on planted spots.

Every spot has a look, a few hidden numbers that its features show. In each organ other genes
answer to the same look, so that one pair of heads has to learn as many relations as there are
organs, and an expert for each has to learn one. The settings are the defaults: what the size of the
cohort decides is in the result. All numbers are SIMULATED.

    python benchmarks/organs.py --json

Reported is the mean percentile of the true partner on sections that nothing was chosen by (0 is
best, 0.5 is chance), for SPADE and for K = 1, and the paired difference with its interval over
spots. ``--shared`` plants one relation for all organs, where a mixture has little to gain.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from coupling import command

DIM, LOOKS, GENES = 64, 6, 400
NOISE, EFFECT = 1.0, 0.15  # of the features; of a look on a log rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--organs", type=int, default=3)
    parser.add_argument("--sections", type=int, default=5, help="Per organ; one is the test.")
    parser.add_argument("--spots", type=int, default=120, help="Per section.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared", action="store_true", help="One relation for all organs.")
    parser.add_argument("--set", action="append", default=[], help="Setting of pretrain.")
    parser.add_argument("--work", type=Path, help="Folder to keep; default: a temporary one.")
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as name:
        result = study(options.work or Path(name), options)
    result["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(result, indent=None if options.json else 1))


def study(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the spots, pretrain with the defaults, and read what the validation found."""
    tests = write_spots(work / "hest", options)
    settings = [f"split.test_samples=[{', '.join(tests)}]", *options.set]
    command(
        *("pretrain", "--hest", str(work / "hest"), "--features", str(work / "hest" / "features")),
        *("--encoder", "planted", "--seed", str(options.seed), "--device", "cpu"),
        *(item for text in settings for item in ("--set", text)),
        *("--out", str(work / "spade")),
    )
    found = json.loads((work / "spade" / "validation.json").read_text(encoding="utf-8"))
    model = json.loads((work / "spade" / "spade.json").read_text(encoding="utf-8"))
    part = found["splits"]["test"]
    return {
        "simulated": True,
        "relations": 1 if options.shared else options.organs,
        "spots": sum(row["n"].get("train", 0) for row in found["experts"]),
        "by_rule": model["extra"]["by_rule"],
        "K": model["K"],
        "tau": model["tau"],
        "best_epochs": [row["best_epoch"] for row in found["experts"]],
        "percentile": {
            name: {way: round(figures["mean_percentile"]["value"], 4) for way, figures in ways}
            for name, ways in ((n, part["methods"][n].items()) for n in ("spade", "k1"))
        },
        "difference": {
            way: {
                key: round(figures["mean_percentile"][key], 4) for key in ("value", "low", "high")
            }
            for way, figures in part["differences"]["spade - k1"].items()
        },
    }


def write_spots(root: Path, options: argparse.Namespace) -> list[str]:
    """Write sections in HEST layout with their features; return the ids of the test sections."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    from spade_bench.features.bags import write_features

    (root / "st").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    centres = rng.normal(size=(options.organs, DIM))
    shown = rng.normal(size=(LOOKS, DIM)) / np.sqrt(LOOKS)
    base = rng.normal(1.0, 1.0, GENES)
    relations = rng.normal(size=(options.organs, LOOKS, GENES)) * EFFECT
    side = int(np.ceil(np.sqrt(options.spots)))
    lattice = 200.0 * np.stack(np.divmod(np.arange(options.spots), side), axis=1) + 100
    lines, tests = ["id,organ,patient,st_technology,species"], []
    for organ in range(options.organs):
        for section in range(options.sections):
            name = f"S{organ}{section:02d}"
            look = rng.normal(size=(options.spots, LOOKS))
            noise = NOISE * rng.normal(size=(options.spots, DIM))
            values = 3.0 * centres[organ] + look @ shown + noise  # (n, D)
            relation = relations[0 if options.shared else organ]
            counts = rng.poisson(np.exp(base + look @ relation))  # (n, G)
            data = anndata.AnnData(
                sp.csr_matrix(counts.astype(np.float32)),
                obs=pd.DataFrame(index=[f"b{i}" for i in range(options.spots)]),
                var=pd.DataFrame(index=[f"G{i}" for i in range(GENES)]),
                obsm={"spatial": lattice.copy()},
            )
            data.write_h5ad(root / "st" / f"{name}.h5ad")
            write_features(
                root / "features" / f"{name}.h5",
                values.astype(np.float32),
                slide_id=name,
                encoder="planted",
                barcodes=list(data.obs_names),
            )
            lines.append(f"{name},Organ{organ},P{name},Visium,Homo sapiens")
            if section == 0:
                tests.append(name)
    (root / "HEST_v1_0_0.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tests


if __name__ == "__main__":
    main()
