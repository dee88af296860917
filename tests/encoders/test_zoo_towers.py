"""Architectures with parts of their authors' own load strictly and compute what their papers say.

Checkpoints carry the authors' names; features are compared with computations of the tests' own.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, gelu, layer_norm, linear, normalize, silu, softmax
from zoo_states import State, close, cut, encode, normalised, random_state, shallow, timm_state

from spade_bench.encoders.common import timmodel as _timm
from spade_bench.encoders.zoo import ENTRIES
from spade_bench.encoders.zoo._load import load
from spade_bench.encoders.zoo.entry import Adapter, Entry, Timm, Tower
from spade_bench.errors import WeightsError
from spade_bench.features.identity import identity_of
from spade_bench.features.weightfiles import FOLDER_VARIABLE
from spade_bench.types import LoadOptions


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timm, "_CPU_CHUNK", 2)


def keep_state(entry: Entry) -> State:
    """KEEP's file: its image side, where LayerScale's factor is `weight`, and some of its text."""
    assert isinstance(entry.build, Tower)
    trunk = {
        "visual." + name.replace(".gamma", ".weight"): value
        for name, value in timm_state(entry.build.trunk).items()
    }
    head = {
        "visual_head.0.weight": (768, 1024),
        "visual_head.0.bias": (768,),
        "visual_head.2.weight": (768, 768),
        "visual_head.2.bias": (768,),
    }
    text = {"text.embeddings.word_embeddings.weight": (9, 768), "logit_scale": (1,)}
    return {**trunk, **random_state({**head, **text}, seed=1)}


def test_keep_projects_the_class_token(
    tmp_path: Path, pictures: dict[int, np.ndarray], reference: ModuleType
) -> None:
    entry, raw = (cut(ENTRIES[name], 1) for name in ("keep", "keep-raw"))
    state = keep_state(entry)
    save_file(state, tmp_path / "model.safetensors")
    trunk = {
        re.sub(r"(ls[12])\.weight", r"\1.gamma", name.removeprefix("visual.")): value
        for name, value in state.items()
        if name.startswith("visual.")
    }
    with torch.inference_mode():
        shape = reference.Shape(16, 16, "class")
        first = reference.tokens(trunk, normalised(entry, pictures), shape)[:, 0]
        hidden = gelu(linear(first, state["visual_head.0.weight"], state["visual_head.0.bias"]))
        want = linear(hidden, state["visual_head.2.weight"], state["visual_head.2.bias"])
    assert close(encode(entry, tmp_path, pictures), normalize(want, dim=-1))
    assert close(encode(raw, tmp_path, pictures), want)


def coca_state(blocks: int) -> State:
    """The image side of open_clip's coca_ViT-L-14, behind `module.` as its training saves it."""
    d, width = 1024, 768
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (d,),
        "positional_embedding": (257, d),
        "conv1.weight": (d, 3, 14, 14),
        "ln_pre.weight": (d,),
        "ln_pre.bias": (d,),
        "attn_pool.query": (256, width),
        "attn_pool.attn.q_proj_weight": (width, width),
        "attn_pool.attn.k_proj_weight": (width, d),
        "attn_pool.attn.v_proj_weight": (width, d),
        "attn_pool.attn.in_proj_bias": (3 * width,),
        "attn_pool.attn.out_proj.weight": (width, width),
        "attn_pool.attn.out_proj.bias": (width,),
        "ln_post.weight": (width,),
        "ln_post.bias": (width,),
        "proj": (width, width),
    }
    shapes |= {f"attn_pool.ln_{k}.{leaf}": (width if k == "q" else d,) for k in "qk" for leaf in WB}
    for index in range(blocks):
        at = f"transformer.resblocks.{index}."
        for name, out, wide in (
            ("attn.in_proj_", 3 * d, d),
            ("attn.out_proj.", d, d),
            ("mlp.c_fc.", 4 * d, d),
            ("mlp.c_proj.", d, 4 * d),
        ):
            shapes |= {f"{at}{name}weight": (out, wide), f"{at}{name}bias": (out,)}
        shapes |= {f"{at}ln_{n}.{leaf}": (d,) for n in (1, 2) for leaf in WB}
    image = {f"module.visual.{name}": value for name, value in random_state(shapes).items()}
    other = {"module.text.ln_final.weight": torch.ones(2), "module.logit_scale": torch.ones(1)}
    return {**image, **other}


WB = ("weight", "bias")


def pool_by_hand(tokens: torch.Tensor, get: dict[str, torch.Tensor]) -> torch.Tensor:
    """Attention of the first query over tokens, (n, t, d) -> (n, width), with 8 heads."""
    width, heads = get["query"].shape[1], 8
    query = layer_norm(get["query"][:1], (width,), get["ln_q.weight"], get["ln_q.bias"])
    keys = layer_norm(tokens, tokens.shape[-1:], get["ln_k.weight"], get["ln_k.bias"])
    parts = get["attn.in_proj_bias"].chunk(3)
    q = linear(query, get["attn.q_proj_weight"], parts[0]).reshape(heads, 1, -1)
    k = linear(keys, get["attn.k_proj_weight"], parts[1])
    v = linear(keys, get["attn.v_proj_weight"], parts[2])
    n, t, _ = k.shape
    k, v = (each.reshape(n, t, heads, -1).transpose(1, 2) for each in (k, v))
    mixed = softmax(q @ k.transpose(-1, -2) / math.sqrt(width // heads), -1) @ v  # (n, h, 1, w)
    return linear(mixed.reshape(n, width), get["attn.out_proj.weight"], get["attn.out_proj.bias"])


def coca_by_hand(state: State, x: torch.Tensor) -> torch.Tensor:
    """The vector of open_clip's CoCa, with torch's own transformer layers."""
    get = {n.removeprefix("module.visual."): v for n, v in state.items() if ".visual." in n}
    patches = conv2d(x, get["conv1.weight"], stride=14).flatten(2).transpose(1, 2)
    first = get["class_embedding"].expand(len(x), 1, -1)
    out = torch.cat([first, patches], 1) + get["positional_embedding"]
    out = layer_norm(out, (1024,), get["ln_pre.weight"], get["ln_pre.bias"])
    words = {
        "self_attn.in_proj_weight": "attn.in_proj_weight",
        "self_attn.in_proj_bias": "attn.in_proj_bias",
        **{f"self_attn.out_proj.{leaf}": f"attn.out_proj.{leaf}" for leaf in WB},
        **{f"linear1.{leaf}": f"mlp.c_fc.{leaf}" for leaf in WB},
        **{f"linear2.{leaf}": f"mlp.c_proj.{leaf}" for leaf in WB},
        **{f"norm{n}.{leaf}": f"ln_{n}.{leaf}" for n in (1, 2) for leaf in WB},
    }
    depth = len({n.split(".")[2] for n in get if n.startswith("transformer.")})
    for index in range(depth):
        layer = torch.nn.TransformerEncoderLayer(
            1024, 16, 4096, 0.0, torch.nn.GELU(), batch_first=True, norm_first=True
        ).eval()
        at = f"transformer.resblocks.{index}."
        layer.load_state_dict({ours: get[at + theirs] for ours, theirs in words.items()})
        out = layer(out)
    pool = {n.removeprefix("attn_pool."): v for n, v in get.items() if n.startswith("attn_pool.")}
    pooled = pool_by_hand(out, pool)
    pooled = layer_norm(pooled, (768,), get["ln_post.weight"], get["ln_post.bias"])
    return pooled @ get["proj"]


def test_omiclip_pools_as_coca_does(tmp_path: Path, pictures: dict[int, np.ndarray]) -> None:
    entry, raw = (cut(ENTRIES[name], 1) for name in ("omiclip", "omiclip-raw"))
    state = coca_state(1)
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / "checkpoint.pt")
    with torch.inference_mode():
        want = coca_by_hand(state, normalised(entry, pictures))
    assert close(encode(entry, tmp_path, pictures), normalize(want, dim=-1))
    assert close(encode(raw, tmp_path, pictures), want)


def test_open_clips_own_coca_agrees(tmp_path: Path, pictures: dict[int, np.ndarray]) -> None:
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    config = open_clip.get_model_config("coca_ViT-L-14")
    config["vision_cfg"]["layers"] = 1
    config["text_cfg"] |= {"layers": 1, "vocab_size": 9}
    config["multimodal_cfg"] |= {"layers": 1, "vocab_size": 9}
    config.pop("custom_text", None)
    model = open_clip.CoCa(**config).eval()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "checkpoint.pt")
    entry = cut(ENTRIES["omiclip"], 1)
    with torch.inference_mode():
        want = model.encode_image(normalised(entry, pictures))
    assert close(encode(entry, tmp_path, pictures), want)


def dinov3_state(width: int, heads: int, hidden: int) -> State:
    """One block of GenBio-PathFM under the names of its authors."""
    at = "blocks.0."
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "storage_tokens": (1, 4, width),
        "patch_embed.proj.weight": (width, 1, 16, 16),
        "patch_embed.proj.bias": (width,),
        at + "attn.qkv.weight": (3 * width, width),
        at + "attn.proj.weight": (width, width),
        at + "attn.proj.bias": (width,),
        at + "mlp.w1.weight": (hidden, width),
        at + "mlp.w1.bias": (hidden,),
        at + "mlp.w2.weight": (hidden, width),
        at + "mlp.w2.bias": (hidden,),
        at + "mlp.w3.weight": (width, hidden),
        at + "mlp.w3.bias": (width,),
        at + "ls1.gamma": (width,),
        at + "ls2.gamma": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    shapes |= {f"{at}norm{n}.{leaf}": (width,) for n in (1, 2) for leaf in WB}
    head = width // heads
    powers = 2 * torch.arange(head // 4, dtype=torch.bfloat16) / (head // 2)
    return {**random_state(shapes), "rope_embed.periods": 100.0**powers}


def one_channel_by_hand(state: State, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Class token of a block with rotary positions, (n, 1, 224, 224) -> (n, d)."""
    grid = conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    n, d, side, _ = grid.shape
    lead = torch.cat([state["cls_token"], state["storage_tokens"]], 1).expand(n, -1, -1)
    out = torch.cat([lead, grid.flatten(2).transpose(1, 2)], 1)
    width = d // heads
    # Each quarter of a head turns with the row, the next with the column; both halves alike.
    place = 2 * (torch.arange(0.5, side, dtype=torch.bfloat16) / side) - 1
    turns = 2 * math.pi * place[:, None] / state["rope_embed.periods"]
    rows = turns[:, None].expand(side, side, -1)
    columns = turns[None].expand(side, side, -1)
    angle = torch.cat([rows, columns], -1).flatten(0, 1)
    cos, sin = angle.cos().float(), angle.sin().float()

    def turned(z: torch.Tensor) -> torch.Tensor:
        fixed, free = z[..., :5, :], z[..., 5:, :]
        a, b = free[..., : width // 2], free[..., width // 2 :]
        return torch.cat([fixed, torch.cat([a * cos - b * sin, b * cos + a * sin], -1)], -2)

    at = "blocks.0."
    h = layer_norm(out, (d,), state[at + "norm1.weight"], state[at + "norm1.bias"], 1e-6)
    qkv = linear(h, state[at + "attn.qkv.weight"]).reshape(n, -1, 3, heads, width)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mixed = softmax(turned(q) @ turned(k).transpose(-1, -2) / math.sqrt(width), -1) @ v
    h = mixed.transpose(1, 2).reshape(out.shape)
    h = linear(h, state[at + "attn.proj.weight"], state[at + "attn.proj.bias"])
    out = out + h * state[at + "ls1.gamma"]
    h = layer_norm(out, (d,), state[at + "norm2.weight"], state[at + "norm2.bias"], 1e-6)
    gate = silu(linear(h, state[at + "mlp.w1.weight"], state[at + "mlp.w1.bias"]))
    h = gate * linear(h, state[at + "mlp.w2.weight"], state[at + "mlp.w2.bias"])
    h = linear(h, state[at + "mlp.w3.weight"], state[at + "mlp.w3.bias"])
    out = out + h * state[at + "ls2.gamma"]
    return layer_norm(out, (d,), state["norm.weight"], state["norm.bias"], 1e-6)[:, 0]


def test_genbio_sees_the_colour_channels_one_by_one(
    tmp_path: Path, pictures: dict[int, np.ndarray]
) -> None:
    entry = cut(ENTRIES["genbio-pathfm"])
    state = dinov3_state(1536, 24, 4096)
    torch.save(state, tmp_path / "model.pth")
    x = normalised(entry, pictures)
    with torch.inference_mode():
        parts = [one_channel_by_hand(state, x[:, [c]], 24) for c in range(3)]
    got = encode(entry, tmp_path, pictures)
    assert close(got, torch.cat(parts, 1))
    assert not close(got, torch.cat(parts[::-1], 1))


def lora_state(block: str, layers: dict[str, tuple[int, int]], rank: int = 8) -> State:
    """SEAL's file: peft's names, and a decoder that makes no feature."""
    out: State = {"decoder.decoder.0.weight": torch.ones(2, 2)}
    generator = torch.Generator().manual_seed(7)
    for layer, (to, of) in layers.items():
        at = f"encoder.base_model.model.{block}.{layer}.lora_"
        out[f"{at}A.default.weight"] = torch.randn(rank, of, generator=generator) / math.sqrt(of)
        out[f"{at}B.default.weight"] = 0.3 * torch.randn(to, rank, generator=generator)
    return out


def small_seal(name: str) -> Entry:
    """The row with a base and an architecture of one block."""
    entry = ENTRIES[name]
    assert isinstance(entry.build, Adapter)
    build = entry.build.build
    if isinstance(build, Tower):
        build = dataclasses.replace(build, trunk=shallow(build.trunk, 1))
    else:
        build = shallow(build, 1)
    block = "trunk.blocks.0" if name == "seal-conch" else "blocks.0"
    adapter = dataclasses.replace(entry.build, build=build, block=block)
    return dataclasses.replace(entry, build=adapter)


def conch_state(trunk: Timm) -> State:
    """CONCH's file, cut to one block: an image side with two pools, and a text side."""
    d, width = 768, 512
    pools: dict[str, tuple[int, ...]] = {"proj_contrast": (width, width)}
    for kind, queries in (("contrast", 1), ("caption", 256)):
        at = f"attn_pool_{kind}."
        pools |= {
            at + "query": (queries, width),
            at + "attn.q_proj_weight": (width, width),
            at + "attn.k_proj_weight": (width, d),
            at + "attn.v_proj_weight": (width, d),
            at + "attn.in_proj_bias": (3 * width,),
            at + "attn.out_proj.weight": (width, width),
            at + "attn.out_proj.bias": (width,),
        }
        pools |= {f"{at}ln_{k}.{leaf}": (width if k == "q" else d,) for k in "qk" for leaf in WB}
        pools |= {f"ln_{kind}.{leaf}": (width,) for leaf in WB}
    image = {f"trunk.{name}": value for name, value in timm_state(trunk).items()}
    image |= random_state(pools, seed=2)
    return {**{f"visual.{n}": v for n, v in image.items()}, "text.cls_emb": torch.ones(2)}


@pytest.fixture
def seal(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Entry, State, State, Path]:
    """A small row of SEAL, its base's checkpoint, its changes and the file that holds these."""
    entry = small_seal(request.param)
    assert isinstance(entry.build, Adapter)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    folder = tmp_path / entry.build.base.card.name
    folder.mkdir()
    if request.param == "seal-conch":
        assert isinstance(entry.build.build, Tower)
        base = conch_state(entry.build.build.trunk)
        sizes = {"attn.qkv": (2304, 768), "attn.proj": (768, 768)}
        sizes |= {"mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    else:
        assert isinstance(entry.build.build, Timm)
        base = timm_state(entry.build.build)
        sizes = {
            layer: tuple(base[f"blocks.0.{layer}.weight"].shape)
            for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        }
    torch.save(base, folder / "pytorch_model.bin")
    changes = lora_state(entry.build.block, sizes)
    file = tmp_path / "seal.pth"
    torch.save({"state_dict": changes}, file)
    return entry, base, changes, file


def changed(base: State, changes: State, lead: str) -> State:
    """The base's weights with B times A added."""
    out = dict(base)
    for name, up in changes.items():
        layer = name.removeprefix("encoder.base_model.model.")
        if layer.endswith("lora_B.default.weight"):
            down = changes[name.replace("lora_B", "lora_A")]
            own = lead + layer.replace("lora_B.default.weight", "weight")
            out[own] = base[own] + up @ down
    return out


@pytest.mark.parametrize("seal", ["seal-uni2"], indirect=True)
def test_seal_changes_the_last_block_of_uni2(
    seal: tuple[Entry, State, State, Path], pictures: dict[int, np.ndarray], reference: ModuleType
) -> None:
    entry, base, changes, file = seal
    shape = reference.Shape(24, 14, "patches", True)
    x = normalised(entry, pictures)
    with torch.inference_mode():
        want = reference.tokens(changed(base, changes, ""), x, shape)[:, 0]
        unchanged = reference.tokens(base, x, shape)[:, 0]
    got = encode(entry, file, pictures)
    assert close(got, want)
    assert not close(got, unchanged)


@pytest.mark.parametrize("seal", ["seal-conch"], indirect=True)
def test_seal_changes_the_last_block_of_conch(
    seal: tuple[Entry, State, State, Path], pictures: dict[int, np.ndarray], reference: ModuleType
) -> None:
    entry, base, changes, file = seal
    state = changed(base, changes, "visual.")
    get = {n.removeprefix("visual."): v for n, v in state.items()}
    trunk = {n.removeprefix("trunk."): v for n, v in get.items() if n.startswith("trunk.")}
    # The positions of 448 px, interpolated as timm does when it is fed 224 px.
    table = trunk["pos_embed"][:, 1:].reshape(1, 28, 28, -1).permute(0, 3, 1, 2)
    table = torch.nn.functional.interpolate(table, size=(14, 14), mode="bicubic", antialias=True)
    table = table.flatten(2).transpose(1, 2)
    trunk["pos_embed"] = torch.cat([trunk["pos_embed"][:, :1], table], 1)
    with torch.inference_mode():
        x = normalised(entry, pictures)
        tokens = reference.tokens(trunk, x, reference.Shape(12, 16, "class"))
        lead = "attn_pool_contrast."
        pool = {n.removeprefix(lead): v for n, v in get.items() if n.startswith(lead)}
        want = pool_by_hand(tokens, pool)
        want = layer_norm(want, (512,), get["ln_contrast.weight"], get["ln_contrast.bias"])
    assert close(encode(entry, file, pictures), want)


@pytest.mark.parametrize("seal", ["seal-uni2"], indirect=True)
def test_changes_that_do_not_fit_are_refused(
    seal: tuple[Entry, State, State, Path], pictures: dict[int, np.ndarray]
) -> None:
    entry, base, changes, file = seal
    lead = "encoder.base_model.model.blocks.0."
    options = LoadOptions(weights=file, device="cpu")
    gone = {n: v for n, v in changes.items() if "mlp.fc2.lora_B" not in n}
    torch.save(gone, file)
    with pytest.raises(WeightsError, match=r"1 changes missing \(blocks\.0\.mlp\.fc2\)"):
        load(entry, options)
    torch.save({**changes, "strange": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match=r"1 unexpected \(strange\)"):
        load(entry, options)
    torch.save(
        lora_state("blocks.0", {"attn.qkv": (4608, 1536)}, rank=4)
        | {n: v for n, v in changes.items() if "attn.qkv" not in n},
        file,
    )
    with pytest.raises(WeightsError, match=r"attn\.qkv is \(4608, 4\) by \(4, 1536\).*rank 8"):
        load(entry, options)
    folder = file.parent / "uni2"
    other = {n: v for n, v in base.items() if n != "blocks.0.mlp.fc1.weight"}
    torch.save(changes, file)
    torch.save(other, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"file of uni2 .* has no blocks\.0\.mlp\.fc1\.weight"):
        load(entry, options)
    torch.save({f"module.{n}": v for n, v in base.items()}, folder / "pytorch_model.bin")
    # A file that also holds the base as it lay under the changes gives the same.
    torch.save(changes, file)
    alone = encode(entry, file, pictures)
    under = {f"{lead}attn.qkv.base_layer.weight": base["blocks.0.attn.qkv.weight"]}
    torch.save({**changes, **under}, file)
    assert torch.equal(encode(entry, file, pictures), alone)


def test_a_missing_base_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "uni2").mkdir()
    file = tmp_path / "seal.pth"
    torch.save(lora_state("blocks.23", {"attn.qkv": (4608, 1536)}), file)
    wanted = rf"of uni2, which it changes.*no weights file.*{re.escape(FOLDER_VARIABLE)}/uni2/"
    with pytest.raises(WeightsError, match=wanted):
        load(ENTRIES["seal-uni2"], LoadOptions(weights=file, device="cpu"))


def test_the_identity_of_changed_weights_names_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "uni2").mkdir()
    file = tmp_path / "seal.pth"
    file.write_bytes(b"changes")
    (tmp_path / "uni2" / "pytorch_model.bin").write_bytes(b"one")
    options = LoadOptions(weights=file)
    first = identity_of("seal-uni2", options)
    assert first == identity_of("seal-uni2", options)
    (tmp_path / "uni2" / "pytorch_model.bin").write_bytes(b"two")
    assert any("onto" in line for line in first.differences(identity_of("seal-uni2", options)))


@pytest.mark.parametrize("name", ["keep", "omiclip"])
def test_what_does_not_fit_a_tower_is_named(name: str, tmp_path: Path) -> None:
    entry = cut(ENTRIES[name], 1)
    state = keep_state(entry) if name == "keep" else coca_state(1)
    gone, ours = {
        "keep": ("visual_head.2.bias", r"head\.2\.bias"),
        "omiclip": ("module.visual.ln_post.bias", r"norm\.bias"),
    }[name]
    options = LoadOptions(weights=tmp_path / "checkpoint.pt", device="cpu")
    torch.save({n: v for n, v in state.items() if n != gone}, options.weights)
    with pytest.raises(WeightsError, match=rf"do not fit: 1 missing \({ours}\)"):
        load(entry, options)
    torch.save({**state, "visual.extra": torch.zeros(1)}, options.weights)
    with pytest.raises(WeightsError, match=r"1 unexpected \(.*extra\)"):
        load(entry, options)
