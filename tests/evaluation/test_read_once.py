"""A run reads each bag once for all heads and tasks, and encodes it once for all runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import run_main

from spade_bench.features import bagfiles, casebags
from spade_bench.features.bagmemory import BagMemory
from spade_bench.features.encodedbags import ENCODED
from spade_bench.registry import Plugin
from spade_bench.results import ResultStore

HEADS = ("logistic", "abmil", "mean-mlp")
EPOCHS = 2
FEW = [f"{h}.{what}" for h in HEADS[1:] for what in (f"epochs={EPOCHS}", "min_steps=0")]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file was read, in scans and for training."""
    counted: Counter[Path] = Counter()
    read_bag = bagfiles.read_bag

    def spy(path: Path) -> Any:
        counted[path] += 1
        return read_bag(path)

    monkeypatch.setattr(bagfiles, "read_bag", spy)
    monkeypatch.setattr(casebags, "read_bag", spy)
    return counted


@pytest.fixture
def encoded(half: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Patches in each call of the encoder of features."""
    counted: list[int] = []
    load = Plugin.load

    def spied(plugin: Plugin, *options: Any) -> Any:
        loaded = load(plugin, *options)
        if plugin.name == half:
            encode = loaded.encode
            loaded.encode = lambda x: (counted.append(len(x)), encode(x))[1]
        return loaded

    monkeypatch.setattr(Plugin, "load", spied)
    return counted


@pytest.fixture
def two_tasks(study: Any) -> list[str]:
    """Words of a run of several heads on two tasks; the second one lacks the last cases."""
    lines = study.table.read_text().splitlines()
    part = study.table.with_name("part.csv")
    part.write_text("\n".join(lines[:-6]) + "\n")
    tables = ["--task", "first", "--task", "second"]
    tables += ["--table", f"first={study.table}", "--table", f"second={part}"]
    words = ["run", *tables, "--features", str(study.features), "--protocol", "cv", "--folds", "2"]
    words += ["--keep-heads", "none"]
    words += [word for head in HEADS for word in ("--head", head)]
    return words + [word for one in FEW for word in ("--set", one)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPADE_BENCH_CACHE", str(tmp_path / "cache"))


def _numbers(out: Path) -> dict[tuple[Any, ...], Any]:
    rows = ResultStore(out).rows()
    assert {row.status for row in rows} == {"ok"}
    return {(r.encoder, r.task, r.head, r.fold, r.control): r.metrics for r in rows}


def test_several_heads_and_tasks_read_each_bag_once(
    two_tasks: list[str], study: Any, reads: Counter[Path], tmp_path: Path
) -> None:
    words = [*two_tasks, "--encoder", "mine", "--out", str(tmp_path / "out")]
    assert run_main(*words) == 0
    files = set(study.features.glob("*.h5"))
    assert set(reads) == files
    assert set(reads.values()) == {2}  # once to see that it is sound, once for all heads and tasks


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Leaves bags no memory at all from when it is called."""
    return lambda: monkeypatch.setattr(BagMemory, "keep", lambda *_: False)


@pytest.mark.slow
def test_a_cohort_beyond_the_memory_is_read_once_per_pass(
    two_tasks: list[str],
    study: Any,
    reads: Counter[Path],
    tight: Callable[[], None],
    tmp_path: Path,
) -> None:
    words = [*two_tasks, "--encoder", "mine", "--no-controls", "--cache", "off"]
    assert run_main(*words, "--out", str(tmp_path / "roomy")) == 0
    assert set(reads.values()) == {2}
    reads.clear()
    tight()
    assert run_main(*words, "--out", str(tmp_path / "tight")) == 0
    assert _numbers(tmp_path / "tight") == _numbers(tmp_path / "roomy")
    # A look, a pooling for all heads on means and both tasks, moments for all heads of patches
    # and both tasks; then for each task two epochs of ABMIL and its predictions.
    assert max(reads.values()) == 3 + 2 * (EPOCHS + 1)


def test_features_are_encoded_once_for_heads_tasks_and_runs(
    two_tasks: list[str],
    study: Any,
    reads: Counter[Path],
    encoded: list[int],
    tight: Callable[[], None],
    half: str,
    weights: Path,
    tmp_path: Path,
) -> None:
    n = len(study.table.read_text().splitlines()) - 1
    words = [*two_tasks, "--encoder", half, "--weights", f"{half}={weights}"]
    tight()
    assert run_main(*words, "--no-controls", "--out", str(tmp_path / "one")) == 0
    cases = len({line.split(",")[0] for line in study.table.read_text().splitlines()[1:]})
    assert len(encoded) == cases < n  # the slides of a case go through together
    assert set(reads.values()) == {2}
    (folder,) = Path(os.environ["SPADE_BENCH_CACHE"]).glob(f"{study.features.name}-*/{ENCODED}")
    assert len(list(folder.rglob("*.pack"))) == cases

    encoded.clear()
    again = [*words, "--no-controls", "--seed", "1"]
    assert run_main(*again, "--out", str(tmp_path / "two")) == 0
    assert encoded == []  # another run, with other draws
    assert run_main(*again, "--cache", "off", "--out", str(tmp_path / "off")) == 0
    assert len(encoded) > 2 * cases  # epoch by epoch, where nothing may be kept
    assert _numbers(tmp_path / "off") == _numbers(tmp_path / "two")


@pytest.mark.slow
def test_controls_and_other_weights_share_nothing(
    two_tasks: list[str],
    study: Any,
    encoded: list[int],
    half: str,
    weights: Path,
    tmp_path: Path,
) -> None:
    words = [*two_tasks, "--encoder", half, "--weights", f"{half}={weights}"]
    assert run_main(*words, "--out", str(tmp_path / "one")) == 0
    (folder,) = Path(os.environ["SPADE_BENCH_CACHE"]).glob(f"{study.features.name}-*/{ENCODED}")
    assert len(list(folder.iterdir())) == 2  # the encoder and the control that it brings
    (weights / "experts.safetensors").write_bytes(b"other")
    encoded.clear()
    assert run_main(*words, "--no-controls", "--out", str(tmp_path / "two")) == 0
    assert encoded
    assert len(list(folder.iterdir())) == 3
