"""MOOZY's slide encoder loads strictly and computes what its paper says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, layer_norm, linear, softmax
from zoo_states import State, random_state

from spade_bench.cli.main import main
from spade_bench.encoders.wholeslide import ROWS, _moozy
from spade_bench.encoders.wholeslide._ownercode import load
from spade_bench.errors import DataError, WeightsError
from spade_bench.features.bags import read_bag, write_features
from spade_bench.features.identity import identity_of
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

WIDTH, HEADS, HIDDEN, DEPTH, REGISTERS, FEATURES = 768, 12, 96, 2, 4, 384
WB = ("weight", "bias")


def moozy_state(*, scaled: bool = True, normed: bool = True) -> State:
    """The slide encoder in `moozy.pt`, with narrow hidden layers and two blocks."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "register_tokens": (1, REGISTERS, WIDTH),
        "mask_token": (1, 1, WIDTH),
        "input_proj.0.weight": (WIDTH, FEATURES),
        "input_proj.0.bias": (WIDTH,),
        **{f"norm.{leaf}": (WIDTH,) for leaf in WB},
    }
    for index in range(DEPTH):
        at = f"blocks.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{at}{name}.weight": (WIDTH, WIDTH), f"{at}{name}.bias": (WIDTH,)}
        shapes |= {f"{at}fc1.weight": (HIDDEN, WIDTH), f"{at}fc1.bias": (HIDDEN,)}
        shapes |= {f"{at}fc2.weight": (WIDTH, HIDDEN), f"{at}fc2.bias": (WIDTH,)}
        shapes |= {f"{at}norm{n}.{leaf}": (WIDTH,) for n in (1, 2) for leaf in WB}
        if normed:
            own = WIDTH // HEADS
            shapes |= {f"{at}{k}_norm.{leaf}": (own,) for k in "qk" for leaf in WB}
        if scaled:
            shapes |= {f"{at}ls_{part}.gamma": (WIDTH,) for part in ("attn", "mlp")}
    state = random_state(shapes)
    slopes = -torch.tensor([2.0 ** -(i + 1) for i in range(HEADS)])[:, None]
    shared = {f"blocks.{index}.pos_bias.slopes": slopes for index in range(DEPTH)}
    return {**state, "pos_bias.slopes": slopes, **shared}


def by_hand(state: State, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The class token, written out; x (n, D), places (n, 2) in patch sides."""
    h = gelu(linear(x, state["input_proj.0.weight"], state["input_proj.0.bias"]))
    out = torch.cat([state["cls_token"][0], state["register_tokens"][0], h])
    lead = 1 + REGISTERS
    far = torch.zeros(len(out), len(out))
    far[lead:, lead:] = (places[:, None] - places[None]).norm(dim=-1)
    fading = state["pos_bias.slopes"][:, :, None] * far

    def norm(z: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.weight" not in state:
            return z
        return layer_norm(z, z.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    for index in range(DEPTH):
        at = f"blocks.{index}."

        def layer(z: torch.Tensor, name: str, at: str = at) -> torch.Tensor:
            return linear(z, state[f"{at}{name}.weight"], state[f"{at}{name}.bias"])

        h = norm(out, at + "norm1")
        q, k, v = (
            layer(h, f"{part}_proj").reshape(len(out), HEADS, -1).transpose(0, 1) for part in "qkv"
        )
        q, k = norm(q, at + "q_norm"), norm(k, at + "k_norm")
        logits = q @ k.transpose(1, 2) / math.sqrt(WIDTH // HEADS) + fading
        mixed = (softmax(logits, -1) @ v).transpose(0, 1).reshape(out.shape)
        out = out + layer(mixed, "out_proj") * state.get(at + "ls_attn.gamma", torch.ones(1))
        h = layer(gelu(layer(norm(out, at + "norm2"), "fc1")), "fc2")
        out = out + h * state.get(at + "ls_mlp.gamma", torch.ones(1))
    return norm(out[0], "norm")


def write(state: State, file: Path) -> LoadOptions:
    """Write what the authors' file holds beside the slide encoder too."""
    config = {"n_heads": HEADS, "dropout": 0.1}
    torch.save(
        {
            "teacher_slide_encoder": state,
            "slide_encoder_config": config,
            "case_transformer": {"case_token": torch.zeros(1, 1, WIDTH)},
            "case_transformer_config": {"num_layers": 3},
        },
        file,
    )
    return LoadOptions(weights=file, device="cpu")


@pytest.fixture
def slide() -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(0)
    places = rng.permutation(400)[:40]
    coords = np.stack([places % 20, places // 20], axis=1) * 448 + 1000
    return rng.normal(size=(40, FEATURES)).astype(np.float32), coords, 448


@pytest.mark.parametrize(("scaled", "normed"), [(True, True), (False, False)])
def test_it_computes_what_the_paper_says(
    scaled: bool, normed: bool, slide: tuple[np.ndarray, np.ndarray, int], tmp_path: Path
) -> None:
    state = moozy_state(scaled=scaled, normed=normed)
    encoder = load(ROWS["moozy"], write(state, tmp_path / "moozy.pt"))
    x, coords, side = slide
    want = by_hand(state, torch.from_numpy(x), torch.from_numpy(coords / side).float())
    found = encoder.encode_slide(x, coords, side)
    assert found.shape == (768,)
    np.testing.assert_allclose(found, want.numpy(), rtol=1e-4, atol=1e-4)
    # Neither the corner of the slide nor the order of its patches matters; the distances do.
    order = np.random.default_rng(1).permutation(len(x))
    moved = encoder.encode_slide(x[order], coords[order] + 5000, side)
    np.testing.assert_allclose(moved, found, rtol=1e-3, atol=1e-4)
    assert not np.allclose(encoder.encode_slide(x, coords * 3, side), found, atol=1e-2)
    with pytest.raises(DataError, match="needs coordinates"):
        encoder.encode_slide(x)


@pytest.mark.parametrize("chunk", [1, 3, 5, 7, 45])
def test_attention_in_chunks_equals_the_whole(
    chunk: int,
    slide: tuple[np.ndarray, np.ndarray, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = load(ROWS["moozy"], write(moozy_state(), tmp_path / "moozy.pt"))
    whole = encoder.encode_slide(*slide)
    monkeypatch.setattr(_moozy, "_CHUNK", chunk)
    np.testing.assert_allclose(encoder.encode_slide(*slide), whole, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = moozy_state()
    file = tmp_path / "moozy.pt"
    gone = {name: value for name, value in state.items() if name != "blocks.1.fc2.bias"}
    with pytest.raises(WeightsError, match=r"1 missing \(blocks\.1\.fc2\.bias\)"):
        load(ROWS["moozy"], write(gone, file))
    with pytest.raises(WeightsError, match=r"1 unexpected \(strange\)"):
        load(ROWS["moozy"], write({**state, "strange": torch.ones(1)}, file))
    torch.save(state, file)
    with pytest.raises(WeightsError, match="holds no slide encoder of MOOZY"):
        load(ROWS["moozy"], LoadOptions(weights=file, device="cpu"))


def test_its_patches_are_those_of_the_ports_statistics() -> None:
    card = ROWS["moozy"].card
    upstream = encoders.get(str(card.upstream)).card
    assert upstream.normalisation is not None
    assert upstream.normalisation.mean == (0.485, 0.456, 0.406)
    assert not card.remote_code


def test_the_command_encodes_slides_of_the_right_patches(
    slide: tuple[np.ndarray, np.ndarray, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = write(moozy_state(), tmp_path / "moozy.pt")
    x, coords, side = slide
    attrs = {"mpp": 0.5, "patch_size": 224, "patch_size_level0": side}
    argv = ["encode", "--encoder", "moozy", "--weights", "moozy.pt", "--device", "cpu"]
    for upstream in ("lunit-dino-s8-imagenet", "lunit-dino-s8"):
        path = tmp_path / upstream / f"features_{upstream}" / "s.h5"
        write_features(path, x, coords, slide_id="s", encoder=upstream, attrs=attrs)
        with pytest.raises(SystemExit) as ended:
            main([*argv, "--features", upstream, "--out", f"slides-{upstream}"])
        assert bool(ended.value.code) == (upstream == "lunit-dino-s8"), capsys.readouterr().err
    assert "lunit-dino-s8-imagenet" in capsys.readouterr().err
    (made,) = (tmp_path / "slides-lunit-dino-s8-imagenet").rglob("s.h5")
    want = load(ROWS["moozy"], options).encode_slide(*slide)
    np.testing.assert_allclose(read_bag(made).features.reshape(-1), want, rtol=1e-3, atol=1e-4)
    assert identity_of("moozy", LoadOptions(weights=options.weights)).weights


def test_the_authors_own_encoder_agrees(
    slide: tuple[np.ndarray, np.ndarray, int], tmp_path: Path
) -> None:
    theirs = pytest.importorskip("moozy.models.moozy_slide_encoder", reason="moozy is absent")
    model = theirs.MOOZYSlideEncoder(n_layers=2, dim_feedforward=HIDDEN, layerscale_init=0.1).eval()
    torch.nn.init.normal_(model.cls_token)
    x, coords, side = slide
    with torch.inference_mode():
        want, _, _ = model(
            torch.from_numpy(x)[None, None],
            coords_xy=torch.from_numpy(coords)[None],
            patch_sizes=torch.tensor([side]),
        )
    encoder = load(ROWS["moozy"], write(model.state_dict(), tmp_path / "moozy.pt"))
    found = encoder.encode_slide(x, coords, side)
    np.testing.assert_allclose(found, want[0].numpy(), rtol=1e-3, atol=1e-4)
