"""What made these numbers: the same identity is reused, another is not, and the reason is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
import torch
from hub_cache import COMMITS, fake_cache, put
from PIL import Image
from safetensors.torch import save, save_file

from spade_bench import plugins
from spade_bench.cli.main import main
from spade_bench.errors import WeightsError
from spade_bench.features.bags import read_bag, write_features
from spade_bench.features.identity import Identity, identity_of, stored_identity
from spade_bench.features.weightfiles import FOLDER_VARIABLE, find_weights, is_commit
from spade_bench.files import hash_file
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, LoadOptions, Needs, Normalisation

REPO = "somebody/scale"
PLUGIN = """
import json
from pathlib import Path

from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, Needs, Normalisation

SLIDE = EncoderCard("scaled-mean", "features", 2, "d", level="slide", upstream="any", licence="x")
PATCH = EncoderCard("scaled", "features", 2, "d", upstream="any", licence="x")
IMAGE = EncoderCard("scaled-colour", "image", 3, "d", patch_px=8, mpp=0.5, licence="x",
                    normalisation=Normalisation((0.5,) * 3, (0.5,) * 3))
HUB = EncoderCard("scaled-hub", "features", 2, "d", upstream="any", licence="x",
                  needs=Needs(("somebody/scale",), ("scale.json",)))


def factor(path):
    return json.loads((path / "scale.json" if path.is_dir() else path).read_text())


class Scaled:
    dim = 2

    def __init__(self, card, by):
        self.card, self.by, self.dim = card, by, card.dim

    def encode_slide(self, features, coords=None, side=None):
        return (features.mean(0) * self.by).astype("float32")

    def encode(self, x):
        import numpy as np
        import torch

        if self.card.input == "image":
            return torch.as_tensor(np.asarray(x)).float().mean(dim=(1, 2)) * self.by
        return (x * self.by).astype("float32")


def make(card):
    def load(options):
        from spade_bench.encoders.common.weights import locate

        return Scaled(card, factor(locate(card, options)))

    return load


for card in (SLIDE, PATCH, IMAGE, HUB):
    encoders.add(card, make(card))
"""


def run(*argv: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in argv])
    assert not ended.value.code


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of plugins that scale by what their weights say, forgotten after the test."""
    plugins.install()
    encoders.names()
    monkeypatch.setattr(encoders, "_plugins", dict(encoders._plugins))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    path = tmp_path / "scaling.py"
    path.write_text(PLUGIN)
    plugins.load_file(path)
    return path


@pytest.fixture
def features(tmp_path: Path) -> Path:
    for i in range(2):
        x = np.full((3, 2), i + 1, dtype=np.float32)
        path = tmp_path / "base" / "features_b" / f"s{i}.h5"
        write_features(path, x, np.zeros((3, 2)), slide_id=f"s{i}", encoder="b")
    return tmp_path / "base"


def first(folder: Path) -> float:
    path = next(folder.rglob("s0.h5"))
    with h5py.File(path) as file:
        return float(np.asarray(file["features"]).flat[0])


@pytest.mark.parametrize("name", ["scaled", "scaled-mean"])
@pytest.mark.parametrize("kind", ["file", "folder", "deep"])
def test_encode_makes_again_what_other_weights_made(
    name: str, kind: str, plugin: Path, features: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    weights = folder / "scale.json"
    weights.write_text("1.0")
    given = weights if kind == "file" else folder
    changing = weights
    if kind == "deep":
        changing = folder / "deeper" / "layer.safetensors"
        changing.parent.mkdir()
        save_file({"w": torch.ones(1)}, changing)
    argv = ["encode", "--encoder", name, "--features", features, "--weights", given,
            "--out", tmp_path / "out", "--device", "cpu"]  # fmt: skip
    run(*argv)
    assert first(tmp_path / "out") == 1
    run(*argv)
    assert "0 bags encoded, 2" in (out := capsys.readouterr().out) or "0 slides encoded, 2" in out
    if kind == "deep":
        save_file({"w": torch.zeros(1)}, changing)
    else:
        weights.write_text("5.0")  # as long as before, under the same path
    run(*argv)
    said = capsys.readouterr()
    assert " 0 already there" in said.out
    assert "2 file(s) had been made otherwise and are made again (weights" in said.err
    assert first(tmp_path / "out") == (1 if kind == "deep" else 5)


def test_a_plugin_whose_code_changes_is_another(
    plugin: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "scale.json"
    weights.write_text("1.0")
    options = LoadOptions(weights, "cpu")
    before = identity_of("scaled", options)
    assert before.code == hash_file(plugin)
    plugin.write_text(PLUGIN.replace("* self.by", "* self.by * 2"))
    after = identity_of("scaled", options)
    assert [text.split(":")[0] for text in before.differences(after)] == ["code of the plugin"]


def test_extract_makes_again_what_other_weights_made(
    plugin: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "patches" / "s0").mkdir(parents=True)
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "patches" / "s0" / "p.png")
    weights = tmp_path / "w" / "deeper"
    weights.mkdir(parents=True)
    (tmp_path / "w" / "scale.json").write_text("1.0")
    (weights / "code.py").write_text("a = 1\n")
    argv = ["extract", "--encoder", "scaled-colour", "--patches", tmp_path / "patches",
            "--weights", tmp_path / "w", "--out", tmp_path / "out", "--device", "cpu"]  # fmt: skip
    run(*argv)
    run(*argv)
    assert "1 already there" in capsys.readouterr().out
    (weights / "code.py").write_text("a = 2\n")
    run(*argv)
    said = capsys.readouterr()
    assert "1 file was made otherwise and is made again (weights: deeper/code.py" in said.err
    assert "already there" not in said.out
    stored = stored_identity(next((tmp_path / "out").rglob("s0.h5")))
    assert stored is not None
    assert stored == identity_of("scaled-colour", LoadOptions(tmp_path / "w", "cpu"))


def test_a_commit_of_the_hub_is_part_of_it(
    plugin: Path,
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    cache = fake_cache(tmp_path / "hub", monkeypatch)
    argv = ["encode", "--encoder", "scaled-hub", "--features", features, "--out", tmp_path / "out",
            "--device", "cpu"]  # fmt: skip
    put(cache, REPO, COMMITS[0], {"scale.json": b"1.0"}, main=True)
    run(*argv)
    stored = stored_identity(next((tmp_path / "out").rglob("s0.h5")))
    assert stored is not None
    assert stored.source == f"hub {REPO}@{COMMITS[0]}"
    assert stored.weights == {"weights": hash_file(cache / "models--somebody--scale" / "snapshots"
                                                   / COMMITS[0] / "scale.json")}  # fmt: skip
    put(cache, REPO, COMMITS[1], {"scale.json": b"3.0"}, main=True)
    capsys.readouterr()
    run(*argv)
    assert first(tmp_path / "out") == 3
    assert f"source of the weights: hub {REPO}@{COMMITS[0]} -> " in capsys.readouterr().err
    run(*argv, "--revision", COMMITS[0])
    assert first(tmp_path / "out") == 1
    run(*argv, "--revision", COMMITS[0])
    assert "0 bags encoded, 2 already there" in capsys.readouterr().out


def test_the_cache_at_another_commit_than_the_pinned_one_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.install()
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    cache = fake_cache(tmp_path, monkeypatch)
    put(cache, "MahmoodLab/UNI", COMMITS[0], {"pytorch_model.bin": b"x"}, main=True)
    line = rf"of commit {COMMITS[0]}, not of b55a5ec6.*Pass --revision {COMMITS[0]}"
    with pytest.raises(WeightsError, match=line):
        encoders.get("uni").load(LoadOptions(device="cpu"))
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        encoders.get("uni").load(LoadOptions(device="cpu", revision=COMMITS[0]))
    made_by = identity_of("uni")
    assert made_by.weights is None
    assert made_by.known  # the commit says which weights
    put(cache, "MahmoodLab/UNI", encoders.get("uni").card.revision,
        {"pytorch_model.bin": b"y"}, main=False)  # fmt: skip
    assert made_by.differences(identity_of("uni")) == ()
    assert identity_of("uni", LoadOptions(revision=COMMITS[0])).source.endswith(COMMITS[0])


def test_a_hub_checkpoint_loads_at_its_pinned_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spade_bench.encoders import resnet50

    plugins.install()
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    cache = fake_cache(tmp_path, monkeypatch)
    import timm

    state = timm.create_model("resnet50", pretrained=False).state_dict()
    content = save({name: value.contiguous() for name, value in state.items()})
    repo = resnet50.CARD.needs.repos[0]
    put(cache, repo, COMMITS[0], {"model.safetensors": b"of main"}, main=True)
    put(cache, repo, resnet50.CARD.revision, {"model.safetensors": content}, main=False)
    loaded = encoders.get("resnet50").load(LoadOptions(device="cpu"))
    made_by = identity_of(loaded)
    assert made_by == identity_of("resnet50")
    assert made_by.source == f"hub {repo}@{resnet50.CARD.revision}"
    assert made_by.preprocessing["crop_pct"] == 0.875


def identity(**changes: Any) -> Identity:
    return Identity(**{"encoder": "e", "weights": {"weights": "a" * 16}, **changes})


CHANGES: dict[str, dict[str, Any]] = {
    "encoder": {"encoder": "f"},
    "weights": {"weights": {"weights": "b" * 16}},
    "more files": {"weights": {"weights": "a" * 16, "x.py": "b" * 16}},
    "commit": {"source": f"hub a/b@{COMMITS[0]}"},
    "code": {"code": "c"},
    "option": {"options": {"tau": 2.0}},
    "preprocessing": {"preprocessing": {"patch_px": 224}},
    "precision": {"precision": "bf16"},
    "seed": {"seed": 1},
    "recipe": {"recipe": 2},
    "base": {"base": "d"},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_every_part_counts_and_is_named(kind: str) -> None:
    before, after = identity(), identity(**CHANGES[kind])
    assert before.digest != after.digest
    assert len(before.differences(after)) == 1
    assert after.differences(after) == ()
    assert Identity.from_dict(json.loads(after.to_json())) == after
    assert Identity.from_dict(json.loads(after.to_json())).digest == after.digest


def test_what_changes_no_number_does_not_count(tmp_path: Path) -> None:
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"w")
    copy = tmp_path / "elsewhere" / "renamed.bin"
    copy.parent.mkdir()
    copy.write_bytes(b"w")
    plain = identity_of("mean-pool", LoadOptions(weights))
    consent = {"trust_remote_code": True, "batch": 3, "revision": "x"}
    for options in (
        LoadOptions(weights, device="cpu", options=consent),
        LoadOptions(copy, device="cuda:1"),
        LoadOptions(str(weights)),  # type: ignore[arg-type]
    ):
        assert identity_of("mean-pool", options) == plain
    assert identity_of("mean-pool", LoadOptions(weights, options={"routing": "hard"})) != plain


@pytest.mark.parametrize("name", ["uni", "titan", "conch_v15", "efficientnet-lite0", "spade",
                                  "mean-pool", "random-lite0"])  # fmt: skip
def test_the_identity_of_any_encoder_is_plain_json(name: str) -> None:
    plugins.install()
    made_by = identity_of(name)
    assert json.loads(made_by.to_json())["digest"] == made_by.digest
    assert made_by.encoder == name
    assert made_by.code == ""


def test_folders_count_whole_and_hidden_files_do_not(tmp_path: Path) -> None:
    card = EncoderCard("x", "image", 1, "d")
    options = LoadOptions(tmp_path)
    for name in ("a.safetensors", "b/c.py", "b/d.json", "b/notes.md", ".git/config.json",
                 "__pycache__/m.py", "pages.pdf"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    found = find_weights(card, options).files
    assert found is not None
    assert set(found) == {"a.safetensors", "b/c.py", "b/d.json", "b/notes.md", "pages.pdf"}
    parts = dataclasses.replace(card, needs=Needs(parts=("*.safetensors",)))
    assert set(find_weights(parts, options).files or ()) == {"a.safetensors"}
    with pytest.raises(WeightsError, match="No such weights"):
        find_weights(card, LoadOptions(tmp_path / "gone"))


def test_many_files_fit_into_an_attribute(tmp_path: Path) -> None:
    for i in range(300):
        (tmp_path / f"part-{i:05}-of-00300.json").write_text(str(i))
    made_by = identity_of("mean-pool", LoadOptions(tmp_path))
    assert list(made_by.weights or ()) == ["300 files"]
    assert len(made_by.to_json()) < 2000


def test_files_of_older_versions_are_kept_by_their_recipe(
    features: Path, tmp_path: Path, capsys: Any
) -> None:
    plugins.install()
    argv = ["encode", "--encoder", "mean-pool", "--features", features, "--out", tmp_path / "out"]
    run(*argv)
    for path in (tmp_path / "out").rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            del file["features"].attrs["identity"]
        assert stored_identity(path) is None
        assert read_bag(path).features.shape == (1, 2)
    run(*argv)
    assert "0 slides encoded, 2 already there" in capsys.readouterr().out


def test_extracted_files_of_older_versions_are_kept_by_their_recipe(tmp_path: Path) -> None:
    from spade_bench.extraction import EncoderSource, extract_patch_folders, group_patches
    from spade_bench.extraction.recipe import Settings
    from spade_bench.files import hash_obj

    plugins.install()
    (tmp_path / "patches" / "s0").mkdir(parents=True)
    Image.new("RGB", (224, 224), (10, 20, 30)).save(tmp_path / "patches" / "s0" / "p.png")
    groups, _ = group_patches(tmp_path / "patches", "auto")

    def go(**options: Any) -> Any:
        return extract_patch_folders(
            groups,
            "efficientnet-lite0",
            tmp_path / "out",
            settings=Settings(),
            options=LoadOptions(device="cpu", **options),
        )

    assert go().done == {"s0": 1}
    assert go().skipped == ("s0",)
    path = next((tmp_path / "out").rglob("s0.h5"))
    with h5py.File(path, "r+") as file:
        attrs = file["features"].attrs
        inputs = json.loads(attrs["recipe"])
        inputs.pop("schema")
        source = EncoderSource("efficientnet-lite0", LoadOptions(device="cpu")).old_recipe()
        old = {"schema": 1, **source, **inputs}  # as it was written before there were identities
        attrs["recipe"], attrs["recipe_hash"] = json.dumps(old, sort_keys=True), hash_obj(old)
        del attrs["identity"]
    assert go().skipped == ("s0",)
    assert go(seed=3).done == {"s0": 1}


def test_a_hub_encoder_has_the_recipe_of_older_versions() -> None:
    from spade_bench.extraction import EncoderSource

    plugins.install()
    for name in ("uni", "resnet50", "phikon_v2"):
        assert EncoderSource(name).old_recipe()["revision"] == "main"
    assert EncoderSource("efficientnet-lite0").old_recipe()["revision"] == "0.1.0 (57934424)"


def test_encoded_features_say_what_made_their_base(features: Path, tmp_path: Path) -> None:
    plugins.install()
    base = identity(encoder="b")
    for path in features.rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["features"].attrs["identity"] = base.to_json()
    run("encode", "--encoder", "std-pool", "--features", features, "--out", tmp_path / "out")
    stored = stored_identity(next((tmp_path / "out").rglob("s0.h5")))
    assert stored is not None
    assert (stored.encoder, stored.base) == ("std-pool", base.digest)


def test_a_loaded_encoder_may_say_more_of_itself(tmp_path: Path) -> None:
    class Mine:
        card = EncoderCard("mine", "image", 3, "d", patch_px=8, mpp=0.5,
                           normalisation=Normalisation((0.5,) * 3, (0.5,) * 3))  # fmt: skip
        weights_files = (tmp_path / "hidden.bin",)
        identity_parts: ClassVar = {"depth": 3}

    (tmp_path / "hidden.bin").write_bytes(b"1")
    before = identity_of(Mine())
    assert before.options == {"depth": 3}
    assert before.code == hash_file(__file__)
    (tmp_path / "hidden.bin").write_bytes(b"2")
    assert [text.split(":")[0] for text in before.differences(identity_of(Mine()))] == ["weights"]


def test_cards_pin_commits_and_never_a_branch() -> None:
    plugins.install()
    for card in (plugin.card for plugin in encoders):
        assert card.revision not in {"main", "master"}
        if card.needs.repos:
            assert card.revision == "" or is_commit(card.revision)
