"""Two SPADE folders in one command: every control stands beside the folder that it belongs to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import make_request

from spade_bench.cli.main import main
from spade_bench.evaluation import run
from spade_bench.evaluation.request import EncoderRequest, resolve_task
from spade_bench.features.bags import read_bag, write_features
from spade_bench.report import Resampler, against_base, collect
from spade_bench.results import ResultStore, Row, read_predictions


def _run(study: Any, out: Path, folders: dict[str, Path], **changes: Any) -> list[Row]:
    encoders = tuple(EncoderRequest("spade", label, path) for label, path in folders.items())
    values: dict[str, Any] = {
        "encoders": encoders,
        "tasks": (resolve_task("my_task", study.table, None),),
        "out": out,
        "features": {"*": study.features},
        "shots": (4,),
        "draws": 2,
        "device": "cpu",
        **changes,
    }
    assert run(make_request(**values)).failed == 0
    return ResultStore(out).rows()


def _told(out: Path) -> dict[tuple[Any, ...], list[list[float]]]:
    return {
        (row.encoder, row.flags, row.draw): read_predictions(out, row.run_id).scores.tolist()
        for row in ResultStore(out).rows()
    }


def _names(rows: list[Row]) -> set[tuple[str, str]]:
    """Labels with the control that they are; nothing for an encoder itself."""
    return {
        (row.encoder, next((f[8:] for f in row.flags if f.startswith("control:")), ""))
        for row in rows
    }


def test_together_they_have_the_rows_that_each_has_alone(
    study: Any, tmp_path: Path, folders: dict[str, Path]
) -> None:
    rows = _run(study, tmp_path / "both", folders)
    alone = [
        row
        for label in folders
        for row in _run(study, tmp_path / f"only-{label}", {label: folders[label]})
    ]
    assert {row.run_id for row in rows} == {row.run_id for row in alone}
    assert _told(tmp_path / "both") == {
        **_told(tmp_path / "only-a"),
        **_told(tmp_path / "only-b"),
    }
    assert _names(rows) == {
        *{(label, name) for label in "ab" for name in ("", "permuted-labels")},
        *{(f"{label}-{name}", name) for label in "ab" for name in ("k1", "random-routing")},
        *{("mine", "base"), ("mine+pca8", "pca"), ("mine+pca6", "pca")},
        *{("mine+random8", "random-projection"), ("mine+random6", "random-projection")},
    }


def test_the_single_expert_and_the_routing_are_those_of_the_folder(
    study: Any, tmp_path: Path, folders: dict[str, Path]
) -> None:
    _run(study, tmp_path / "both", folders)
    told = {(name, draw): scores for (name, _, draw), scores in _told(tmp_path / "both").items()}
    singles = {label: path / "controls" / "k1" for label, path in folders.items()}
    _run(study, tmp_path / "single", singles, controls=False)
    for (label, _, draw), scores in _told(tmp_path / "single").items():
        assert told[f"{label}-k1", draw] == scores
    routed = tuple(
        EncoderRequest("spade", label, path, {"routing": "random"})
        for label, path in folders.items()
    )
    _run(study, tmp_path / "routed", {}, encoders=routed, controls=False)
    for (label, _, draw), scores in _told(tmp_path / "routed").items():
        assert told[f"{label}-random-routing", draw] == scores
    assert len({str(scores) for scores in told.values()}) == len(told)


def _other_features(study: Any, folder: Path) -> Path:
    """Features of the same slides and encoder name, as of another magnification."""
    for slide in study.slides:
        x = read_bag(study.features / f"{slide}.h5").features
        noise = np.random.default_rng(len(slide)).normal(size=x.shape)
        write_features(folder / f"{slide}.h5", x + 3 * noise, slide_id=slide, encoder="mine")
    return folder


def test_bases_of_one_name_from_two_folders_are_told_apart(
    study: Any, tmp_path: Path, folders: dict[str, Path]
) -> None:
    features = {"a": study.features, "b": _other_features(study, tmp_path / "other")}
    both = tmp_path / "both"
    rows = _run(study, both, folders, features=features)
    for label, path in folders.items():
        own = {(name, control) for name, control in _names(rows) if f"@{label}" in name}
        width = {"a": 8, "b": 6}[label]
        assert own == {
            (f"mine@{label}", "base"),
            (f"mine@{label}+pca{width}", "pca"),
            (f"mine@{label}+random{width}", "random-projection"),
        }
        out = tmp_path / f"only-{label}"
        _run(study, out, {label: path}, features={"*": features[label]})
        alone = {(name, draw): s for (name, _, draw), s in _told(out).items()}
        for (name, _, draw), scores in _told(both).items():
            if f"@{label}" in name:
                assert scores == alone[name.replace(f"@{label}", ""), draw]
    pairs = {(d.a, d.b) for d in against_base(collect(both), Resampler(both, n_boot=20))}
    assert pairs == {("a", "mine@a"), ("b", "mine@b")}


def test_a_base_asked_for_by_name_stays_the_one_it_is(
    study: Any, tmp_path: Path, folders: dict[str, Path]
) -> None:
    features = {"mine": study.features, "b": _other_features(study, tmp_path / "other")}
    asked = (
        EncoderRequest("mine", "mine"),
        *(EncoderRequest("spade", label, path) for label, path in folders.items()),
    )
    out = tmp_path / "out"
    given = {"encoders": asked, "features": {**features, "a": study.features}}
    rows = _run(study, out, {}, **given)
    assert {n for n in _names(rows) if n[1] in {"", "base"}} == {
        *{("mine", ""), ("a", ""), ("b", ""), ("mine@b", "base")},
    }
    pairs = {(d.a, d.b) for d in against_base(collect(out), Resampler(out, n_boot=20))}
    assert pairs == {("a", "mine"), ("b", "mine@b")}


def test_the_table_puts_controls_below_their_encoder(
    study: Any, tmp_path: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = {"mi": folders["a"], "mi-x": folders["b"]}  # prefixes of each other and of the base
    out = tmp_path / "out"
    _run(study, out, labelled)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["report", str(out), "--no-plots"])
    lines = capsys.readouterr().out.split("minus")[0].splitlines()
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    shuffled = "permuted labels"
    blocks = {"mi": ["mi", shuffled, "mi-k1", "mi-random-routing", "mine", "mine+pca8",
                     "mine+random8"],
              "mi-x": ["mi-x", shuffled, "mi-x-k1", "mi-x-random-routing", "mine+pca6",
                       "mine+random6"]}  # fmt: skip
    for label, block in blocks.items():
        start = names.index(label)
        assert names[start : start + len(block)] == block
    assert len(names) == sum(map(len, blocks.values()))


def test_equal_folders_share_their_base(
    study: Any, tmp_path: Path, folders: dict[str, Path]
) -> None:
    rows = _run(study, tmp_path / "out", folders)
    task = resolve_task("my_task", study.table, None)
    again = run(
        make_request(
            encoders=tuple(EncoderRequest("spade", n, p) for n, p in reversed(folders.items())),
            tasks=(replace(task),),
            out=tmp_path / "out",
            features={"*": study.features},
            shots=(4,),
            draws=2,
            device="cpu",
        )
    )
    assert (again.done, again.skipped) == (0, len(rows))
    assert not any("@" in row.encoder for row in rows)
