"""The zoo's cards say what the fact sheet says; architectures have the published sizes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from spade_bench import plugins
from spade_bench.encoders.common.seendata import LEDGER
from spade_bench.encoders.common.weights import UNPINNED
from spade_bench.encoders.zoo import ENTRIES
from spade_bench.encoders.zoo.entry import Adapter, Timm, Tower, Transformers
from spade_bench.features.weightfiles import is_commit
from spade_bench.registry import encoders
from spade_bench.types import Normalisation

IN = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
H5 = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CL = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HO = Normalisation((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
GB = Normalisation((0.697, 0.575, 0.728), (0.188, 0.24, 0.187))
HO4 = Normalisation((0.7072, 0.5787, 0.7036), (0.2119, 0.2301, 0.1775))
HB = Normalisation((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
LU = Normalisation((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))

# name: dim, feature, prefix, norm, px, mpp, precision, gated, ledger flags
SHEET = {
    "uni2": (1536, "cls", 9, IN, 224, 0.5, "bf16", True, "pppp?"),
    "conch": (512, "vector", 1, CL, 448, 0.5, "fp32", True, "n????"),
    "conch-proj": (512, "vector", 1, CL, 448, 0.5, "fp32", True, "n????"),
    "conch-224": (512, "vector", 1, CL, 224, 0.5, "fp32", True, "n????"),
    "conch_v15": (768, "vector", 1, IN, 448, 0.5, "fp16", True, "n????"),
    "virchow": (2560, "cls+mean", 1, IN, 224, 0.5, "fp16", True, "pppp?"),
    "virchow-cls": (1280, "cls", 1, IN, 224, 0.5, "fp16", True, "pppp?"),
    "virchow2": (2560, "cls+mean", 5, IN, 224, 0.5, "fp16", True, "pppp?"),
    "virchow2-cls": (1280, "cls", 5, IN, 224, 0.5, "fp16", True, "pppp?"),
    "gigapath": (1536, "cls", 1, IN, 224, 0.5, "fp16", True, "pppp?"),
    "h-optimus-0": (1536, "cls", 5, HO, 224, 0.5, "fp16", False, "pppp?"),
    "h-optimus-1": (1536, "cls", 5, HO, 224, 0.5, "fp16", True, "pppp?"),
    "h0-mini": (1536, "cls+mean", 5, HO, 224, 0.5, "fp16", True, "Yppp?"),
    "h0-mini-cls": (768, "cls", 5, HO, 224, 0.5, "fp16", True, "Yppp?"),
    "phikon": (768, "cls", 1, IN, 224, 0.5, "fp32", False, "Ynnnn"),
    "phikon_v2": (1024, "cls", 1, IN, 224, 0.5, "fp32", False, "YY???"),
    "hibou-b": (768, "cls", 5, HB, 224, 0.5, "fp32", False, "pppp?"),
    "hibou-l": (1024, "cls", 5, HB, 224, 0.5, "fp32", True, "pppp?"),
    "kaiko-vits16": (384, "cls", 1, H5, 224, 0.5, "fp32", False, "Ynnnn"),
    "kaiko-vits8": (384, "cls", 1, H5, 224, 0.5, "fp32", False, "Ynnnn"),
    "kaiko-vitb16": (768, "cls", 1, H5, 224, 0.5, "fp32", False, "Ynnnn"),
    "kaiko-vitb8": (768, "cls", 1, H5, 224, 0.5, "fp32", False, "Ynnnn"),
    "kaiko-vitl14": (1024, "cls", 5, H5, 224, 0.5, "fp32", False, "Ynnnn"),
    "lunit-dino-s8": (384, "cls", 1, LU, 224, 0.5, "fp32", False, "Ynnnn"),
    "lunit-dino-s8-imagenet": (384, "cls", 1, IN, 224, 0.5, "fp32", False, "Ynnnn"),
    "lunit-dino-s16": (384, "cls", 1, LU, 224, 0.5, "fp32", False, "Ynnnn"),
    "lunit-dino-s16-imagenet": (384, "cls", 1, IN, 224, 0.5, "fp32", False, "Ynnnn"),
    "ctranspath": (768, "vector", 1, IN, 224, 1.0, "fp32", False, "Ynnnn"),
    "ctranspath-chief": (768, "vector", 1, IN, 224, 1.0, "fp32", True, "Y????"),
    "gpfm": (1024, "cls", 1, IN, 224, 0.5, "fp32", False, "YYYY?"),
    "gpfm-512": (1024, "cls", 1, IN, 224, 0.5714, "fp32", False, "YYYY?"),
    "genbio-pathfm": (4608, "vector", 1, GB, 224, 0.5, "fp32", False, "?????"),
    "mstar": (1024, "cls", 1, IN, 224, 0.5, "fp32", True, "Y????"),
    "omiclip": (768, "vector", 1, CL, 224, 0.5, "fp32", True, "?????"),
    "omiclip-raw": (768, "vector", 1, CL, 224, 0.5, "fp32", True, "?????"),
    "seal-uni2": (1536, "cls", 9, IN, 224, 0.5, "bf16", True, "pppp?"),
    "seal-conch": (512, "vector", 1, CL, 224, 0.5, "fp32", True, "n????"),
    "midnight": (3072, "cls+mean", 1, H5, 224, 0.5, "fp16", False, "Ynnnn"),
    "midnight-cls": (1536, "cls", 1, H5, 224, 0.5, "fp16", False, "Ynnnn"),
    "musk": (1024, "vector", 1, H5, 384, 0.5, "fp16", True, "Y????"),
    "musk-ms": (2048, "vector", 1, H5, 384, 0.5, "fp16", True, "Y????"),
    "plip": (512, "vector", 1, CL, 224, 0.5, "fp32", False, "?????"),
    "keep": (768, "vector", 1, IN, 224, 0.5, "fp32", False, "?????"),
    "keep-raw": (768, "vector", 1, IN, 224, 0.5, "fp32", False, "?????"),
    "openmidnight": (1536, "cls", 5, IN, 224, 0.5, "fp16", True, "Ynnnn"),
    "rudolfv2": (1536, "cls", 9, HO4, 224, 0.5, "fp32", True, "nppp?"),
    "rudolfv2-cls-mean": (3072, "cls+mean", 9, HO4, 224, 0.5, "fp32", True, "nppp?"),
    "rudolfv2-b": (768, "cls", 9, HO4, 224, 0.5, "fp32", True, "nppp?"),
    "rudolfv2-b-cls-mean": (1536, "cls+mean", 9, HO4, 224, 0.5, "fp32", True, "nppp?"),
    "rudolfv2-s": (384, "cls", 9, HO4, 224, 0.5, "fp32", True, "nppp?"),
    "rudolfv2-s-cls-mean": (768, "cls+mean", 9, HO4, 224, 0.5, "fp32", True, "nppp?"),
    "dinov2-vitl14": (1024, "cls", 1, IN, 224, 0.5, "fp16", False, "-----"),
    "dinov2-vitl14-reg4": (1024, "cls", 5, IN, 224, 0.5, "fp16", False, "-----"),
    "dinov3-vitl16": (1024, "cls", 5, IN, 256, 0.5, "fp32", False, "-----"),
}


def test_the_sheet_covers_the_zoo() -> None:
    assert set(SHEET) == set(ENTRIES)


@pytest.mark.parametrize("name", sorted(SHEET))
def test_cards_say_what_the_sheet_says(name: str) -> None:
    entry = ENTRIES[name]
    card = entry.card
    dim, feature, prefix, norm, px, mpp, precision, gated, flags = SHEET[name]
    assert (card.dim, entry.feature, entry.prefix) == (dim, feature, prefix)
    assert card.normalisation == norm
    assert (card.patch_px, card.mpp) == (px, mpp)
    assert (card.precision, card.gated) == (precision, gated)
    seen = {LEDGER[i] for i, flag in enumerate(flags) if flag == "Y"}
    assert seen == set(card.pretrained_on or ()) & set(LEDGER)
    assert card.undeclared == tuple(LEDGER[i] for i, flag in enumerate(flags) if flag == "?")
    assert (card.pretrained_on is None) == (flags == "?????")


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_cards_are_complete(name: str) -> None:
    entry = ENTRIES[name]
    card = entry.card
    for value in (card.description, card.source, card.licence, card.reference):
        assert value
    assert is_commit(card.revision) or UNPINNED in card.notes
    assert card.description.endswith(".")
    assert all(note.endswith(".") for note in card.notes)
    assert card.needs.repos
    assert card.needs.files
    if entry.base:
        base = ENTRIES[entry.base]
        assert base.card.needs.repos == card.needs.repos
        assert card.needs.folders == (entry.base,)
        assert any(note.startswith(f"Variant of {entry.base}") for note in card.notes)
        assert dataclasses.replace(card, name="", notes=()) != dataclasses.replace(
            base.card, name="", notes=()
        ) or (entry.build != base.build)


OURS = Timm | Tower | Adapter | Transformers
BUILT = sorted(n for n, e in ENTRIES.items() if isinstance(e.build, OURS))


@pytest.mark.parametrize("name", BUILT)
def test_architectures_have_the_published_size(name: str) -> None:
    import torch

    from spade_bench.encoders.zoo._build import build_timm, build_transformers
    from spade_bench.encoders.zoo._towers import build_tower

    entry = ENTRIES[name]
    build = entry.build.build if isinstance(entry.build, Adapter) else entry.build
    with torch.device("meta"):  # no memory
        if isinstance(build, Timm):
            model = build_timm(build)
        elif isinstance(build, Tower):
            model = build_tower(build)
        else:
            assert isinstance(build, Transformers)
            model = build_transformers(build)[0]
    assert abs(sum(p.numel() for p in model.parameters()) / 1e6 - entry.millions) < 0.06


def test_ctranspath_counts_as_measured_elsewhere() -> None:
    import torch

    from spade_bench.encoders.zoo._build import build_timm

    build = ENTRIES["ctranspath"].build
    assert isinstance(build, Timm)
    with torch.device("meta"):
        model = build_timm(build)
    assert sum(p.numel() for p in model.parameters()) == 27_520_038


DISAGREEMENTS = {
    "h0-mini": "h0-mini-cls",
    "virchow": "virchow-cls",
    "virchow2": "3584",
    "midnight": "midnight-cls",
    "musk": "musk-ms",
    "conch": "conch-proj",
    "h-optimus-0": "0.9.16",
    "gigapath": "crop 1.0",
    "lunit-dino-s8": "lunit-dino-s8-imagenet",
    "gpfm": "gpfm-512",
    "ctranspath": "1646f230",
    "uni2": "fp16",
    "hibou-l": "gated",
    "phikon_v2": "proprietary",
    "kaiko-vitl14": "two names",
    "keep": "keep-raw",
    "omiclip": "omiclip-raw",
    "genbio-pathfm": "bicubically",
    "seal-uni2": "fp32",
}


@pytest.mark.parametrize(("name", "word"), DISAGREEMENTS.items())
def test_where_tools_disagree_the_card_says_so(name: str, word: str) -> None:
    assert any(word in note for note in ENTRIES[name].card.notes)
    if word.startswith(name):
        assert word in ENTRIES


def test_the_zoo_is_listed_without_heavy_imports() -> None:
    code = (
        "import sys; from spade_bench.registry import encoders; import spade_bench\n"
        "assert 'virchow2' in encoders.names() and not encoders.broken, encoders.broken\n"
        "assert encoders.prefixes == ['hf', 'lazyslide', 'timm']\n"
        "sys.exit(str({'torch', 'numpy', 'timm', 'transformers'} & set(sys.modules) or ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_every_row_is_registered() -> None:
    plugins.install()
    for name, entry in ENTRIES.items():
        assert encoders.get(name).card is entry.card
