"""Published splits run as they are: Patho-Bench folders, pairs of cohorts, CLAM split files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import make_request

from spade_bench.errors import DataError, UserError
from spade_bench.evaluation import EvaluationRequest, run
from spade_bench.evaluation import hyperparameters as select
from spade_bench.evaluation.request import EncoderRequest, resolve_task
from spade_bench.report import collect
from spade_bench.results import ResultStore, read_predictions


def _ask(study: Any, out: Path, task: Any, **changes: Any) -> EvaluationRequest:
    return make_request(
        encoders=(EncoderRequest("mine", "mine"),),
        tasks=(task,),
        out=out,
        features={"*": study.features},
        device="cpu",
        **{"controls": False, "heads": ("knn",), **changes},
    )


def _slides(study: Any) -> list[tuple[str, str, str]]:
    lines = study.table.read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    return [(case, slide, label) for case, slide, label in rows]


def _patho_bench(study: Any, folder: Path, leaky: bool, name: str = "k=all.tsv") -> Path:
    """Two folds over the cases; leaky puts the two slides of case000 on two sides."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["case_id\tslide_id\tkind\tfold_0\tfold_1"]
    for case, slide, label in _slides(study):
        number = int("".join(filter(str.isdigit, case)))
        zero = "test" if number % 4 < 2 else "val" if number % 8 == 2 else "train"
        one = "-1" if number == 3 else "train" if number % 4 < 2 else "test"
        if leaky and slide.endswith("000-s1"):
            zero = "train"
        lines.append(f"{case}\t{slide}\t{int(label == 'tumor')}\t{zero}\t{one}")
    (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(
        "task_col: kind\nsample_col: case_id\nextra_cols: []\ntask_type: classification\n"
        "label_dict: {0: normal, 1: tumor}\nmetrics: [macro-ovr-auc]\n"
    )
    return folder


def test_a_folder_runs_as_it_is(study: Any, tmp_path: Path) -> None:
    folder = _patho_bench(study, tmp_path / "tcga_x" / "kind", leaky=False)
    out = tmp_path / "out"
    task = resolve_task(f"patho-bench:{folder}", None, None)
    assert task.card.name == "tcga_x--kind"
    assert run(_ask(study, out, task)).done == 2
    rows = ResultStore(out).rows()
    assert [(r.protocol, r.fold, r.k_shot) for r in rows] == [("cv", 0, None), ("cv", 1, None)]
    assert not any("leaky-splits" in r.flags for r in rows)
    tested = read_predictions(out, rows[0].run_id).case_ids
    assert set(tested) == {f"case{i:03d}" for i in range(40) if i % 4 < 2}
    assert rows[0].n["train"] == 15  # five validation cases do not train
    assert run(_ask(study, out, task)).skipped == 2
    with pytest.raises(UserError, match="protocol cv, not external"):
        run(_ask(study, out, task, protocol="external"))
    with pytest.raises(DataError, match="few-shot splits were not published"):
        run(_ask(study, out, task, protocol="few-shot"))
    assert run(_ask(study, out, task, select=True)).done == 2


def test_a_leak_is_refused_by_name_or_flagged_on_every_row(study: Any, tmp_path: Path) -> None:
    folder = _patho_bench(study, tmp_path / "tcga_x" / "kind", leaky=True)
    task = resolve_task(f"patho-bench:{folder}", None, None)
    with pytest.raises(DataError, match=r"case000.*--allow-leaky-splits"):
        run(_ask(study, tmp_path / "refused", task))
    assert not (tmp_path / "refused").exists()
    out = tmp_path / "out"
    summary = run(_ask(study, out, task, allow_leaky_splits=True, controls=True))
    assert summary.failed == 0
    assert all("leaky-splits" in row.flags for row in ResultStore(out).rows())
    for row in ResultStore(out).rows():
        told = read_predictions(out, row.run_id)
        assert told.patients == tuple(slide[: len("case000")] for slide in told.case_ids)


def test_inner_folds_keep_the_slides_of_a_patient_together(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _patho_bench(study, tmp_path / "tcga_x" / "kind", leaky=True)
    lines = (folder / "k=all.tsv").read_text().replace("\tval\t", "\ttrain\t")
    (folder / "k=all.tsv").write_text(lines)
    seen: list[tuple[set[str], set[str]]] = []
    real = select._splits

    def spy(job: Any, cases: Any, *rest: Any) -> Any:
        found = real(job, cases, *rest)
        for train, _, valid, _ in found:
            seen.append(
                ({cases[i].case_id[:7] for i in train}, {cases[i].case_id[:7] for i in valid})
            )
        return found

    monkeypatch.setattr(select, "_splits", spy)
    task = resolve_task(f"patho-bench:{folder}", None, None)
    asked = _ask(study, tmp_path / "out", task, allow_leaky_splits=True, select=True)
    assert run(asked).failed == 0
    assert len(seen) == 6  # three inner folds of two outer ones
    for train, valid in seen:
        assert train
        assert valid
        assert not train & valid


def test_published_shots(study: Any, tmp_path: Path) -> None:
    folder = _patho_bench(study, tmp_path / "tcga_x" / "kind", leaky=False)
    _patho_bench(study, folder, leaky=False, name="k=4.tsv")
    out = tmp_path / "out"
    task = resolve_task(f"patho-bench:{folder}", None, None)
    assert run(_ask(study, out, task, protocol="few-shot", shots=(1, 4))).done == 2
    rows = ResultStore(out).rows()
    assert read_predictions(out, rows[0].run_id).patients == ()  # the units are patients
    assert [(r.protocol, r.k_shot, r.draw) for r in rows] == [
        ("few-shot", 4, 0),
        ("few-shot", 4, 1),
    ]


def test_published_tasks_and_shots_are_told_apart_by_splits_only_where_one_has_several(
    study: Any, tmp_path: Path
) -> None:
    folders = [_patho_bench(study, tmp_path / name / "kind", leaky=False) for name in "ab"]
    lines = (folders[1] / "k=all.tsv").read_text().splitlines()
    (folders[1] / "k=all.tsv").write_text("\n".join(line.rsplit("\t", 1)[0] for line in lines))
    _patho_bench(study, folders[0], leaky=False, name="k=2.tsv")
    text = (folders[0] / "k=2.tsv").read_text()
    (folders[0] / "k=4.tsv").write_text(text.replace("\ttrain\t", "\t-1\t", 1))
    out = tmp_path / "out"
    tasks = [resolve_task(f"patho-bench:{folder}", None, None) for folder in folders]
    for task in tasks:
        run(_ask(study, out, task))
    for shot in (2, 4):
        run(_ask(study, out, tasks[0], protocol="few-shot", shots=(shot,)))
    assert len({row.inputs["splits"] for row in ResultStore(out).rows()}) == 4
    assert {one.condition for one in collect(out)} == {()}
    text = (folders[1] / "k=all.tsv").read_text().replace("test", "?").replace("train", "test")
    (folders[1] / "k=all.tsv").write_text(text.replace("?", "train"))
    run(_ask(study, out, tasks[1]))
    told = {(one.task, *one.condition) for one in collect(out)}
    assert ("a--kind",) in told
    found = [one.condition for one in collect(out) if one.task == "b--kind" and one.rows]
    assert len(set(found)) == 2
    assert all(words.startswith("published splits ") for (words,) in found)


def test_a_pair_of_cohorts(study: Any, other_study: Any, tmp_path: Path) -> None:
    _patho_bench(study, tmp_path / "pb" / "one" / "kind", leaky=False)
    _patho_bench(other_study, tmp_path / "pb" / "two" / "kind", leaky=False)
    out = tmp_path / "out"
    task = resolve_task(f"patho-bench:{tmp_path / 'pb' / 'one==two--kind'}", None, None)
    assert task.card.name == "one==two--kind"
    summary = run(_ask(study, out, task, test_features={"*": other_study.features}))
    assert summary.done == 1
    (row,) = ResultStore(out).rows()
    assert (row.protocol, row.n["train"], row.n["test"]) == ("external", 40, 24)
    assert all(c.startswith("other") for c in read_predictions(out, row.run_id).case_ids)


def test_clam_split_files(study: Any, tmp_path: Path) -> None:
    splits = tmp_path / "splits"
    splits.mkdir()
    slides = [slide for _, slide, _ in _slides(study)]
    for fold in (0, 1):
        test = [s for s in slides if int(s[4:7]) % 4 // 2 == fold]
        train = [s for s in slides if s not in test]
        rows = [f"{i},{t},,{test[i] if i < len(test) else ''}" for i, t in enumerate(train)]
        (splits / f"splits_{fold}.csv").write_text(",train,val,test\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    task = resolve_task("my_task", study.table, None, splits=splits)
    assert run(_ask(study, out, task)).done == 2
    rows = ResultStore(out).rows()
    assert [(r.protocol, r.fold) for r in rows] == [("cv", 0), ("cv", 1)]
    tested = [c for r in rows for c in read_predictions(out, r.run_id).case_ids]
    assert len(tested) == len(set(tested))
    lines = study.table.read_text().splitlines()
    study.table.write_text("\n".join([lines[0] + ",simulated", *(f"{x},1" for x in lines[1:])]))
    assert run(_ask(study, tmp_path / "sim", task)).done == 2
    assert all("simulated" in r.flags for r in ResultStore(tmp_path / "sim").rows())


def test_a_folder_without_config_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no config\.yaml"):
        resolve_task(f"patho-bench:{tmp_path}", None, None)
    with pytest.raises(DataError, match="not TRAIN==TEST--TASK"):
        resolve_task(f"patho-bench:{tmp_path / 'a==b'}", None, None)
