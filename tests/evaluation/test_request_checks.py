"""What a request says and the run would not do, or would do with other things, is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from command_line import changed

from spade_bench import evaluation as runner
from spade_bench import workspace as ws
from spade_bench.errors import UserError
from spade_bench.evaluation.request import EncoderRequest
from spade_bench.evaluation.resolve import resolve
from spade_bench.evaluation.settings import EvaluationSettings
from spade_bench.features.bags import write_features
from spade_bench.registry import encoders
from spade_bench.results import ResultStore
from spade_bench.types import LoadOptions


def settings_of(
    folder: Path, encoder: str = "mine", made_by: str = "mine", **options: Any
) -> EvaluationSettings:
    features = folder / "features"
    lines = ["case_id,slide_id,label"]
    for i in range(24):
        x = np.random.default_rng(i).normal(size=(3, 8)) + i % 2
        write_features(features / f"s{i}.h5", x, slide_id=f"s{i}", encoder=made_by)
        lines.append(f"c{i},s{i},{('normal', 'tumor')[i % 2]}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return EvaluationSettings(
        encoders=(encoder,),
        tasks=("t",),
        tables={"*": folder / "t.csv"},
        features={"*": features},
        controls=False,
        device="cpu",
        out=folder / "out",
        **options,
    )


@pytest.mark.parametrize(
    ("protocol", "option", "value", "owner"),
    [
        (None, "folds", 3, "cv"),
        ("few-shot", "group_by_site", True, "cv"),
        (None, "holdout", 0.3, "cv"),
        (None, "repeats", 2, "cv and external"),
        ("cv", "shots", (1, 2), "few-shot"),
        ("cv", "draws", 2, "few-shot"),
        ("cv", "test_tables", {"*": Path("x.csv")}, "external"),
        ("few-shot", "test_features", {"*": Path("x")}, "external"),
        ("external", "folds", 3, "cv"),
    ],
)
def test_options_of_another_protocol(
    tmp_path: Path, protocol: str | None, option: str, value: Any, owner: str
) -> None:
    with pytest.raises(UserError, match=f"is an option of {owner}, and the protocol is"):
        resolve(settings_of(tmp_path, protocol=protocol, **{option: value}), None)


WRONG: list[tuple[str, str, Any]] = [
    ("few-shot", "folds", 3),
    ("few-shot", "repeats", 2),
    ("few-shot", "holdout", 0.3),
    ("few-shot", "group_by_site", True),
    ("few-shot", "test_features", {"*": Path("x")}),
    ("cv", "shots", (1, 2)),
    ("cv", "draws", 2),
    ("cv", "test_features", {"*": Path("x")}),
    ("external", "draws", 2),
]


@pytest.mark.parametrize(("protocol", "option", "value"), WRONG)
def test_options_of_another_protocol_in_a_request_built_in_python(
    tmp_path: Path, protocol: str, option: str, value: Any
) -> None:
    request = resolve(settings_of(tmp_path), None)
    request = changed(request, protocol=protocol, **{option: value})
    with pytest.raises(UserError, match=f"is an option of .*, and the protocol is {protocol}"):
        runner.run(request)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("seed", -1), ("draws", 0), ("folds", 1), ("shots", (0, 2))]
)
def test_numbers_too_small_in_a_request_built_in_python(
    tmp_path: Path, option: str, value: Any
) -> None:
    request = changed(resolve(settings_of(tmp_path), None), **{option: value})
    with pytest.raises(UserError, match=f"--{option} (is|holds)"):
        runner.run(request)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("shots", (1, 2), "is an option of few-shot, and the protocol is cv"),
        ("draws", 10, "is an option of few-shot, and the protocol is cv"),  # what is usual
        ("folds", 5, "published splits have divided them already"),
        ("repeats", 2, "published splits have divided them already"),
        ("holdout", 0.3, "published splits have divided them already"),
        ("group_by_site", True, "published splits have divided them already"),
    ],
)
def test_options_that_published_splits_leave_no_room_for(
    tmp_path: Path, option: str, value: Any, said: str
) -> None:
    plan = settings_of(tmp_path, splits={"*": tmp_path / "splits"})
    names = [f"s{i}" for i in range(24)]
    (tmp_path / "splits").mkdir()
    for fold in range(2):
        test = names[fold * 8 : fold * 8 + 8]
        train = [name for name in names if name not in test]
        rows = [f"{i},{a},," + (test[i] if i < len(test) else "") for i, a in enumerate(train)]
        text = ",train,val,test\n" + "\n".join(rows) + "\n"
        (tmp_path / "splits" / f"splits_{fold}.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        runner.run(resolve(replace(plan, **{option: value}), None))
    assert runner.run(resolve(plan, None)).done == 2


@pytest.mark.parametrize("option", ["shots", "draws"])
def test_what_the_workspace_says_for_another_protocol_is_said(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spade-bench.yaml"
    file.write_text(f"run: {{{option}: {'[1, 2]' if option == 'shots' else 3}}}\n")
    workspace = ws.load(file)
    runner.run(resolve(settings_of(tmp_path, protocol="cv", folds=2), workspace))
    told = f"{option} of `run` belong to few-shot and are not used with cv"
    assert told in capsys.readouterr().err
    runner.run(resolve(settings_of(tmp_path, shots=(2,), draws=1), workspace))
    assert "not used with" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "meant"),
    [("crc_braff", "crc_braf"), ("CRC_BRAF", "crc_braf"), ("crc-msi", "crc_msi"), ("t", "")],
)
def test_a_task_name_near_a_registered_one(
    tmp_path: Path, name: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = replace(settings_of(tmp_path, shots=(2,), draws=1), tasks=(name,))
    runner.run(resolve(plan, None))
    told = capsys.readouterr().err
    assert f"task '{name}' is not registered" in told
    assert ("Did you mean" in told) == bool(meant)
    assert meant in told
    rows = ResultStore(tmp_path / "out").rows()
    assert all("unregistered" in row.flags for row in rows)
    with pytest.raises(UserError, match="Did you mean" if meant else "unknown task"):
        resolve(replace(plan, tables={}), None)


@pytest.mark.parametrize("option", ["event_column", "days_column", "event_value"])
def test_options_of_survival_over_classes(tmp_path: Path, option: str) -> None:
    with pytest.raises(UserError, match="is an option of survival, and every task here is class"):
        resolve(settings_of(tmp_path, **{option: "x"}), None)


def test_options_of_classes_over_survival(tmp_path: Path, survival: Any) -> None:
    told = settings_of(tmp_path, positive="1")
    told = replace(told, tables={"*": survival.table})
    with pytest.raises(UserError, match="--positive is an option of classification, and every"):
        resolve(told, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("seed", -1), ("draws", 0), ("draws", -2), ("folds", 1), ("repeats", 0), ("shots", (0, 2))],
)
def test_numbers_too_small(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--{option} (is|holds)"):
        resolve(settings_of(tmp_path, **{option: value}), None)


@pytest.mark.parametrize("name", ["hipt4k", "uni"])
def test_files_of_another_encoder(tmp_path: Path, name: str) -> None:
    few: dict[str, Any] = {"shots": (2,), "draws": 1}
    with pytest.raises(UserError, match="Did you mean --encoder other"):
        runner.run(resolve(settings_of(tmp_path, name, "other", **few), None))
    runner.run(resolve(settings_of(tmp_path, name, "other", as_is=True, **few), None))
    rows = [json.loads(r) for r in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert rows
    assert all("encoder-mismatch:other" in row["flags"] for row in rows)
    assert all("unregistered" in row["flags"] for row in rows)


def _mean_pool(options: LoadOptions) -> Any:
    loaded = encoders.get("mean-pool").load(options)
    loaded.card = replace(loaded.card, upstream="mine")
    return loaded


@pytest.fixture
def slides_of_mine() -> Iterator[str]:
    """A slide encoder that takes features of `mine` only."""
    card = replace(encoders.get("mean-pool").card, name="pool-mine", upstream="mine")
    encoders.add(card, _mean_pool)
    yield card.name
    del encoders._plugins[card.name]


@pytest.mark.parametrize("kind", ["chained", "slides"])
def test_files_of_another_base(
    tmp_path: Path, kind: str, half: str, weights: Path, slides_of_mine: str
) -> None:
    name = half if kind == "chained" else slides_of_mine
    made = settings_of(tmp_path, name, "other", shots=(2,), draws=1)
    plan = resolve(replace(made, controls=True), None)
    if kind == "chained":
        plan = replace(plan, encoders=(EncoderRequest(name, name, weights),))
    with pytest.raises(UserError, match=f"'{name}' takes features of 'mine', but .* 'other'"):
        runner.run(plan)
    assert runner.run(changed(plan, as_is=True)).failed == 0
    rows = ResultStore(tmp_path / "out").rows()
    assert len(rows) > 2
    assert all("encoder-mismatch:other" in row.flags for row in rows)
    assert {row.inputs.get("base") for row in rows} <= {"other", None}


@pytest.mark.parametrize("said", ["mine", None])
def test_files_of_another_encoder_for_the_cohort_to_test_on(
    tmp_path: Path, said: str | None, study: Any, other_study: Any, uni_study: Any
) -> None:
    if said is None:  # the training cohort's files say nothing
        for path in study.features.iterdir():
            with h5py.File(path, "r") as file:
                features = file["features"][:]
            with h5py.File(path, "w") as file:
                file["features"] = features
        study.features.rename(tmp_path / "f")
        study = replace(study, features=tmp_path / "f")
    plan = resolve(
        EvaluationSettings(
            encoders=("mine",),
            tasks=("t",),
            tables={"*": study.table},
            features={"*": study.features},
            test_tables={"*": other_study.table},
            test_features={"*": uni_study.features},
            device="cpu",
            out=tmp_path / "out",
        ),
        None,
    )
    with pytest.raises(UserError, match="asked for encoder 'mine', but the files name 'uni'"):
        runner.run(plan)
    assert runner.run(changed(plan, as_is=True)).failed == 0
    rows = ResultStore(tmp_path / "out").rows()
    assert all("encoder-mismatch:uni" in row.flags for row in rows)


def test_a_misspelt_name_over_files_that_say_nothing(tmp_path: Path) -> None:
    plan = settings_of(tmp_path, "resnet5O", shots=(2,), draws=1)
    bare = tmp_path / "x"
    bare.mkdir()
    for path in plan.features["*"].iterdir():
        with h5py.File(bare / path.name, "w") as file:
            file["features"] = np.ones((3, 8), dtype="f4")
    request = resolve(EvaluationSettings(features={"*": bare}).over(plan), None)
    with pytest.raises(UserError, match="Did you mean 'resnet50"):
        runner.run(request)


def test_the_class_order_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few: dict[str, Any] = {"shots": (2,), "draws": 1}
    runner.run(resolve(settings_of(tmp_path, positive="normal", **few), None))
    text = " ".join(capsys.readouterr().err.split())
    assert "positive class: normal" in text
