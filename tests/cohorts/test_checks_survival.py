"""Checks of events and times: inverted, impossible or misread columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checked_tables import bad, check, survival_rows

from spade_bench.cohorts.checks.validation import Question, rewrite_events
from spade_bench.errors import ConfigError, DataError


def test_survival_without_faults(tmp_path: Path) -> None:
    found = check(tmp_path, survival_rows())
    assert bad(found) == set()
    assert "200 cases" in found["note:events"][0].text  # type: ignore[attr-defined]


def test_times(tmp_path: Path) -> None:
    rows = survival_rows()
    rows[0]["duration_days"], rows[1]["duration_days"], rows[2]["duration_days"] = 0, -5, "soon"
    found = check(tmp_path, rows)
    assert {issue.text.split(" ", 1)[1] for issue in found["error:times"]} == {  # type: ignore[attr-defined]
        "case(s) have a negative time",
        "time(s) are not numbers",
    }
    assert found["warning:times"][0].examples == ("c0",)  # type: ignore[attr-defined]
    months = [row | {"duration_days": row["duration_days"] / 30.44} for row in survival_rows()]  # type: ignore[operator]
    assert "or months?" in check(tmp_path, months)["warning:times"][0].text  # type: ignore[attr-defined]


def test_inverted_events_are_an_error_until_confirmed(tmp_path: Path) -> None:
    rows = [row | {"event": 1 - int(row["event"])} for row in survival_rows()]  # type: ignore[call-overload]
    found = check(tmp_path, rows)
    issue = found["error:event-polarity"][0]
    assert "looks inverted" in issue.text  # type: ignore[attr-defined]
    assert "--event-value" in issue.fix  # type: ignore[attr-defined]
    assert bad(check(tmp_path, rows, event_value="1")) == set()
    turned = check(tmp_path, rows, event_value="0")
    assert bad(turned) == {"error:event-values"}
    assert turned["note:events"][0].text == check(tmp_path, survival_rows())["note:events"][0].text  # type: ignore[attr-defined]


def test_a_censoring_column_is_not_taken_for_an_event(tmp_path: Path) -> None:
    rows = survival_rows()
    for row in rows:
        row["censorship"] = 1 - int(row.pop("event"))  # type: ignore[call-overload]
    found = check(tmp_path, rows)
    assert "error:event-polarity" in found
    assert "error:event-values" in check(tmp_path, rows, event_value="1")  # runs read `event`
    frame = rewrite_events(Question(tmp_path / "table.csv", event_value="0"))
    want = [str(row["event"]) for row in survival_rows()]
    assert list(frame["event"]) == want
    assert "censorship" not in frame


def test_words_for_events_need_a_value(tmp_path: Path) -> None:
    rows = [row | {"event": ["Alive", "Dead"][int(row["event"])]} for row in survival_rows()]  # type: ignore[call-overload]
    found = check(tmp_path, rows)
    assert set(found["error:event-values"][0].examples) == {"Alive", "Dead"}  # type: ignore[attr-defined]
    assert "note:events" in check(tmp_path, rows, event_value="dead")
    with pytest.raises(DataError, match="no row has event"):
        rewrite_events(Question(tmp_path / "table.csv", event_value="gone"))
    with pytest.raises(ConfigError, match="--event-value"):
        rewrite_events(Question(tmp_path / "table.csv"))


def test_many_deaths_with_the_longest_followed_alive_are_no_inversion(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    death = rng.exponential(400, 200)
    rows = [
        row | {"event": int(days < 900), "duration_days": round(min(days, 900)) + 1}
        for row, days in zip(survival_rows(), death, strict=True)
    ]
    found = check(tmp_path, rows)
    assert int(found["note:events"][0].count) > 150  # type: ignore[attr-defined]
    assert bad(found) == set()


def test_nobody_had_the_event(tmp_path: Path) -> None:
    rows = [row | {"event": 0} for row in survival_rows()]
    assert "error:events" in check(tmp_path, rows)


def test_polarity_on_all_endpoints_of_tcga(shared_data: Path, tmp_path: Path) -> None:
    cdr = pd.read_csv(shared_data / "tcga_labels" / "tcga_cdr.csv.gz")
    seen = 0
    for (_, cases), endpoint in (
        (group, e) for group in cdr.groupby("type") for e in ("OS", "DSS", "DFI", "PFI")
    ):
        known = cases.dropna(subset=[endpoint, f"{endpoint}.time"])
        rows = [
            {"case_id": c, "slide_id": c, "site": "h", "event": int(e), "duration_days": t}
            for c, e, t in zip(
                known["patient"], known[endpoint], known[f"{endpoint}.time"], strict=True
            )
        ]
        names = {name.split(":")[1] for name in check(tmp_path, rows)}
        assert "event-polarity" not in names
        turned = [row | {"event": 1 - row["event"]} for row in rows]
        found = {name.split(":")[1] for name in check(tmp_path, turned)}
        assert "event-polarity" in found
        seen += 1
    assert seen == 24
