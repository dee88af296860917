"""Encoders x tasks: cells equal those of --json, marks equal the paired test, text is escaped."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spade_bench as sb
from spade_bench.cli.main import main
from spade_bench.escaping import latex_cell
from spade_bench.report.flags import code
from spade_bench.report.overall import overall
from spade_bench.report.wide import BEST, TIE, UNTESTED, paired_p

N = 80
STRENGTH = {"uni": 2.5, "gigapath": 2.4, "resnet50": 0.1}
ODD = "50%_of_it & $more {x} \\ ~^ #1 <b>"

Print = Callable[..., str]


@pytest.fixture
def show(store: Any, classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Print:
    """Run a command over made-up results, and return what it printed."""
    for t, task in enumerate(("crc_braf", "crc_msi", ODD)):
        label = (np.random.default_rng(t).uniform(size=N) < 0.4).astype(int)
        for e, (encoder, strength) in enumerate(STRENGTH.items()):
            for k in (1, 4):
                for draw in (0, 1):
                    z = label * strength + np.random.default_rng([t, e, k, draw]).normal(size=N)
                    place = {"encoder": encoder, "task": task, "k_shot": k, "draw": draw}
                    store(tmp_path, place, classes(1 / (1 + np.exp(-z)), label),
                          flags=("contamination:unknown",))  # fmt: skip
        shuffled = classes(np.random.default_rng(t).uniform(size=N), label)
        store(tmp_path, {"encoder": "uni", "task": task}, shuffled, control="permuted-labels",
              control_of="uni", flags=("control:permuted-labels",))  # fmt: skip

    def run(*arguments: str, command: str = "report", code: int = 0) -> str:
        with pytest.raises(SystemExit, match=str(code)):
            main([command, str(tmp_path), "--no-plots", *arguments])
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def _printed(folder: Path, form: str) -> str:
    path = folder / "printed"
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(folder), "--no-plots", form, "--out", str(path)])
    return path.read_text()


def _marks_of(folder: Path, column: str) -> dict[str, str]:
    """The marks of a column by encoder, where the table has it."""
    lines = csv.DictReader(_printed(folder, "--csv").splitlines())
    return {row["encoder"]: row[f"{column}:mark"] for row in lines if row[column]}


def test_the_cells_are_those_of_json(show: Print) -> None:
    told = json.loads(show("--json"))["rows"]
    wide = list(csv.DictReader(show("--csv", "--metric", "all").splitlines()))
    seen = 0
    for row in told:
        if row["control"] and row["mean"] is None:
            continue  # a control that was never run here has no line
        name = f"{row['task']}:{row['metric']}"
        (line,) = [one for one in wide
                   if (one["encoder"], one["control"], one["k_shot"], one["protocol"])
                   == (row["encoder"], row["control"], str(row["k_shot"] or ""),
                       row["protocol"])]  # fmt: skip
        for column, key in ((name, "mean"), (f"{name}:low", "ci_low"), (f"{name}:high", "ci_high")):
            assert line[column] == ("" if row[key] is None else repr(row[key]))
        seen += 1
    assert seen >= 24
    filled = sum(bool(value) for line in wide for name, value in line.items()
                 if name.count(":") == 1)  # fmt: skip
    assert filled == sum(row["mean"] is not None for row in told)
    assert set(wide[0]["flags"].split(";")) >= {"contamination:unknown"}


def test_the_marks_are_those_of_the_paired_test(show: Print, tmp_path: Path) -> None:
    wide = list(csv.DictReader(show("--csv").splitlines()))
    results = sb.load_results(tmp_path)
    seen = set()
    for k in ("1", "4"):
        for task in ("crc_braf", "crc_msi"):
            column = f"{task}:auroc"
            lines = {row["encoder"]: row for row in wide
                     if row["k_shot"] == k and not row["control"]}  # fmt: skip
            best = max(lines, key=lambda name: float(lines[name][column]))
            assert lines[best][f"{column}:mark"] == BEST
            raw = {}
            for other in lines.keys() - {best}:
                table = results.compare(best, other, "auroc")
                (one,) = table[(table.task == task) & (table.k_shot == int(k))].itertuples()
                raw[other] = one.p
            low, high = sorted(raw, key=lambda name: raw[name])
            holm = {low: min(1.0, 2 * raw[low])}
            holm[high] = min(1.0, max(holm[low], raw[high]))
            for other, p in holm.items():
                mark = lines[other][f"{column}:mark"]
                assert mark == (TIE if p >= 0.05 else "")
                seen.add(mark)
            here = [s for s in results.series if s.task == task and s.k_shot == int(k)]
            assert paired_p(here, results.resampler, "auroc", best, list(holm)) == pytest.approx(
                holm
            )
    assert seen == {TIE, ""}


def test_marks_of_mean_ranks_are_adjusted_over_the_encoders(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    """Over six tasks p is 1/32 at least: below 0.05 for one encoder, not for each of three."""
    label = np.arange(40) % 2
    for task in range(6):
        for at, encoder in enumerate(("a", "b", "c", "d")):
            p = np.where(np.arange(40) < 4 * at, 1 - label, label)
            store(tmp_path, {"encoder": encoder, "task": f"t{task}"}, classes(p, label))
    ranks = overall((found := sb.load_results(tmp_path)).series, found.resampler)
    assert [one.p_best for one in ranks] == [None, *[pytest.approx(1 / 32)] * 3]
    assert _marks_of(tmp_path, "overall:mean_rank") == {"a": BEST, "b": TIE, "c": TIE, "d": TIE}


def test_an_encoder_that_cannot_be_paired_does_not_read_as_worse(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    label = np.arange(N) % 2
    z = np.random.default_rng(0).normal(size=N)
    for encoder, strength, draw in (("a", 2.5, 0), ("b", 0.1, 0), ("other-draw", 1, 1)):
        place = {"encoder": encoder, "task": "t", "draw": draw}
        store(tmp_path, place, classes(1 / (1 + np.exp(-z - strength * (label - 0.5))), label))
    marks = _marks_of(tmp_path, "t:auroc")
    assert marks == {"a": BEST, "b": "", "other-draw": UNTESTED}
    for form, sign in (("--markdown", "‡"), ("--latex", r"\textsuperscript{\ddag}")):
        text = _printed(tmp_path, form)
        line = next(one for one in text.splitlines() if one.startswith(("| other", "other")))
        assert line.count(sign) == 1
        assert f"{sign}: cannot be tested against the best encoder" in text


def test_markdown_has_names_bold_ties_and_a_legend(show: Print) -> None:
    text = show("--markdown")
    few = text[text.index("**few-shot, k=4") : text.index("Mean rank over tasks")]
    assert "BRAF mutation in colorectal cancer (AUROC)" in few
    (line,) = [one for one in few.splitlines() if one.startswith("| ResNet-50 |")]
    assert "**" not in line
    bold = re.findall(r"\| \*\*(\d\.\d{3})\*\* \\\[\d\.\d{3}, \d\.\d{3}\\\]", few)
    assert len(bold) == 3  # a task each
    assert re.search(r"\d\.\d{3}† ", few)
    assert "&nbsp;&nbsp;UNI: permuted labels" in few
    assert "Bold: best encoder of the column" in few
    assert "C? = contamination:unknown: nobody says" in few
    assert "for these training cases" in few
    widths = {one.count(" | ") for one in text.split("**few-shot, k=4")[1].splitlines()
              if one.startswith("| ") and "---" not in one}  # fmt: skip
    assert len(widths) <= 2


def test_long_is_one_number_per_row(show: Print) -> None:
    told = json.loads(show("--json"))["rows"]
    lines = list(csv.DictReader(show("--csv", "--long").splitlines()))
    assert [(line["encoder"], line["metric"], line["mean"]) for line in lines] == [
        (row["encoder"], row["metric"], "" if row["mean"] is None else repr(row["mean"]))
        for row in told
    ]
    lines = show("--markdown", "--long").splitlines()
    table = [one for one in lines if one.startswith("| ") and "---" not in one]
    assert len(table) == len(told) + 1
    assert "--long is for" in show("--long", code=2)


def _balanced(text: str) -> None:
    depth = 0
    for char in re.sub(r"\\[\\{}]", "", text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    open_: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if what == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert open_ == []


@pytest.mark.parametrize("more", [(), ("--long",)])
def test_latex_is_balanced_and_escaped(show: Print, more: tuple[str, ...]) -> None:
    text = show("--latex", *more)
    assert text.startswith(r"% In the preamble: \usepackage{booktabs}")
    _balanced(text)
    body = text.split("\n", 1)[1]
    assert ODD not in body
    plain = re.sub(r"\$\\\w+\$", "", re.sub(r"\\[&%$#_{}]", "", body))
    assert not set("%$#_~^") & set(plain)
    for table in re.findall(
        r"\\begin\{tabular\}\{l\*\{(\d+)\}\{c\}\}(.*?)\\end\{tabular\}", body, re.S
    ):
        cells = int(table[0])
        rows = [one for one in table[1].splitlines() if one.endswith(r" \\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {cells}
        assert [table[1].count(rule) for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
    if not more:
        assert r"\textbf{" in body
        assert r"\textsuperscript{\dag}" in body


def test_latex_text_has_no_command_of_strangers() -> None:
    assert latex_cell(r"a\input{x}_%$&#~^") == (
        r"a\textbackslash{}input\{x\}\_\%\$\&\#\textasciitilde{}\textasciicircum{}"
    )
    assert latex_cell("p < 0.001\nnext") == r"p \textless{} 0.001 next"


@pytest.mark.parametrize(
    ("name", "flag"),
    [("t.csv", "--csv"), ("t.md", "--markdown"), ("t.tex", "--latex"), ("t.json", "--json")],
)
@pytest.mark.parametrize("command", ["report", "compare"])
def test_out_writes_what_would_be_printed(
    show: Print, tmp_path: Path, name: str, flag: str, command: str
) -> None:
    pair = ("--a", "uni", "--b", "resnet50") if command == "compare" else ()
    printed = show(*pair, flag, command=command)
    path = tmp_path / "tables" / name
    assert show(*pair, "--out", str(path), command=command) == ""
    assert path.read_text() == printed
    assert [one.name for one in path.parent.iterdir()] == [name]


def test_formats_exclude_each_other_and_a_file_needs_one(show: Print, tmp_path: Path) -> None:
    assert "exclude each other" in show("--csv", "--latex", code=2)
    assert "does not say which format" in show("--out", str(tmp_path / "t.txt"), code=2)


def test_compare_has_the_same_numbers_in_every_format(show: Print) -> None:
    pair = ("--a", "uni", "--b", "resnet50", "--metric", "all")
    told = json.loads(show(*pair, "--json", command="compare"))
    lines = list(csv.DictReader(show(*pair, "--csv", command="compare").splitlines()))
    assert [float(line["mean"]) for line in lines] == [d["mean"] for d in told["differences"]]
    table = show(*pair, "--markdown", command="compare")
    latex = show(*pair, "--latex", command="compare")
    _balanced(latex)
    for one in told["differences"]:
        assert f"{one['mean']:+.3f}" in table
        assert f"{one['mean']:+.3f}" in latex
    assert "UNI minus ResNet-50" in table
    assert told["verdict"].split(":")[0] in table


@pytest.mark.parametrize("command", ["report", "compare"])
def test_no_line_is_wider_than_the_terminal(
    show: Print, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", "80")
    pair = ("--a", "uni", "--b", "resnet50") if command == "compare" else ()
    text = show(*pair, command=command)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert "C? = contamination:unknown" in text
    numbers = re.findall(r"[-+]?\d\.\d{3} \[[-+]?\d\.\d{3}, [-+]?\d\.\d{3}\]", text)
    assert len(numbers) >= (18 if command == "report" else 6)


def test_a_legend_of_flags_explains_a_column(show: Print) -> None:
    for form in ("--latex", "--markdown"):
        table = show("--a", "uni", "--b", "gigapath", form, command="compare")
        assert "contamination:unknown" in table
        rows = [line for line in table.splitlines() if "BRAF" in line]
        assert rows
        short = code("contamination:unknown")
        assert all(short in line.replace("\\", "") for line in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--latex", "--out", "table.csv"), "'table.csv' ends as csv does, and --latex is given"),
        (("--html", ""), "--html: no file is named"),
        (("--html", "folder"), "--html: 'folder' is a folder"),
        (("--html", "file/report.html"), "is a file, where a folder is needed"),
        (("--out", "folder"), "--out: 'folder' is a folder"),
        (("--html", "r.html", "--maps", "nowhere"), "nowhere: no maps here"),
        (("--html", "results.jsonl"), "which is read here"),
        (("--csv", "--out", "predictions/t.csv"), "which is read here"),
        (("--csv", "--out", "r.html", "--html", "r.html"), "--html: names the file of --out too"),
        (("--by", "site", "--html", "r.html"), "--html: does not go with --by"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_drawn(
    show: Print, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    before = (tmp_path / "results.jsonl").read_bytes()
    said = show("--plots", *arguments, code=2)
    assert words in " ".join(said.split())
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert not (tmp_path / "plots").exists()


def test_one_task_makes_no_mean_rank(
    store: Any, classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.arange(40) % 2
    for seed, encoder in enumerate(("uni", "gigapath")):
        p = np.random.default_rng(seed).uniform(size=40)
        store(tmp_path, {"encoder": encoder, "task": "crc_braf"}, classes(p, label))
    for form in ("--json", "--csv", "--latex"):
        with pytest.raises(SystemExit, match="0"):
            main(["report", str(tmp_path), "--no-plots", form])
        said = capsys.readouterr()
        assert "mean_rank" not in said.out
        assert "Mean rank" not in said.out
        assert "no mean rank over tasks" in said.err


def test_a_closed_pipe_ends_the_command_quietly(store: Any, classes: Any, tmp_path: Path) -> None:
    label = np.arange(40) % 2
    for task in range(40):  # more than a pipe holds
        p = np.random.default_rng(task).uniform(size=40)
        place = {"encoder": "uni", "task": f"task-{task}-{'x' * 60}"}
        store(tmp_path, place, classes(p, label), flags=("simulated",))
    command = [sys.executable, "-m", "spade_bench.cli.main", "report", str(tmp_path), "--no-plots"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(10)
        running.stdout.close()
        said = running.stderr.read().decode()
        assert running.wait() == 0, said
    assert "Error" not in said
