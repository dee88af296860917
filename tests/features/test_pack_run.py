"""A run gives the same numbers from the files, from the cache and from a pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from spade_bench.cli.main import app
from spade_bench.errors import UserError
from spade_bench.evaluation.settings import read_settings
from spade_bench.features import cache as packcache

HEADS = ("logistic", "abmil")


def _study(folder: Path, dtype: str) -> Path:
    """Forty cases in one-row-chunk files, some with two slides; values need all of float32."""
    rng = np.random.default_rng(0)
    (folder / "features").mkdir()
    lines = ["case_id,slide_id,label"]
    for i in range(40):
        for j in range(1 + (i % 5 == 0)):
            x = rng.normal(size=(int(rng.integers(2, 9)), 12)) + 0.7 * (i % 2)
            with h5py.File(folder / "features" / f"c{i}-{j}.h5", "w") as file:
                file.create_dataset("features", data=x.astype(dtype), chunks=(1, 12))
            lines.append(f"c{i},c{i}-{j},{'tumor' if i % 2 else 'normal'}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "features"


def _run(folder: Path, features: Path, out: str, *more: str) -> dict[str, tuple[str, Any]]:
    arguments = ["run", "--encoder", "mine", "--task", "demo", "--table", folder / "table.csv",
                 "--features", features, "--shots", "2,4", "--draws", "2", "--no-controls",
                 "--device", "cpu", "--out", folder / out, *more]  # fmt: skip
    arguments += [word for head in HEADS for word in ("--head", head)]
    arguments += ["--set", "abmil.epochs=2", "--set", "abmil.min_steps=20"]
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    assert done.exit_code == 0, done.output
    text = (folder / out / "results.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 4 * len(HEADS)
    return {row["run_id"]: (row["status"], row["metrics"]) for row in rows}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numbers_do_not_depend_on_where_bags_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(packcache, "SETTLED_SECONDS", -1.0)
    features = _study(tmp_path, dtype)
    monkeypatch.setenv("SPADE_BENCH_CACHE", "off")
    plain = _run(tmp_path, features, "plain")
    monkeypatch.setenv("SPADE_BENCH_CACHE", str(tmp_path / "cache"))
    digests = _run(tmp_path, features, "digests")
    assert not list((tmp_path / "cache").rglob("*.pack"))
    filling = _run(tmp_path, features, "filling", "--cache", "copy")
    assert list((tmp_path / "cache").rglob("bags-*.pack"))
    cached = _run(tmp_path, features, "cached")
    words = ["pack", "--features", features, "--out", tmp_path / "x.pack"]
    words += ["--float32"] if dtype == "float32" else []
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    packed = _run(tmp_path, tmp_path / "x.pack", "packed")
    # The same cells by name: what was read is the same to the last bit, and so are the numbers.
    assert plain == digests == filling == cached == packed
    assert {status for status, _ in plain.values()} == {"ok"}


def test_a_rounded_pack_is_another_input(tmp_path: Path) -> None:
    features = _study(tmp_path, "float32")
    plain = _run(tmp_path, features, "plain")
    words = ["pack", "--features", features, "--out", tmp_path / "x.pack"]
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    assert not set(plain) & set(_run(tmp_path, tmp_path / "x.pack", "packed"))


def test_the_way_to_use_the_cache_is_checked_and_read_from_yaml(tmp_path: Path) -> None:
    for text, meant in (("off", "off"), ("copy", "copy"), ("'digests'", "digests")):
        (tmp_path / "run.yaml").write_text(f"cache: {text}\n")
        assert read_settings(tmp_path / "run.yaml").cache == meant
    words = ["run", "--encoder", "mine", "--task", "demo", "--cache", "copies", "--out", "x"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError)
    assert "Use digests, copy, off" in str(done.exception)
