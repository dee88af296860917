"""Random checkpoints in the layouts of the hub, and what is compared with them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file

from spade_bench.encoders.zoo._build import build_timm
from spade_bench.encoders.zoo._load import load
from spade_bench.encoders.zoo.entry import Entry, Timm, Tower, Transformers
from spade_bench.types import LoadOptions

State = dict[str, torch.Tensor]


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    """Weights for which activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if re.search(r"(norm\w*|bn|proj\.[14])\.weight$|gamma$|lambda1$|running_var$", name):
            value = 1 + 0.1 * value
        elif len(shape) > 1 and "token" not in name and "pos" not in name:
            value /= math.sqrt(math.prod(shape[1:]))
        else:
            value *= 0.3
        out[name] = value
    return out


def timm_state(build: Timm, **changes: object) -> State:
    with torch.device("meta"):
        model = build_timm(build, **changes)
    return random_state({name: tuple(value.shape) for name, value in model.state_dict().items()})


def hub_state(
    width: int, layers: int, positions: int, registers: int, patch: int, gated: bool, vit: bool
) -> State:
    """Names and shapes of ViT and DINOv2 checkpoints on the hub, as transformers 4 wrote them."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, positions, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    if not vit:
        shapes["embeddings.mask_token"] = (1, width)
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, width)
    hidden = (int(width * 8 / 3) + 7) // 8 * 8 if gated else 4 * width
    for index in range(layers):
        at = f"encoder.layer.{index}."
        linear = {f"attention.attention.{n}": (width, width) for n in ("query", "key", "value")}
        linear["attention.output.dense"] = (width, width)
        if vit:
            linear |= {"intermediate.dense": (hidden, width), "output.dense": (width, hidden)}
        elif gated:
            linear |= {"mlp.weights_in": (2 * hidden, width), "mlp.weights_out": (width, hidden)}
        else:
            linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        norms = ("layernorm_before", "layernorm_after") if vit else ("norm1", "norm2")
        for name, shape in linear.items():
            shapes[f"{at}{name}.weight"] = shape
            shapes[f"{at}{name}.bias"] = shape[:1]
        for name in norms:
            shapes |= {f"{at}{name}.weight": (width,), f"{at}{name}.bias": (width,)}
        if not vit:
            shapes |= {f"{at}layer_scale{n}.lambda1": (width,) for n in (1, 2)}
    return random_state(shapes)


def cut(entry: Entry, blocks: int | None = None) -> Entry:
    """The same entry with only a few blocks: two, or one where they are wide."""
    if blocks is None:
        blocks = 1 if entry.millions > 500 else 2
    build: Timm | Tower | Transformers
    if isinstance(entry.build, Timm):
        build = shallow(entry.build, blocks)
    elif isinstance(entry.build, Tower):
        build = dataclasses.replace(entry.build, trunk=shallow(entry.build.trunk, blocks))
    else:
        assert isinstance(entry.build, Transformers)
        settings = {**entry.build.settings, "num_hidden_layers": blocks}
        build = dataclasses.replace(entry.build, settings=settings)
    return dataclasses.replace(entry, build=build)


def shallow(build: Timm, blocks: int) -> Timm:
    return dataclasses.replace(build, arguments={**build.arguments, "depth": blocks})


def encode(entry: Entry, path: Path, pictures: dict[int, np.ndarray]) -> torch.Tensor:
    encoder = load(entry, LoadOptions(weights=path, device="cpu", precision="fp32"))
    out = encoder.encode(pictures[entry.card.patch_px or 0])
    assert out.shape == (2, entry.card.dim)
    assert out.dtype == torch.float32
    return out


def normalised(entry: Entry, pictures: dict[int, np.ndarray]) -> torch.Tensor:
    norm = entry.card.normalisation
    assert norm is not None
    images = torch.from_numpy(pictures[entry.card.patch_px or 0]).double() / 255
    x = (images - torch.tensor(norm.mean).double()) / torch.tensor(norm.std).double()
    return x.permute(0, 3, 1, 2).float()


def pooled(tokens: torch.Tensor, entry: Entry, prefix: int) -> torch.Tensor:
    if entry.feature == "cls":
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], -1)


def close(got: torch.Tensor, want: torch.Tensor) -> bool:
    return bool((got - want).norm() / want.norm() < 1e-4) and bool(want.std() > 0.01)


def registers(state: State) -> int:
    for name in ("reg_token", "register_tokens", "embeddings.register_tokens"):
        if name in state:
            return state[name].shape[1]
    return 0


def check_timm(
    entry: Entry,
    state: State,
    shape: tuple[int, int, str, bool],
    tmp_path: Path,
    pictures: dict[int, np.ndarray],
    reference: ModuleType,
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    with torch.inference_mode():
        tokens = reference.tokens(state, normalised(entry, pictures), reference.Shape(*shape))
    got = encode(entry, tmp_path, pictures)
    assert close(got, pooled(tokens, entry, 1 + registers(state)))
