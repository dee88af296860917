"""Every patch encoder that runs without a hub: contract, equality with its source, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spade_bench import plugins
from spade_bench.encoders import efficientnet_lite, resnet50, uni
from spade_bench.encoders.common import hub as _hub
from spade_bench.encoders.common.timmodel import (
    fold_batch_norm,
    load_state,
    order_mapped,
    read_state,
)
from spade_bench.errors import DataError, WeightsError
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions, PatchEncoder

CPU = LoadOptions(device="cpu")
LOCAL = ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "random-lite0"]


@pytest.fixture(scope="module", autouse=True)
def _plugins() -> None:
    plugins.install()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth random images, (13, 224, 224, 3) uint8; 13 is no multiple of any batch."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (13, 7, 7, 3), dtype=np.uint8)
    noise = rng.integers(0, 16, (13, 224, 224, 3), dtype=np.uint8)
    return np.minimum(coarse.repeat(32, 1).repeat(32, 2) // 2 * 2, 239) + noise


@pytest.mark.parametrize("name", LOCAL)
def test_encode_keeps_its_contract(name: str, images: np.ndarray) -> None:
    plugin = encoders.get(name)
    encoder = plugin.load(CPU)
    assert isinstance(encoder, PatchEncoder)
    assert encoder.card == plugin.card
    out = encoder.encode(images)
    assert out.shape == (13, plugin.card.dim)
    assert out.dtype == torch.float32
    assert out.device.type == "cpu"
    assert torch.isfinite(out).all()
    assert not torch.allclose(out[0], out[1])


def test_features_do_not_depend_on_batch_or_order(images: np.ndarray) -> None:
    encoder = encoders.get("efficientnet-lite0").load(CPU)
    whole = encoder.encode(images)
    order = np.random.default_rng(1).permutation(13)
    assert torch.equal(encoder.encode(images[order]), whole[order])
    assert torch.equal(encoder.encode(images[5:6]), whole[5:6])
    assert torch.equal(encoder.encode(images[2:9]), whole[2:9])
    assert encoder.encode(images[:0]).shape == (0, 1280)


def test_wrong_input_is_refused(images: np.ndarray) -> None:
    encoder = encoders.get("random-lite0").load(CPU)
    with pytest.raises(DataError, match="needs uint8"):
        encoder.encode(images.astype(np.float32))
    with pytest.raises(DataError, match=r"224, 224, 3"):
        encoder.encode(images[:, :200])


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_lite_equals_the_packages_own_model(variant: int, images: np.ndarray) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = efficientnet_lite._packaged(variant)
    theirs = package.EfficientNet.from_pretrained(
        f"efficientnet-lite{variant}", weights_path=str(path)
    ).eval()
    # Theirs pads for the size it was built for; at that size both see the same pixels.
    px = {0: 224, 1: 240, 2: 280 if theirs._global_params.image_size == 280 else 260}[variant]
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 3, px, px))).float()
    ours = efficientnet_lite.build(variant, None)
    with torch.inference_mode():
        want = theirs.extract_features(x).mean(dim=(2, 3))
        got = ours(x)
        folded = fold_batch_norm(ours)(x)
    assert (got - want).abs().max() < 1e-5
    assert (folded - want).abs().max() < 1e-4


def test_lite0_logits_and_normalisation(images: np.ndarray) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = efficientnet_lite._packaged(0)
    theirs = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(path)
    ).eval()
    x = (torch.from_numpy(images[:4]).float() / 255 - 0.5) / 0.5
    encoder = encoders.get("efficientnet-lite0").load(CPU)
    with torch.inference_mode():
        logits = theirs(x.permute(0, 3, 1, 2))
    ours = encoder.encode(images[:4]) @ theirs._fc.weight.T + theirs._fc.bias
    assert (ours - logits).abs().max() < 1e-3


def test_order_mapping_is_strict() -> None:
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = read_state(efficientnet_lite._packaged(0), ())
    with pytest.raises(WeightsError, match="295 tensors where 296"):
        order_mapped(model, dict(list(state.items())[1:]), "x")
    items = list(state.items())
    items[1], items[2] = items[2], items[1]  # weight and bias of one layer: same shape
    with pytest.raises(WeightsError, match=r"stands where bn1\.weight"):
        order_mapped(model, dict(items), "x")


def test_random_weights_follow_the_seed(images: np.ndarray) -> None:
    load = encoders.get("random-lite0").load
    state = torch.get_rng_state()
    first = load(LoadOptions(device="cpu", seed=3)).encode(images[:2])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, load(LoadOptions(device="cpu", seed=3)).encode(images[:2]))
    assert not torch.allclose(first, load(LoadOptions(device="cpu", seed=4)).encode(images[:2]))
    with pytest.raises(WeightsError, match="takes none"):
        load(LoadOptions(weights=Path("w.pt")))


def _seeded(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in model.state_dict().items():
        draws = torch.randn(min(value.numel(), 4099), generator=generator) * 0.02
        state[key] = draws.repeat(value.numel() // len(draws) + 1)[: value.numel()]
        state[key] = state[key].reshape(value.shape).clone()
    return state


@pytest.mark.slow
def test_uni_loads_a_checkpoint_in_the_hubs_layout(tmp_path: Path, images: np.ndarray) -> None:
    model = uni.architecture()
    assert sum(p.numel() for p in model.parameters()) == 303_350_784
    state = _seeded(model, 0)
    torch.save(state, tmp_path / "pytorch_model.bin")
    model.load_state_dict(state, assign=True)
    encoder = encoders.get("uni").load(LoadOptions(weights=tmp_path, device="cpu"))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(images[:2]).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        want = model.eval().forward_features(x)[:, 0]  # class token
    assert (encoder.encode(images[:2]) - want).abs().max() < 1e-3
    del state["norm.bias"]
    state["head.weight"] = torch.zeros(2)
    with pytest.raises(WeightsError, match=r"1 missing \(norm.bias\); 1 unexpected \(head.weight"):
        load_state(uni.architecture(), state, "x")


def test_resnet50_is_the_pooled_third_stage(tmp_path: Path, images: np.ndarray) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    full = timm.create_model("resnet50", pretrained=False)
    for module in full.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    save_file(full.state_dict(), tmp_path / "model.safetensors")
    cut = timm.create_model("resnet50", pretrained=False, features_only=True, out_indices=[3])
    cut.load_state_dict(full.state_dict(), strict=False)
    encoder = encoders.get("resnet50").load(LoadOptions(weights=tmp_path, device="cpu"))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(images[:2]).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        want = cut.eval()(x)[0].mean(dim=(2, 3))
    got = encoder.encode(images[:2])
    assert got.shape == (2, resnet50.CARD.dim)
    assert ((got - want).norm() / want.norm()) < 1e-4


@pytest.mark.parametrize("name", ["uni", "resnet50"])
def test_missing_weights_say_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hub, "_reachable", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    with pytest.raises(WeightsError, match=r"hub cannot be reached.*--weights FILE"):
        encoders.get(name).load(CPU)
    with pytest.raises(WeightsError, match="no such weights file"):
        encoders.get(name).load(LoadOptions(weights=tmp_path / "none.bin", device="cpu"))
    with pytest.raises(WeightsError, match="holds none of"):
        encoders.get(name).load(LoadOptions(weights=tmp_path, device="cpu"))


def test_refused_access_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError

    def refuse(*args: object, **more: object) -> str:
        # Its constructor wants a response of whichever client library the hub package uses.
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_hub, "_reachable", lambda endpoint: True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(WeightsError, match=r"refuses access.*Accept the licence.*hf auth login"):
        encoders.get("uni").load(CPU)


def test_nearest_unreachable_host_answers_quickly() -> None:
    assert not _hub._reachable("http://127.0.0.1:9")


def test_unsafe_or_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "objects.bin")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    for name in ("objects.bin", "damaged.safetensors"):
        with pytest.raises(WeightsError, match="not a readable checkpoint"):
            read_state(tmp_path / name, ())
    torch.save({"nested": {"a": torch.zeros(1)}}, tmp_path / "nested.bin")
    with pytest.raises(WeightsError, match="flat dictionary"):
        read_state(tmp_path / "nested.bin", ())


def test_wrong_shapes_are_named() -> None:
    model = torch.nn.Linear(2, 3)
    state = {"weight": torch.zeros(4, 2), "bias": torch.zeros(3)}
    with pytest.raises(WeightsError, match=r"weight is \(4, 2\), not \(3, 2\)"):
        load_state(model, state, "x")
