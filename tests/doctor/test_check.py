"""`check encoder` passes what keeps the contract and names what does not."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spade_bench import plugins
from spade_bench.cli.check import check
from spade_bench.doctor import Finding, check_encoder
from spade_bench.encoders.common.timmodel import TimmEncoder
from spade_bench.features.bags import read_bag, write_features
from spade_bench.registry import Plugin, encoders
from spade_bench.types import EncoderCard, LoadOptions, Normalisation

CPU = LoadOptions(device="cpu")
CARD = EncoderCard(
    name="probe",
    input="image",
    dim=3,
    description="Mean colour.",
    patch_px=32,
    mpp=0.5,
    normalisation=Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    source="a test",
    licence="Apache-2.0",
    pretrained_on=(),
    reference="a test",
)


class MeanColour(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Probe(TimmEncoder):
    """A sound encoder; tests break one thing at a time."""

    def __init__(self, card: EncoderCard = CARD) -> None:
        super().__init__(card, MeanColour(), CPU)
        self.broken: Callable[[torch.Tensor, Any], torch.Tensor] = lambda out, images: out

    def encode(self, images: Any) -> torch.Tensor:
        return self.broken(super().encode(images), images)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    plugins.install()
    encoders.names()

    def run(encoder: Any, card: EncoderCard | None = None) -> dict[str, Finding]:
        plugin = Plugin("probe", card or encoder.card, lambda options: encoder, "test")
        monkeypatch.setitem(encoders._plugins, "probe", plugin)
        return {finding.check: finding for finding in check_encoder("probe", CPU)}

    return run


def statuses(found: dict[str, Finding]) -> set[str]:
    return {finding.status for finding in found.values()}


def test_a_sound_encoder_passes_everything(run: Callable[..., dict[str, Finding]]) -> None:
    found = run(Probe())
    assert statuses(found) == {"pass"}, found
    assert len(found) == 13


@pytest.mark.parametrize("name", ["efficientnet-lite0", "random-lite0"])
def test_built_in_encoders_pass(name: str) -> None:
    plugins.install()
    assert {finding.status for finding in check_encoder(name, CPU)} == {"pass"}


BROKEN: dict[str, Callable[[torch.Tensor, Any], torch.Tensor]] = {
    "shape": lambda out, images: out[:, :2],
    "dtype": lambda out, images: out.double(),
    "finite": lambda out, images: torch.full_like(out, torch.nan),
    "features differ between patches": lambda out, images: torch.ones_like(out),
    "determinism": lambda out, images: out + torch.rand(1),
    "independence of batch size": lambda out, images: out * (1 + 0.01 * len(out)),
    "independence of order in the batch": lambda out, images: (
        out + torch.arange(len(out)).float()[:, None]
    ),
    "normalisation": lambda out, images: 2 * out,
}


@pytest.mark.parametrize("check_name", sorted(BROKEN))
def test_each_fault_is_found(check_name: str, run: Callable[..., dict[str, Finding]]) -> None:
    encoder = Probe()
    encoder.broken = BROKEN[check_name]
    assert run(encoder)[check_name].status == "fail"


def test_changing_the_input_is_found(run: Callable[..., dict[str, Finding]]) -> None:
    encoder = Probe()

    def spoil(out: torch.Tensor, images: Any) -> torch.Tensor:
        if len(images) and isinstance(images, np.ndarray):
            images[:] = 0
        return out

    encoder.broken = spoil
    assert run(encoder)["input"].status == "fail"


def test_another_normalisation_than_the_cards_is_found(
    run: Callable[..., dict[str, Finding]],
) -> None:
    encoder = Probe()
    other = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    encoder.card = dataclasses.replace(CARD, normalisation=other)
    assert run(encoder)["normalisation"].status == "fail"


def test_cards_are_judged(run: Callable[..., dict[str, Finding]]) -> None:
    bare = dataclasses.replace(CARD, licence="", mpp=None)
    found = run(Probe(), bare)["card"]
    assert (found.status, found.detail) == ("fail", "lacks licence, mpp")
    thin = dataclasses.replace(CARD, source="", pretrained_on=None)
    found_all = run(Probe(), thin)
    assert found_all["card"].status == "warn"
    assert found_all["card: pretrained_on"].status == "warn"
    wrong = dataclasses.replace(CARD, normalisation=Normalisation((124, 116, 104), (58, 57, 57)))
    assert run(Probe(), wrong)["card: normalisation"].status == "fail"


def test_an_encoder_without_a_network_is_not_compared(
    run: Callable[..., dict[str, Finding]],
) -> None:
    class Histogram:
        card = dataclasses.replace(CARD, normalisation=None)

        def encode(self, images: Any) -> torch.Tensor:
            return torch.as_tensor(images).float().mean((1, 2)) / 255

    found = run(Histogram())
    assert "fail" not in statuses(found)
    assert found["normalisation"].status == "warn"
    assert found["wrong input"].status == "warn"


def test_encoders_of_features_are_checked(run: Callable[..., dict[str, Finding]]) -> None:
    class Halve:
        card = EncoderCard(
            name="halve",
            input="features",
            dim=None,
            description="First half.",
            licence="Apache-2.0",
            source="a test",
            reference="a test",
            pretrained_on=(),
        )
        in_dim, dim = 8, 4

        def encode(self, features: np.ndarray) -> np.ndarray:
            return features[:, :4].astype(np.float32)

    assert statuses(run(Halve())) == {"pass"}
    Halve.dim = 5
    assert run(Halve())["shape"].status == "fail"
    Halve.in_dim = None  # type: ignore[assignment]
    assert run(Halve())["width"].status == "fail"


def test_the_command_exits_with_2_on_a_fault(
    run: Callable[..., dict[str, Finding]], capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Probe()
    run(encoder)
    assert check("encoder", "probe", device="cpu") == 0
    assert "13 of 13 checks pass" in capsys.readouterr().out
    assert check("encoder", "mean-pool", device="cpu") == 0
    assert "(40, 32) -> (32,), as wide as the features" in capsys.readouterr().out
    run(encoder, dataclasses.replace(encoder.card, pretrained_on=None))
    assert check("encoder", "probe", device="cpu") == 0
    assert "checks pass, 1 to look at, 0 fail" in capsys.readouterr().out
    encoder.broken = BROKEN["dtype"]
    assert check("encoder", "probe", device="cpu", as_json=True) == 2
    assert '"status": "fail"' in capsys.readouterr().out


def _walk_through(repo: Path, word: str) -> str:
    """The first example of the contribution guide that holds a word."""
    text = (repo / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    code = next(block for block in blocks if word in block)
    assert sum(bool(line.strip()) for line in code.splitlines()) < 30
    return code


def _spade_bench(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "spade_bench.cli.main", *arguments, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_walk_through_of_the_contribution_guide_passes(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "my_encoder.py").write_text(_walk_through(repo, "EncoderCard"))
    line = "check encoder colour-histogram --plugin my_encoder.py"
    assert f"spade-bench {line}" in (repo / "CONTRIBUTING.md").read_text()
    assert "0 fail" in _spade_bench(tmp_path, *line.split())


def test_the_walk_through_of_a_slide_encoder_passes(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "my_pool.py").write_text(_walk_through(repo, 'level="slide"'))
    line = "check encoder median-pool --plugin my_pool.py"
    assert f"spade-bench {line}" in (repo / "CONTRIBUTING.md").read_text()
    assert "0 fail" in _spade_bench(tmp_path, *line.split())
    features = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    path = tmp_path / "features" / "features_one" / "s.h5"
    write_features(path, features, slide_id="s", encoder="one")
    line = "encode --plugin my_pool.py --encoder median-pool --features features/ --out slides/"
    assert f"spade-bench {line}" in (repo / "CONTRIBUTING.md").read_text()
    _spade_bench(tmp_path, *line.split())
    vector = read_bag(tmp_path / "slides" / "slide_features_median-pool" / "s.h5").features
    assert np.allclose(vector, np.median(features, axis=0))
