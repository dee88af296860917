"""Every encoder of the zoo that needs no foreign code loads strictly and pools as it says.

Random checkpoints in the hub's layout go through the real loader; features are compared with a
vision transformer of the tests' own, with torchvision's Swin and with transformers' full CLIP. The
blocks of most architectures are cut to two, all else unchanged; the slow tests take whole ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from zoo_states import (
    State,
    check_timm,
    close,
    cut,
    encode,
    hub_state,
    normalised,
    pooled,
    random_state,
    timm_state,
)

from spade_bench.encoders.common import timmodel as _timm
from spade_bench.encoders.zoo import ENTRIES
from spade_bench.encoders.zoo._build import Feature
from spade_bench.encoders.zoo._layouts import convert
from spade_bench.encoders.zoo._load import load
from spade_bench.encoders.zoo.entry import Timm, Transformers
from spade_bench.errors import WeightsError
from spade_bench.types import LoadOptions

# heads, patch, tokens with a position, gated layers, epsilon
TIMM = {
    "uni2": (24, 14, "patches", True),
    "virchow": (16, 14, "class", True),
    "virchow2": (16, 14, "all", True),
    "gigapath": (24, 16, "class", True),
    "h-optimus-0": (24, 14, "patches", True),
    "h0-mini": (12, 14, "patches", True),
    "kaiko-vits16": (6, 16, "class", False),
    "kaiko-vits8": (6, 8, "class", False),
    "kaiko-vitb16": (12, 16, "class", False),
    "kaiko-vitb8": (12, 8, "class", False),
    "lunit-dino-s8": (6, 8, "class", False),
    "lunit-dino-s16": (6, 16, "class", False),
    "gpfm": (16, 14, "class", False),
    "mstar": (16, 16, "class", False),
}
HUB = {  # width, layers, positions, registers, heads, patch, gated, epsilon
    "phikon": (768, 12, 197, 0, 12, 16, False, 1e-12),
    "phikon_v2": (1024, 24, 197, 0, 16, 16, False, 1e-6),
    "hibou-b": (768, 12, 257, 4, 12, 14, True, 1e-6),
    "hibou-l": (1024, 24, 257, 4, 16, 14, True, 1e-6),
    "midnight": (1536, 40, 1370, 0, 24, 14, True, 1e-6),
}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timm, "_CPU_CHUNK", 2)


@pytest.mark.parametrize("name", sorted(TIMM))
def test_timm_rows_equal_an_independent_transformer(
    name: str, tmp_path: Path, pictures: dict[int, np.ndarray], reference: ModuleType
) -> None:
    entry = cut(ENTRIES[name])
    assert isinstance(entry.build, Timm)
    state = timm_state(entry.build)
    check_timm(entry, state, TIMM[name], tmp_path, pictures, reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kaiko-vits16", "h0-mini", "gpfm", "virchow2"])
def test_whole_timm_rows_equal_an_independent_transformer(
    name: str, tmp_path: Path, pictures: dict[int, np.ndarray], reference: ModuleType
) -> None:
    entry = ENTRIES[name]
    assert isinstance(entry.build, Timm)
    state = timm_state(entry.build)
    check_timm(entry, state, TIMM[name], tmp_path, pictures, reference)


@pytest.mark.parametrize("name", sorted(HUB))
def test_transformers_rows_equal_an_independent_transformer(
    name: str, tmp_path: Path, pictures: dict[int, np.ndarray], reference: ModuleType
) -> None:
    width, _, positions, extra, heads, patch, gated, eps = HUB[name]
    entry = cut(ENTRIES[name])
    blocks = 1 if name == "midnight" else 2
    state = hub_state(width, blocks, positions, extra, patch, gated, name == "phikon")
    save_file(state, tmp_path / "model.safetensors")
    shape = reference.Shape(heads, patch, "class", gated, eps)
    with torch.inference_mode():
        renamed = reference.from_transformers(state)
        tokens = reference.tokens(renamed, normalised(entry, pictures), shape)
    assert close(encode(entry, tmp_path, pictures), pooled(tokens, entry, 1 + extra))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phikon", "hibou-b"])
def test_whole_transformers_rows_load(
    name: str, tmp_path: Path, pictures: dict[int, np.ndarray], reference: ModuleType
) -> None:
    width, layers, positions, extra, heads, patch, gated, eps = HUB[name]
    state = hub_state(width, layers, positions, extra, patch, gated, name == "phikon")
    torch.save(state, tmp_path / "pytorch_model.bin")
    shape = reference.Shape(heads, patch, "class", gated, eps)
    entry = ENTRIES[name]
    with torch.inference_mode():
        renamed = reference.from_transformers(state)
        tokens = reference.tokens(renamed, normalised(entry, pictures), shape)
    assert close(encode(entry, tmp_path, pictures), pooled(tokens, entry, 1 + extra))


def test_openmidnight_takes_dinov2s_own_names(
    tmp_path: Path, pictures: dict[int, np.ndarray], reference: ModuleType
) -> None:
    entry = cut(ENTRIES["openmidnight"])
    assert isinstance(entry.build, Timm)
    state = timm_state(entry.build)
    width = state["cls_token"].shape[-1]
    theirs = {
        name.replace("reg_token", "register_tokens")
        .replace("mlp.fc1", "mlp.w12")
        .replace("mlp.fc2", "mlp.w3"): value
        for name, value in state.items()
    }
    theirs["pos_embed"] = 0.3 * torch.randn(1, 257, width)
    theirs["mask_token"] = torch.zeros(1, width)
    torch.save(theirs, tmp_path / "teacher_checkpoint_load.pt")
    want = {**state, "pos_embed": theirs["pos_embed"]}
    with torch.inference_mode():
        shape = reference.Shape(24, 14, "class", True)
        tokens = reference.tokens(want, normalised(entry, pictures), shape)
    assert close(encode(entry, tmp_path, pictures), tokens[:, 0])


def test_gpfm_takes_both_published_layouts(tmp_path: Path, pictures: dict[int, np.ndarray]) -> None:
    entry = cut(ENTRIES["gpfm"])
    assert isinstance(entry.build, Timm)
    bare = timm_state(entry.build)
    torch.save(bare, tmp_path / "GPFM.pth")
    nested = {
        "backbone." + re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", name): value
        for name, value in bare.items()
    }
    nested |= {"dino_head.mlp.0.weight": torch.zeros(2), "backbone.mask_token": torch.zeros(1, 2)}
    torch.save({"teacher": nested}, tmp_path / "nested.pth")
    first = encode(entry, tmp_path / "GPFM.pth", pictures)
    assert torch.equal(first, encode(entry, tmp_path / "nested.pth", pictures))


@pytest.mark.parametrize("side", [16, 37])
@pytest.mark.parametrize("name", ["kaiko-vitl14", "dinov2-vitl14", "dinov2-vitl14-reg4"])
def test_positions_of_another_size(
    name: str,
    side: int,
    tmp_path: Path,
    pictures: dict[int, np.ndarray],
    reference: ModuleType,
) -> None:
    entry = cut(ENTRIES[name])
    assert isinstance(entry.build, Timm)
    state = timm_state(entry.build, img_size=14 * side)
    save_file(state, tmp_path / "model.safetensors")
    lead = state["pos_embed"].shape[1] - side * side
    table = state["pos_embed"][:, lead:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    table = torch.nn.functional.interpolate(table, size=(16, 16), mode="bicubic", antialias=True)
    fitted = torch.cat([state["pos_embed"][:, :lead], table.flatten(2).transpose(1, 2)], 1)
    shape = reference.Shape(16, 14, "class" if lead else "patches")
    with torch.inference_mode():
        want = reference.tokens({**state, "pos_embed": fitted}, normalised(entry, pictures), shape)[
            :, 0
        ]
    assert close(encode(entry, tmp_path, pictures), want)


def test_dinov3_takes_the_class_token(tmp_path: Path, pictures: dict[int, np.ndarray]) -> None:
    import timm

    entry = cut(ENTRIES["dinov3-vitl16"])
    assert isinstance(entry.build, Timm)
    state = timm_state(entry.build)
    save_file(state, tmp_path / "model.safetensors")
    default = timm.create_model("vit_large_patch16_dinov3", num_classes=0, depth=2).eval()
    missing, unexpected = default.load_state_dict(state, strict=False)
    assert (missing, unexpected) == ([], [])
    with torch.inference_mode():
        x = normalised(entry, pictures)
        tokens, averaged = default.forward_features(x), default(x)
    got = encode(entry, tmp_path, pictures)
    assert close(got, tokens[:, 0])
    assert not close(got, averaged)  # what timm does by default


def test_plip_equals_the_image_side_of_clip(
    tmp_path: Path, pictures: dict[int, np.ndarray]
) -> None:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={"num_hidden_layers": 1, "vocab_size": 99},
        vision_config={"num_hidden_layers": 2, "patch_size": 32},
        projection_dim=512,
    )
    model = CLIPModel(config).eval()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = random_state(shapes)
    model.load_state_dict(state)
    extra = {"vision_model.embeddings.position_ids": torch.arange(50)[None]}
    save_file({**state, **extra}, tmp_path / "model.safetensors")
    entry = cut(ENTRIES["plip"])
    with torch.inference_mode():
        out = model.get_image_features(pixel_values=normalised(entry, pictures))
    want = out if isinstance(out, torch.Tensor) else out.pooler_output
    assert close(encode(entry, tmp_path, pictures), want)


def old_swin(state: State) -> State:
    """The names of timm 0.5, with the tables that it stored."""
    out = {}
    for name, value in state.items():
        found = re.match(r"layers\.(\d)\.downsample\.(.*)", name)
        out[f"layers.{int(found[1]) - 1}.downsample.{found[2]}" if found else name] = value
    out["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    out["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    return out


def torchvision_swin(state: State, x: torch.Tensor) -> torch.Tensor:
    """CTransPath with torchvision's Swin behind a stem written out."""
    from torch.nn.functional import batch_norm, conv2d, layer_norm, relu
    from torchvision.models import swin_t

    for conv, norm in ((0, 1), (3, 4)):
        at = f"patch_embed.proj.{norm}."
        x = conv2d(x, state[f"patch_embed.proj.{conv}.weight"], stride=2, padding=1)
        x = batch_norm(
            x,
            state[at + "running_mean"],
            state[at + "running_var"],
            state[at + "weight"],
            state[at + "bias"],
        )
        x = relu(x)
    x = conv2d(x, state["patch_embed.proj.6.weight"], state["patch_embed.proj.6.bias"])
    x = x.permute(0, 2, 3, 1)
    x = layer_norm(x, (96,), state["patch_embed.norm.weight"], state["patch_embed.norm.bias"])
    swin = swin_t().eval()
    own = swin.state_dict()
    for name, value in state.items():
        renamed = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
        found = re.match(r"layers\.(\d)\.(downsample|blocks\.(\d))\.(.*)", renamed)
        if found and found[2] == "downsample":
            renamed = f"features.{2 * int(found[1])}.{found[4]}"
        elif found:
            renamed = f"features.{2 * int(found[1]) + 1}.{found[3]}.{found[4]}"
        if not renamed.startswith("patch_embed"):
            assert own[renamed].shape == value.shape, renamed
            own[renamed] = value
    swin.load_state_dict(own)
    for stage in swin.features[1:]:
        x = stage(x)
    return swin.norm(x).mean((1, 2))


def test_ctranspath_takes_its_authors_file(tmp_path: Path, pictures: dict[int, np.ndarray]) -> None:
    entry = ENTRIES["ctranspath"]
    assert isinstance(entry.build, Timm)
    state = timm_state(entry.build)
    state = {
        name: value if "num_batches" not in name else torch.tensor(1)
        for name, value in state.items()
    }
    torch.save({"model": old_swin(state)}, tmp_path / "ctranspath.pth")
    with torch.inference_mode():
        want = torchvision_swin(
            {name: value for name, value in state.items() if "num_batches" not in name},
            normalised(entry, pictures),
        )
    assert close(encode(entry, tmp_path, pictures), want)
    port = convert("swin", state, torch.nn.Identity())  # the 1aurent port's names are timm's
    assert port.keys() == state.keys()


@pytest.mark.parametrize("name", ["virchow", "virchow2", "h0-mini", "midnight"])
def test_variants_take_the_class_token_of_the_same_model(name: str) -> None:
    base, variant = ENTRIES[name], ENTRIES[f"{name}-cls"]
    assert variant.build == base.build
    assert (base.card.dim, variant.base) == (2 * (variant.card.dim or 0), name)
    tokens = torch.randn(2, 9, 4)
    both = Feature(torch.nn.Identity(), base)(tokens)
    assert torch.equal(both[:, :4], Feature(torch.nn.Identity(), variant)(tokens))
    assert torch.allclose(both[:, 4:], tokens[:, base.prefix :].mean(1))


def test_half_precision_checkpoints_become_float32(
    tmp_path: Path, pictures: dict[int, np.ndarray]
) -> None:
    entry = cut(ENTRIES["kaiko-vits16"])
    assert isinstance(entry.build, Timm)
    state = {name: value.half() for name, value in timm_state(entry.build).items()}
    save_file(state, tmp_path / "model.safetensors")
    save_file({n: v.float() for n, v in state.items()}, tmp_path / "wide.safetensors")
    half = encode(entry, tmp_path / "model.safetensors", pictures)
    assert torch.equal(half, encode(entry, tmp_path / "wide.safetensors", pictures))


@pytest.mark.parametrize("name", ["virchow2", "hibou-b", "plip"])
def test_what_does_not_fit_is_named(name: str, tmp_path: Path) -> None:
    entry = cut(ENTRIES[name], 1)
    if isinstance(entry.build, Timm):
        state = timm_state(entry.build)
        gone, wrong = "norm.bias", "cls_token"
    elif name == "plip":
        from spade_bench.encoders.zoo._build import build_transformers

        assert isinstance(entry.build, Transformers)
        state = build_transformers(entry.build)[0].state_dict()
        gone, wrong = "vision_model.post_layernorm.bias", "visual_projection.weight"
    else:
        state = hub_state(768, 1, 257, 4, 14, True, False)
        gone, wrong = "layernorm.bias", "embeddings.cls_token"
    options = LoadOptions(weights=tmp_path / "model.safetensors", device="cpu")
    save_file({n: v for n, v in state.items() if n != gone}, options.weights)
    with pytest.raises(WeightsError, match=rf"do not fit: 1 missing \({re.escape(gone)}\)"):
        load(entry, options)
    save_file({**state, "head.extra": torch.zeros(1)}, options.weights)
    with pytest.raises(WeightsError, match=r"1 unexpected \(head\.extra\)"):
        load(entry, options)
    save_file({**state, wrong: torch.zeros(2, 3)}, options.weights)
    with pytest.raises(WeightsError, match=rf"1 of another shape \({re.escape(wrong)}"):
        load(entry, options)
