"""Whole libraries by a prefix: `timm:`, `hf:` and `lazyslide:`."""

from __future__ import annotations

import enum
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spade_bench import plugins
from spade_bench.encoders.common import hub as _hub
from spade_bench.errors import PluginError, WeightsError
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions, PatchEncoder


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.install()
    monkeypatch.setattr(_hub, "reachable", lambda: False)


def options(path: Path) -> LoadOptions:
    return LoadOptions(weights=path, device="cpu")


def test_any_timm_model_loads_strictly_with_and_without_its_classifier(
    tmp_path: Path, pictures: dict[int, np.ndarray]
) -> None:
    import timm

    plugin = encoders.get("timm:resnet10t.c3_in1k")
    card = plugin.card
    assert (card.dim, card.patch_px, card.gated, card.pretrained_on) == (512, 176, False, None)
    assert card.source == "hub timm/resnet10t.c3_in1k"
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False).eval()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    images = pictures[224][:, :176, :176]
    encoder = plugin.load(options(tmp_path))
    assert isinstance(encoder, PatchEncoder)
    norm = card.normalisation
    assert norm is not None
    x = (torch.from_numpy(images).float() / 255 - torch.tensor(norm.mean)) / torch.tensor(norm.std)
    model.reset_classifier(0)
    with torch.inference_mode():
        want = model(x.permute(0, 3, 1, 2))
    got = encoder.encode(images)
    assert got.shape == (2, 512)
    assert (got - want).norm() / want.norm() < 1e-4
    bare = {name: value for name, value in state.items() if not name.startswith("fc.")}
    save_file(bare, tmp_path / "bare.safetensors")
    assert torch.equal(plugin.load(options(tmp_path / "bare.safetensors")).encode(images), got)
    for gone in ("layer1.0.conv1.weight", "fc.bias"):
        rest = {name: value for name, value in state.items() if name != gone}
        save_file(rest, tmp_path / "gone.safetensors")
        with pytest.raises(WeightsError, match="weights do not fit"):
            plugin.load(options(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("name", ["timm:resnet188", "timm:resnet18.a9_in1k"])
def test_unknown_timm_models_get_a_suggestion(name: str) -> None:
    with pytest.raises(PluginError, match=r"has no model .* Did you mean 'resnet18"):
        encoders.get(name)


def test_any_vision_model_of_transformers_loads_from_a_folder(
    tmp_path: Path, pictures: dict[int, np.ndarray]
) -> None:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    stated = '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 2, '
    stated += '"do_center_crop": true, "size": {"shortest_edge": 256}, "crop_size": 224}'
    (tmp_path / "preprocessor_config.json").write_text(stated)
    plugin = encoders.get(f"hf:{tmp_path}")
    card = plugin.card
    assert (card.dim, card.patch_px, card.interpolation) == (48, 224, "bilinear")
    assert card.crop_pct == 0.875
    got = plugin.load(LoadOptions(device="cpu")).encode(pictures[224])
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    x = (torch.from_numpy(pictures[224]).float() / 255 - mean) / std
    with torch.inference_mode():
        want = model(pixel_values=x.permute(0, 3, 1, 2)).last_hidden_state[:, 0]
    assert (got - want).norm() / want.norm() < 1e-4


@pytest.mark.parametrize("kind", ["clip", "convnext"])
def test_models_without_a_class_token_use_what_they_pool(
    kind: str, tmp_path: Path, pictures: dict[int, np.ndarray]
) -> None:
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}
    if kind == "clip":
        config = transformers.CLIPConfig(
            text_config={**small, "vocab_size": 99}, vision_config=small, projection_dim=24
        )
        model, dim = transformers.CLIPModel(config).eval(), 24
    else:
        config = transformers.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1])
        model, dim = transformers.ConvNextModel(config).eval(), 20
    model.save_pretrained(tmp_path)
    plugin = encoders.get(f"hf:{tmp_path}")
    assert plugin.card.dim == dim
    assert any("it lacks" in note for note in plugin.card.notes)
    got = plugin.load(LoadOptions(device="cpu")).encode(pictures[224])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(pictures[224]).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        run = model.get_image_features if kind == "clip" else model
        want = run(pixel_values=x)
    want = want if isinstance(want, torch.Tensor) else want.pooler_output
    assert got.shape == (2, dim)
    assert (got - want.reshape(2, dim)).norm() / want.norm() < 1e-4


def test_hf_refusals_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="hub cannot be reached"):
        encoders.get("hf:nobody/nothing")
    with pytest.raises(WeightsError, match=r"no config\.json"):
        encoders.get(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(
        '{"model_type": "strange", "auto_map": {"AutoModel": "m.M"}}'
    )
    with pytest.raises(PluginError, match=r"does not know this model \(strange\); code .* not run"):
        encoders.get(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(PluginError, match="takes no images"):
        encoders.get(f"hf:{tmp_path}")


class Task(enum.Enum):
    vision = "vision"
    segmentation = "segmentation"


class Brightness:
    """A model with the interface of lazyslide_models."""

    task = Task.vision
    encode_dim = 3
    license = "MIT"
    description = "Mean colour."
    hf_url = github_url = paper_url = input_constraint = None
    is_gated = False
    model = None

    def get_transform(self):
        return lambda x: x.float() / 255

    def to(self, device):
        return self

    def encode_image(self, image):
        assert image.shape[1:] == (3, 224, 224)
        return image.mean((2, 3))


def test_lazyslide_models_keep_the_contract(
    monkeypatch: pytest.MonkeyPatch, pictures: dict[int, np.ndarray]
) -> None:
    fake = types.ModuleType("lazyslide_models")
    segmenter = type("Segmenter", (Brightness,), {"task": [Task.segmentation]})
    fake.MODEL_REGISTRY = {"brightness": Brightness, "cells": segmenter}
    monkeypatch.setitem(sys.modules, "lazyslide_models", fake)
    plugin = encoders.get("lazyslide:brightness")
    assert (plugin.card.dim, plugin.card.licence) == (3, "MIT")
    encoder = plugin.load(LoadOptions(device="cpu"))
    want = torch.from_numpy(pictures[224]).float().mean((1, 2)) / 255
    assert torch.allclose(encoder.encode(pictures[224]), want, atol=1e-5)
    assert encoder.encode(pictures[224][:0]).shape == (0, 3)
    with pytest.raises(PluginError, match="Did you mean 'brightness'"):
        encoders.get("lazyslide:brightnes")
    with pytest.raises(PluginError, match="does not encode patches"):
        encoders.get("lazyslide:cells")


def test_lazyslide_says_when_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lazyslide_models", None)
    with pytest.raises(PluginError, match="pip install lazyslide-models"):
        encoders.get("lazyslide:uni")
