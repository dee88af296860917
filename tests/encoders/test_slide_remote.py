"""Slide encoders of the hub: consent first, the right call, strict weights, the right patches."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_cache import COMMITS, fake_cache, put
from safetensors.torch import save_file

from spade_bench.cli.main import main
from spade_bench.encoders.wholeslide import ROWS
from spade_bench.encoders.wholeslide._ownercode import load
from spade_bench.encoders.wholeslide._table import SlideRow
from spade_bench.errors import ConfigError, DataError, WeightsError
from spade_bench.features.bags import write_features
from spade_bench.features.weightfiles import find_weights
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

REMOTE = sorted(name for name, row in ROWS.items() if row.card.remote_code)

CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class SlideConfig(PretrainedConfig):
    model_type = "tiny-slide"
    def __init__(self, in_dim=8, dim=4, **more):
        super().__init__(**more)
        self.in_dim, self.dim = in_dim, dim

class SlideModel(PreTrainedModel):
    config_class = SlideConfig
    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(config.in_dim, config.dim, bias=False)
        self.post_init()
    def forward_features(self, h):
        return self.layer(h.mean(1)), {"attention": None}
    def slide_representations(self, h):
        return {"image_embedding": 2 * self.layer(h.mean(1)), "image_latents": None}
    def encode_slide_from_patch_features(self, h, coords, side):
        place = (coords.float().mean((1, 2)) / side)[:, None]
        return self.layer(h.mean(1)) + place
    def forward(self, h):
        return self.layer(h)
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A writer of folders laid out as hub repositories with code of their own."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(in_dim: int, dim: int) -> tuple[Path, torch.Tensor]:
        folder = tmp_path / "repository"
        folder.mkdir()
        (folder / "modeling_slide.py").write_text(CODE)
        (folder / "config.json").write_text(
            f'{{"model_type": "tiny-slide", "in_dim": {in_dim}, "dim": {dim}, "auto_map": '
            '{"AutoConfig": "modeling_slide.SlideConfig", '
            '"AutoModel": "modeling_slide.SlideModel"}}'
        )
        weight = torch.randn(dim, in_dim, generator=torch.Generator().manual_seed(0))
        save_file({"layer.weight": weight}, folder / "model.safetensors", metadata={"format": "pt"})
        return folder, weight

    return write


def without_packages(row: SlideRow) -> SlideRow:
    """The row of an encoder whose code imports nothing and runs with any transformers."""
    needs = dataclasses.replace(row.card.needs, modules=(), transformers_below=None)
    return dataclasses.replace(row, card=dataclasses.replace(row.card, needs=needs))


@pytest.mark.parametrize("name", REMOTE)
def test_the_model_is_called_as_its_authors_call_it(name: str, repository) -> None:
    # The stand-in runs with any transformers, the authors' code of some rows does not.
    row = without_packages(ROWS[name])
    folder, weight = repository(row.in_dim, row.card.dim)
    encoder = load(row, LoadOptions(folder, "cpu", options={"trust_remote_code": True}))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, row.in_dim)).astype(np.float32)
    coords = np.arange(12).reshape(6, 2)
    found = encoder.encode_slide(x, coords, 4)
    want = (torch.from_numpy(x).mean(0) @ weight.T).numpy()
    want = {"feather": want, "prism": 2 * want, "titan": want + 5.5 / 4}[row.call]
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match=f"takes \\(n, {row.in_dim}\\)"):
        encoder.encode_slide(x[:, 1:], coords, 4)
    if row.call == "titan":
        with pytest.raises(DataError, match="needs coordinates"):
            encoder.encode_slide(x)


@pytest.mark.parametrize("name", REMOTE)
def test_a_run_asks_for_consent_and_encodes_on_the_way(
    name: str,
    repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = without_packages(ROWS[name])
    monkeypatch.setitem(ROWS, name, row)
    monkeypatch.chdir(tmp_path)
    folder, _ = repository(row.in_dim, row.card.dim)
    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,label"]
    for i in range(8):
        x = rng.normal(i % 2, 0.3, (5, row.in_dim)).astype(np.float32)
        attrs = {"mpp": 0.5, "patch_size": row.card.patch_px, "patch_size_level0": 512}
        path = tmp_path / "f" / f"features_{row.card.upstream}" / f"s{i}.h5"
        xy = rng.integers(0, 2000, (5, 2))
        write_features(path, x, xy, slide_id=f"s{i}", encoder=str(row.card.upstream), attrs=attrs)
        lines.append(f"c{i},s{i},{'ab'[i % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    argv = ["run", "--encoder", name, "--encoder", "mean-pool", "--weights", f"{name}={folder}",
            "--task", "t", "--table", "t.csv", "--features", "f", "--shots", "1", "--draws", "1",
            "--head", "logistic", "--no-controls", "--out", "runs"]  # fmt: skip
    with pytest.raises(SystemExit) as refused:
        main(argv)
    assert refused.value.code == 2
    assert capsys.readouterr().err.count("pass --trust-remote-code to agree") == 1
    with pytest.raises(SystemExit) as ended:
        main([*argv, "--trust-remote-code"])
    assert not ended.value.code, capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "runs/results.jsonl").read_text().splitlines()]
    assert {row["encoder"] for row in rows if row["status"] == "ok"} == {name, "mean-pool"}


def test_nothing_runs_without_consent_and_weights_must_fit(repository) -> None:
    row = ROWS["feather-uni"]
    folder, weight = repository(row.in_dim, row.card.dim)
    (folder / "modeling_slide.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(WeightsError, match=r"run code from .*trust-remote-code"):
        load(row, LoadOptions(folder, "cpu"))
    (folder / "modeling_slide.py").write_text(CODE)
    agreed = LoadOptions(folder, "cpu", options={"trust_remote_code": True})
    state = {"layer.weight": weight, "other": torch.ones(2)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="1 unexpected"):
        load(row, agreed)
    with pytest.raises(ConfigError, match="trust_remote_code"):
        load(row, LoadOptions(folder, "cpu", options={"trust_remote": True}))


def test_code_of_the_hub_runs_only_at_a_commit(
    repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, other = (without_packages(ROWS[name]) for name in ("feather", "feather-uni"))
    free = dataclasses.replace(other, card=dataclasses.replace(other.card, revision=""))
    cache = fake_cache(tmp_path / "hub", monkeypatch)
    folder, weight = repository(pinned.in_dim, pinned.card.dim)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    moved = {**files, "modeling_slide.py": b"raise SystemExit('ran')\n"}
    for row, commit in ((pinned, pinned.card.revision), (free, COMMITS[0])):
        put(cache, row.card.needs.repos[0], commit, files, main=False)
        put(cache, row.card.needs.repos[0], COMMITS[1], moved, main=True)
    agreed = LoadOptions(device="cpu", options={"trust_remote_code": True})
    encoder = load(pinned, agreed)
    x = np.ones((2, pinned.in_dim), dtype=np.float32)
    want = (torch.ones(pinned.in_dim) @ weight.T).numpy()
    np.testing.assert_allclose(encoder.encode_slide(x), want, rtol=1e-4, atol=1e-4)
    made_by = find_weights(pinned.card, agreed)
    assert made_by.source == f"hub {pinned.card.needs.repos[0]}@{pinned.card.revision}"
    with pytest.raises(WeightsError, match=r"pins no commit.*--revision COMMIT"):
        load(free, agreed)
    with pytest.raises(WeightsError, match=r"'main' is no commit in full"):
        load(free, dataclasses.replace(agreed, revision="main"))
    load(free, dataclasses.replace(agreed, revision=COMMITS[0]))
    # As `run --set feather-uni.revision=COMMIT` and the workspace file have it.
    load(free, LoadOptions(device="cpu", options={**agreed.options, "revision": COMMITS[0]}))
    with pytest.raises(SystemExit, match="ran"):
        load(free, dataclasses.replace(agreed, revision=COMMITS[1]))


def test_code_for_an_older_transformers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "5.1.0")
    for name in ("titan", "prism"):
        with pytest.raises(WeightsError, match=r"needs transformers below 5, here is 5\.1\.0"):
            encoders.get(name).load(LoadOptions(options={"trust_remote_code": True}))
    monkeypatch.setattr("transformers.__version__", "4.57.0")
    card = ROWS["prism"].card
    needs = dataclasses.replace(card.needs, modules=("no_such_module",))
    row = dataclasses.replace(ROWS["prism"], card=dataclasses.replace(card, needs=needs))
    with pytest.raises(WeightsError, match=r"no_such_module.*not installed"):
        load(row, LoadOptions(options={"trust_remote_code": True}))


def test_every_card_says_which_patches_it_needs() -> None:
    for row in ROWS.values():
        card = row.card
        assert card.level == "slide"
        upstream = encoders.get(str(card.upstream)).card
        assert upstream.dim == row.in_dim
        assert card.patch_px
        assert card.mpp == 0.5
