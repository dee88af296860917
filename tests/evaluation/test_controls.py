"""Controls: what an encoder brings, what rows say of them, and which cells share bags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import request_of

from spade_bench.evaluation import controls as harness_controls
from spade_bench.evaluation import encoderfeatures, run
from spade_bench.evaluation.request import EncoderRequest
from spade_bench.results import ResultStore

# Of the commit before encoders brought their own controls: rows of then must be found as finished.
PINNED: dict[tuple[str, str], str] = {
    ("mine", ""): "1ecffcc47d0ac7d6",
    ("mine", "permuted-labels"): "304200fedbab77d9",
    ("x", ""): "8a38a37121795b6c",
    ("x", "permuted-labels"): "feb41cf34b1a1aa1",
    ("mine+pca6", "pca"): "9ea0697fd5f9116a",
    ("x-k1", "k1"): "32f5e77496180658",
    ("mine+random256", "random-projection"): "6289b4ad430815b7",
    ("mine+random6", "random-projection"): "d917248b9e3da96f",
}
PINNED_SPADE: dict[tuple[str, str], str] = {
    ("spade", ""): "c220824c1a9a83ef",
    ("spade", "permuted-labels"): "98389efa83c0a6a6",
    ("bleep", ""): "aaf5aa735690dae5",
    ("bleep", "permuted-labels"): "2d82a4b8b5ad104a",
    ("mine", "base"): "b2602c04480cb429",
    ("mine+pca8", "pca"): "f20668280f00c78d",
    ("spade-k1", "k1"): "d9e926af6e3d89e3",
    ("spade-random-routing", "random-routing"): "48d731cdc05a979b",
    ("mine+random8", "random-projection"): "81b7f17a804cab33",
}


def _control(flags: Any) -> str:
    return next((f.removeprefix("control:") for f in flags if f.startswith("control:")), "")


def _first_ids(out: Path) -> dict[tuple[str, str], str]:
    """Run id of the first draw of every encoder and control."""
    return {
        (row.encoder, _control(row.flags)): row.run_id
        for row in ResultStore(out).rows()
        if row.draw == 0 and not row.permutation
    }


def test_run_ids_are_those_of_stored_results(
    study: Any, half: str, weights: Path, tmp_path: Path
) -> None:
    asked = (EncoderRequest("mine", "mine"), EncoderRequest(half, "x", weights, {"o": 1}))
    run(request_of(study, tmp_path / "out", encoders=asked, shots=(4,), draws=1))
    assert _first_ids(tmp_path / "out") == PINNED


def test_run_ids_of_spade_are_those_of_stored_results(
    study: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (encoderfeatures, harness_controls):  # weights differ between versions of torch
        monkeypatch.setattr(module, "weights_hash", lambda path: path.name)
    asked = (
        EncoderRequest("spade", "spade", folders["a"], {"routing": "hard"}),
        EncoderRequest("bleep", "bleep", folders["a"]),
    )
    run(request_of(study, tmp_path / "out", encoders=asked, shots=(4,), draws=1))
    assert _first_ids(tmp_path / "out") == PINNED_SPADE
