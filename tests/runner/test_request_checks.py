"""What a request says and the run would not do, or would do with other things, is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from spade_bench import runner
from spade_bench.data.bags import write_features
from spade_bench.errors import UserError
from spade_bench.runner.asked import Asked, to_request


def asked(folder: Path, encoder: str = "mine", made_by: str = "mine", **options: Any) -> Asked:
    features = folder / "features"
    lines = ["case_id,slide_id,label"]
    for i in range(24):
        x = np.random.default_rng(i).normal(size=(3, 8)) + i % 2
        write_features(features / f"s{i}.h5", x, slide_id=f"s{i}", encoder=made_by)
        lines.append(f"c{i},s{i},{('normal', 'tumor')[i % 2]}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return Asked(
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
        to_request(asked(tmp_path, protocol=protocol, **{option: value}), None)


@pytest.mark.parametrize("option", ["event_column", "days_column", "event_value"])
def test_options_of_survival_over_classes(tmp_path: Path, option: str) -> None:
    with pytest.raises(UserError, match="is an option of survival, and every task here is class"):
        to_request(asked(tmp_path, **{option: "x"}), None)


def test_options_of_classes_over_survival(tmp_path: Path, survival: Any) -> None:
    told = asked(tmp_path, positive="1")
    told = replace(told, tables={"*": survival.table})
    with pytest.raises(UserError, match="--positive is an option of classification, and every"):
        to_request(told, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("seed", -1), ("draws", 0), ("draws", -2), ("folds", 1), ("repeats", 0), ("shots", (0, 2))],
)
def test_numbers_too_small(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--{option} (is|holds)"):
        to_request(asked(tmp_path, **{option: value}), None)


@pytest.mark.parametrize("name", ["hipt4k", "uni"])
def test_files_of_another_encoder(tmp_path: Path, name: str) -> None:
    few: dict[str, Any] = {"shots": (2,), "draws": 1}
    with pytest.raises(UserError, match="Did you mean --encoder other"):
        runner.run(to_request(asked(tmp_path, name, "other", **few), None))
    runner.run(to_request(asked(tmp_path, name, "other", as_is=True, **few), None))
    rows = [json.loads(r) for r in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert rows
    assert all("encoder-mismatch:other" in row["flags"] for row in rows)
    assert all("unregistered" in row["flags"] for row in rows)


def test_a_misspelt_name_over_files_that_say_nothing(tmp_path: Path) -> None:
    plan = asked(tmp_path, "resnet5O", shots=(2,), draws=1)
    bare = tmp_path / "x"
    bare.mkdir()
    for path in plan.features["*"].iterdir():
        with h5py.File(bare / path.name, "w") as file:
            file["features"] = np.ones((3, 8), dtype="f4")
    request = to_request(Asked(features={"*": bare}).over(plan), None)
    with pytest.raises(UserError, match="Did you mean 'resnet50"):
        runner.run(request)


def test_the_class_order_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few: dict[str, Any] = {"shots": (2,), "draws": 1}
    runner.run(to_request(asked(tmp_path, positive="normal", **few), None))
    text = " ".join(capsys.readouterr().err.split())
    assert "positive class: normal" in text
