"""Where weights come from, what is refused, and what runs only when the user agrees."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_cache import COMMITS, fake_cache, put
from safetensors.torch import save_file

from spade_bench import plugins
from spade_bench.encoders.common import hub as _hub
from spade_bench.encoders.zoo import ENTRIES
from spade_bench.encoders.zoo._build import build_timm, build_transformers
from spade_bench.encoders.zoo._load import load
from spade_bench.encoders.zoo.entry import Adapter, Package, Remote, Timm, Tower, Transformers
from spade_bench.errors import ConfigError, WeightsError
from spade_bench.features import weightfiles
from spade_bench.features.weightfiles import FOLDER_VARIABLE
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions, Needs

CPU = LoadOptions(device="cpu")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugins.install()
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(_hub, "reachable", lambda: False)
    monkeypatch.setattr(_hub, "cached", lambda *a, **k: None)


def small_state() -> dict[str, torch.Tensor]:
    build = ENTRIES["kaiko-vits16"].build
    assert isinstance(build, Timm)
    torch.manual_seed(0)
    return build_timm(build).state_dict()


OURS = Timm | Tower | Adapter | Transformers
OFFLINE = sorted(n for n, e in ENTRIES.items() if isinstance(e.build, OURS))


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_every_encoder_says_in_one_line_what_to_do(name: str) -> None:
    with pytest.raises(WeightsError, match=r"hub cannot be reached.*pass --weights FILE") as caught:
        encoders.get(name).load(CPU)
    assert "\n" not in str(caught.value)
    assert ENTRIES[name].card.needs.repos[0] in str(caught.value)


def test_the_own_folder_is_used_before_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: dict[int, np.ndarray]
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    folder = tmp_path / "kaiko-vits16"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"holds none of model\.safetensors.*no weights file"):
        encoders.get("kaiko-vits16").load(CPU)
    torch.save(small_state(), folder / "vits16.pth")  # under its own name, if it is the only one
    out = encoders.get("kaiko-vits16").load(CPU).encode(pictures[224][:1])
    assert out.shape == (1, 384)
    save_file({"other": torch.zeros(1)}, folder / "model.safetensors")  # the usual name wins
    with pytest.raises(WeightsError, match=r"model\.safetensors: weights do not fit"):
        encoders.get("kaiko-vits16").load(CPU)


def test_a_variant_finds_the_weights_of_its_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "h0-mini").mkdir()
    with pytest.raises(WeightsError, match="h0-mini: folder holds none"):
        encoders.get("h0-mini-cls").load(CPU)


def test_hub_alternatives_are_tried_in_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    asked = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        # Their constructors want a response of whichever client library the hub package uses.
        if repo == "a/gone":
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        if file == "model.safetensors":
            raise EntryNotFoundError.__new__(EntryNotFoundError)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(_hub, "reachable", lambda: True)
    files = ("model.safetensors", "pytorch_model.bin")
    path = _hub.fetch(("a/gone", "a/there"), files, gated=False)
    assert path == tmp_path / "pytorch_model.bin"
    assert asked[-1] == ("a/there", "pytorch_model.bin")
    with pytest.raises(WeightsError, match="no such file for this token"):
        _hub.fetch("a/gone", files, gated=False)


def test_the_other_ctranspath_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ctranspath.pth"
    file.write_bytes(b"weights of somebody else")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    entry = dataclasses.replace(ENTRIES["ctranspath"], other_digest=digest)
    with pytest.raises(WeightsError, match="is not ctranspath's but the other one"):
        load(entry, dataclasses.replace(CPU, weights=file))
    assert ENTRIES["ctranspath"].other_digest == "1646f230"
    assert ENTRIES["ctranspath-chief"].other_digest == "7c998680"


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"model": Path("evil")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        load(ENTRIES["virchow2"], dataclasses.replace(CPU, weights=tmp_path))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'trust_remote_code'"):
        load(ENTRIES["uni2"], LoadOptions(options={"trust_remote_cod": True}))


CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class TinyConfig(PretrainedConfig):
    model_type = "tiny-remote"

    def __init__(self, width=384, **more):
        self.width = width
        super().__init__(**more)


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Conv2d(3, config.width, 8, stride=8)
        self.first = torch.nn.Parameter(torch.ones(1, 9, config.width))
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, pixel_values):
        patches = self.embed(pixel_values).flatten(2).transpose(1, 2)
        first = self.first.expand(len(patches), -1, -1)
        return BaseModelOutput(last_hidden_state=torch.cat([first, patches], 1))

    def return_branch(self):
        return self.embed, "a transform"

    def return_fetched(self):
        from huggingface_hub import hf_hub_download
        path = hf_hub_download("MahmoodLab/TITAN", filename="branch.bin")
        with open(path) as file:
            self.embed.fetched = file.read()
        return self.embed
"""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder as a hub repository with code of its own."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "modeling_tiny.py").write_text(CODE)
    (folder / "config.json").write_text(
        '{"model_type": "tiny-remote", "width": 384, "auto_map": '
        '{"AutoConfig": "modeling_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}}'
    )
    generator = torch.Generator().manual_seed(0)
    state = {
        "embed.weight": 0.1 * torch.randn(384, 3, 8, 8, generator=generator),
        "embed.bias": torch.zeros(384),
        "first": torch.randn(1, 9, 384, generator=generator),
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, state


def test_code_of_the_hub_runs_only_when_the_user_agrees(
    remote: tuple[Path, dict[str, torch.Tensor]], pictures: dict[int, np.ndarray]
) -> None:
    folder, state = remote
    (folder / "modeling_tiny.py").write_text(CODE + "\nraise SystemExit('ran')\n")
    with pytest.raises(WeightsError, match=r"run code from .*RudolfV-2-S.*--trust-remote-code"):
        load(ENTRIES["rudolfv2-s"], LoadOptions(weights=folder, device="cpu"))
    (folder / "modeling_tiny.py").write_text(CODE)
    agreed = LoadOptions(weights=folder, device="cpu", options={"trust_remote_code": True})
    images = pictures[224]
    first = load(ENTRIES["rudolfv2-s"], agreed).encode(images)
    assert torch.allclose(first, state["first"][:, 0].expand(2, -1))
    both = load(ENTRIES["rudolfv2-s-cls-mean"], agreed).encode(images)
    norm = ENTRIES["rudolfv2-s"].card.normalisation
    assert norm is not None
    x = (torch.from_numpy(images).float() / 255 - torch.tensor(norm.mean)) / torch.tensor(norm.std)
    patches = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), state["embed.weight"], stride=8)
    assert both.shape == (2, 768)
    assert torch.allclose(both[:, 384:], patches.mean((2, 3)), atol=1e-4)  # 9 tokens skipped
    save_file({"first": state["first"]}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"2 missing \(embed.bias, embed.weight\)"):
        load(ENTRIES["rudolfv2-s"], agreed)


def test_a_branch_of_a_remote_model_is_taken(
    remote: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    entry = dataclasses.replace(
        ENTRIES["conch_v15"],
        build=Remote("return_branch"),
        card=dataclasses.replace(ENTRIES["conch_v15"].card, patch_px=224, needs=Needs(("a/b",))),
    )
    agreed = LoadOptions(weights=remote[0], device="cpu", options={"trust_remote_code": True})
    model = load(entry, agreed).model
    assert isinstance(model.model, torch.nn.Conv2d)


def test_what_the_code_fetches_itself_is_of_the_same_folder_or_commit(
    remote: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    original = huggingface_hub.hf_hub_download
    folder, _ = remote
    card = ENTRIES["conch_v15"].card
    needs = dataclasses.replace(card.needs, modules=(), transformers_below=None)
    entry = dataclasses.replace(
        ENTRIES["conch_v15"],
        build=Remote("return_fetched"),
        card=dataclasses.replace(card, patch_px=224, needs=needs),
    )
    agreed = LoadOptions(weights=folder, device="cpu", options={"trust_remote_code": True})
    with pytest.raises(WeightsError, match=r"folder holds no branch\.bin"):
        load(entry, agreed)
    (folder / "branch.bin").write_text("of the folder")
    assert load(entry, agreed).model.model.fetched == "of the folder"
    cache = fake_cache(tmp_path / "hub", monkeypatch)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    pinned = {**files, "branch.bin": b"of the commit"}
    put(cache, "MahmoodLab/TITAN", COMMITS[0], {**files, "branch.bin": b"of main"}, main=True)
    put(cache, "MahmoodLab/TITAN", card.revision, pinned, main=False)
    hub_copy = dataclasses.replace(agreed, weights=None)
    monkeypatch.setattr(_hub, "cached", weightfiles.cached)
    assert load(entry, hub_copy).model.model.fetched == "of the commit"
    assert huggingface_hub.hf_hub_download is original


def test_conch_v15_says_what_its_code_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    monkeypatch.setattr(transformers, "__version__", "5.1.0")
    with pytest.raises(WeightsError, match=r"below 5, here is 5\.1\.0"):
        load(ENTRIES["conch_v15"], CPU)
    monkeypatch.setattr(transformers, "__version__", "4.46.0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="einops, einops_exts, which are not installed"):
        load(ENTRIES["conch_v15"], CPU)


@pytest.mark.parametrize(("name", "package"), [("conch", "conch"), ("musk", "musk, fairscale")])
def test_absent_packages_are_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=rf"package\(s\) {package}, .*pip install .*git\+https"):
        load(ENTRIES[name], CPU)


class FakeVisual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))


class FakeConch(torch.nn.Module):
    """Answers like CONCH: how it was asked decides what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = FakeVisual(), torch.nn.Linear(2, 2)

    def encode_image(self, x, normalize=True, proj_contrast=True):
        value = 10.0 * normalize + 1.0 * proj_contrast
        return torch.full((len(x), 512), value) + 0 * self.visual.scale


@pytest.mark.parametrize(
    ("name", "size", "value"), [("conch", None, 0), ("conch-proj", None, 1), ("conch-224", 224, 0)]
)
def test_conch_is_asked_for_the_unprojected_vector(
    name: str,
    size: int | None,
    value: float,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pictures: dict[int, np.ndarray],
) -> None:
    asked: dict[str, object] = {}

    def create(config: str, **arguments: object) -> FakeConch:
        asked.update(arguments, config=config)
        return FakeConch()

    module = types.ModuleType("conch.open_clip_custom")
    module.create_model_from_pretrained = create  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "conch", types.ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    file = tmp_path / "pytorch_model.bin"
    torch.save({"visual.scale": torch.ones(1), "text.weight": torch.ones(1)}, file)
    encoder = load(ENTRIES[name], LoadOptions(weights=file, device="cpu"))
    out = encoder.encode(pictures[encoder.card.patch_px or 0])
    assert torch.equal(out, torch.full((2, 512), float(value)))
    assert (asked["config"], asked["force_image_size"]) == ("conch_ViT-B-16", size)
    torch.save({"visual.other": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match=r"1 missing \(visual.scale\), 1 unexpected"):
        load(ENTRIES[name], LoadOptions(weights=file, device="cpu"))


@pytest.mark.parametrize(
    ("name", "dim", "scales"), [("musk", 1024, False), ("musk-ms", 2048, True)]
)
def test_musk_is_asked_without_its_head(
    name: str,
    dim: int,
    scales: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pictures: dict[int, np.ndarray],
) -> None:
    import timm

    class FakeMusk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, image, with_head, out_norm, ms_aug, return_global):
            assert (with_head, out_norm, ms_aug, return_global) == (False, False, scales, True)
            assert image.shape[1:] == (3, 384, 384)
            return torch.zeros(len(image), dim) + 0 * self.scale, None

    build = ENTRIES[name].build
    assert isinstance(build, Package)
    monkeypatch.setitem(sys.modules, "musk", types.ModuleType("musk"))
    monkeypatch.setitem(sys.modules, "musk.modeling", types.ModuleType("musk.modeling"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(timm, "create_model", lambda name: FakeMusk())
    save_file({"scale": torch.ones(1)}, tmp_path / "model.safetensors")
    encoder = load(ENTRIES[name], LoadOptions(weights=tmp_path, device="cpu"))
    assert encoder.encode(pictures[384]).shape == (2, dim)


def test_transformers_settings_are_left_as_found() -> None:
    import transformers.utils

    logging = transformers.utils.logging
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    build = ENTRIES["hibou-b"].build
    assert isinstance(build, Transformers)
    build_transformers(build, {}, num_hidden_layers=1)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_old_libraries_are_named() -> None:
    timm_build = Timm("vit_of_tomorrow")
    with pytest.raises(WeightsError, match=r"timm \S+ has no vit_of_tomorrow.*--upgrade timm"):
        build_timm(timm_build)
    build = Transformers("ModelOfTomorrow", "ViTConfig", {})
    with pytest.raises(WeightsError, match=r"has no ModelOfTomorrow.*--upgrade transformers"):
        build_transformers(build)
