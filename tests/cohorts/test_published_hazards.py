"""Known answer: hazard ratios of stage III and IV that the authors of TCGA-CDR published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spade_bench.cohorts.labels.followup import follow_cases
from spade_bench.cohorts.labels.labelling import read_sources
from spade_bench.cohorts.labels.recipes import Recipe
from spade_bench.cohorts.tables import read_cohort
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions
from spade_bench.registry import heads

TYPES = ("KIRC", "KIRP", "LUAD", "LUSC")
ENDPOINTS = ("OS", "PFI", "DSS")


@dataclass(frozen=True)
class Staged:
    """Cases of a cancer type whose stage is known: late (1) or early (0), and outcome."""

    late: np.ndarray
    target: np.ndarray


def _published(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "published_stage_cox.csv").set_index("type")


def _staged(
    folder: Path, tmp_path: Path, cancer: str, endpoint: str, *, keep_zero: bool = True
) -> Staged:
    """Read TCGA-CDR as `spade-bench cohort` does, write the table, and read it as `run` does."""
    cdr = folder / "tcga_cdr.csv.gz"
    recipe = Recipe("stage", (cancer,), "TCGA-CDR", endpoint=endpoint)
    found = follow_cases(read_sources([cdr]), recipe, endpoint, keep_zero_times=keep_zero)
    lines = [f"{case},{case},{int(e)},{days}" for case, (e, days) in found.survival.items()]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["case_id,slide_id,event,duration_days", *lines]) + "\n")
    column = pd.read_csv(cdr).set_index("patient")["ajcc_pathologic_tumor_stage"]
    cases = [
        case
        for case in read_cohort(table, survival=True).cases
        if str(column[case.case_id]).startswith("Stage I")
    ]
    late = [str(column[c.case_id]).startswith(("Stage III", "Stage IV")) for c in cases]
    target = [[float(bool(case.event)), case.duration_days] for case in cases]
    return Staged(np.array(late, dtype=float), np.array(target, dtype=float))


def _cox(staged: Staged) -> tuple[float, float]:
    """Log hazard ratio of a late stage and its standard error."""
    from lifelines import CoxPHFitter

    frame = pd.DataFrame(
        {"late": staged.late, "event": staged.target[:, 0], "days": staged.target[:, 1]}
    )
    model = CoxPHFitter().fit(frame, "days", "event", fit_options={"precision": 1e-11})
    return float(model.params_["late"]), float(model.standard_errors_["late"])


@pytest.mark.parametrize("cancer", TYPES)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_stage_has_the_published_hazard_ratio(
    shared_data: Path, tmp_path: Path, cancer: str, endpoint: str
) -> None:
    folder = shared_data / "tcga_labels"
    want = _published(folder).loc[cancer]
    slope, error = _cox(_staged(folder, tmp_path, cancer, endpoint))
    assert slope == pytest.approx(want[f"{endpoint}_logHR"], abs=1e-6)
    assert error == pytest.approx(want[f"{endpoint}_se"], abs=1e-6)
    assert np.exp(slope) == pytest.approx(want[f"{endpoint}_HR"], rel=1e-6)


def test_the_authors_kept_times_of_zero(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "tcga_labels"
    want = _published(folder).loc["KIRP", "PFI_logHR"]
    slope, _ = _cox(_staged(folder, tmp_path, "KIRP", "PFI", keep_zero=False))
    assert slope - want == pytest.approx(0.0589, abs=1e-3)


@pytest.mark.parametrize("cancer", TYPES)
def test_the_cox_head_learns_the_published_hazard_ratio(
    shared_data: Path, tmp_path: Path, cancer: str
) -> None:
    folder = shared_data / "tcga_labels"
    staged = _staged(folder, tmp_path, cancer, "PFI")
    n = len(staged.late)
    # Two more bags, an early and a late one, to predict for.
    bags = [np.full((3, 1), value, dtype=np.float32) for value in (*staged.late, 0.0, 1.0)]
    fit = Fit(np.arange(n), staged.target, np.array([n, n + 1]), seed=0)
    head = heads.get("cox").load(HeadOptions(params={"penalizer": 1e-9}))
    (risk,) = head.fit_predict(CaseBags(bags.__getitem__, n + 2, 1), [fit], 1)
    ratio = np.exp(risk[1, 0] - risk[0, 0])
    assert ratio == pytest.approx(_published(folder).loc[cancer, "PFI_HR"], rel=1e-3)
