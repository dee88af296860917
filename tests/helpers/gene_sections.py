"""Small sections whose genes follow their features, as HEST-1k lays them out and as HEST-Bench."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from spade_bench.features.bags import write_features

DIM, GENES, SPOTS = 12, 20, 60


@dataclass(frozen=True)
class ToySections:
    """Sections on disk.

    Attributes:
        root: Folder with `st/` and the metadata, or a task folder of HEST-Bench.
        features: Folder of their features.
        patient_of: Section -> patient.
        x: Section -> (n, D) features, row by row as ``counts``.
        counts: Section -> (n, G) counts.
    """

    root: Path
    features: Path
    patient_of: dict[str, str]
    x: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]


def write_sections(
    root: Path, patients: tuple[str, ...] = ("A", "A", "B", "C"), *, bench: bool = False,
    encoder: str = "mine", signal: float = 0.6, spots: int = SPOTS, dim: int = DIM,
) -> ToySections:  # fmt: skip
    """Write a section per entry of ``patients``; the rows of feature files are in another order."""
    shared = np.random.default_rng(7)
    towards = shared.normal(size=(dim, GENES)) / np.sqrt(dim)
    base = shared.uniform(0.5, 2.0, GENES)
    folder = root / ("adata" if bench else "st")
    folder.mkdir(parents=True)
    xs, counted, patient_of = {}, {}, {}
    lines = ["id,organ,patient,st_technology,species"]
    for number, patient in enumerate(patients):
        rng, name = np.random.default_rng([3, number]), f"T{number}"
        x = rng.normal(size=(spots, dim)).astype(np.float32)
        depth = rng.lognormal(0, 0.3, (spots, 1))
        counts = rng.poisson(depth * np.exp(base + signal * x @ towards)).astype(np.float32)
        barcodes = [f"s{number}-{i}" for i in range(spots)]
        spatial = 100.0 * np.stack(np.divmod(np.arange(spots), 8), axis=1) + 50
        anndata.AnnData(
            sp.csr_matrix(counts),
            obs=pd.DataFrame(index=barcodes),
            var=pd.DataFrame(index=[f"G{i:02d}" for i in range(GENES)]),
            obsm={"spatial": spatial},
        ).write_h5ad(folder / f"{name}.h5ad")
        order = rng.permutation(spots)
        write_features(
            root / "features" / f"{name}.h5", x[order], slide_id=name, encoder=encoder,
            barcodes=[barcodes[i] for i in order],
        )  # fmt: skip
        xs[name], counted[name], patient_of[name] = x, counts, patient
        lines.append(f"{name},Breast,{patient},Visium,Homo sapiens")
    (root / "HEST_v1_0_0.csv").write_text("\n".join(lines) + "\n")
    if bench:
        _write_splits(root, patient_of)
    return ToySections(root, root / "features", patient_of, xs, counted)


def _write_splits(root: Path, patient_of: dict[str, str]) -> None:
    """A fold per patient, as HEST-Bench has it, and a list of some genes."""
    (root / "splits").mkdir()
    for number, patient in enumerate(sorted(set(patient_of.values()))):
        for side in ("train", "test"):
            lines = ["sample_id,patches_path,expr_path"]
            for name, owner in patient_of.items():
                if (owner == patient) == (side == "test"):
                    lines.append(f"{name},patches/{name}.h5,adata/{name}.h5ad")
            (root / "splits" / f"{side}_{number}.csv").write_text("\n".join(lines) + "\n")
    genes = [f"G{i:02d}" for i in range(GENES - 1, 3, -1)]  # in an order of their own
    (root / "var_50genes.json").write_text(json.dumps({"genes": genes}))
