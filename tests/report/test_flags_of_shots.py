"""A flag that holds for some shots only does not tear an encoder's line in two."""

from __future__ import annotations

import pytest

from spade_bench.report import terminal
from spade_bench.report.flags import code
from spade_bench.report.leaderboard import ReportRow


def row(encoder: str, shot: int, mean: float, *flags: str) -> ReportRow:
    return ReportRow(
        encoder=encoder,
        task="t",
        head="logistic",
        protocol="few-shot",
        k_shot=shot,
        metric="auroc",
        mean=mean,
        ci_low=mean - 0.1,
        ci_high=mean + 0.1,
        n_cases=20,
        n_draws=2,
        flags=flags,
    )


@pytest.mark.parametrize("flag", ["small-pool", "same-draws", "few-cases"])
def test_one_line_an_encoder_that_says_which_shots(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row("e", 2, 0.7), row("e", 4, 0.8, flag), row("f", 2, 0.6), row("f", 4, 0.65)]
    terminal.print_leaderboard(rows)
    shown = capsys.readouterr().out
    assert "missing" not in shown
    lines = [line for line in shown.splitlines() if "logistic" in line]
    assert len(lines) == 2
    assert "0.700" in lines[0]
    assert "0.800" in lines[0]
    assert f" {code(flag)} (k=4)" in lines[0]
    assert f" {code(flag)} " not in lines[1]


def test_a_flag_of_all_shots_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("e", 2, 0.7, "few-cases"), row("e", 4, 0.8, "few-cases"), row("f", 2, 0.6)]
    terminal.print_leaderboard(rows)
    line = next(x for x in capsys.readouterr().out.splitlines() if "0.700" in x)
    assert f" {code('few-cases')} " in line
    assert "(k=" not in line
