"""Encoders of groups with one model each: Prov-GigaPath, GPFM, GenBio-PathFM, CTransPath, Lunit."""

from __future__ import annotations

from typing import Any

from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import GENBIO, IMAGENET, LUNIT, Entry, Timm, Tower

__all__ = ["ENTRIES"]


def _lunit(patch: int, *, commit: str) -> Entry:
    architecture = f"vit_small_patch{patch}_224"
    port = ("raw2features reads 0.5 in that port.",) if patch == 16 else ()
    return entry(
        f"lunit-dino-s{patch}",
        384,
        Timm(architecture, {"num_classes": 0}),
        f"Lunit ViT-S/{patch}, trained with DINO on about 21,000 slides of TCGA.",
        feature="cls",
        repos=(f"1aurent/{architecture}.lunit_dino",),
        revision=commit,
        norm=LUNIT,
        licence="Lunit non-commercial",
        flags="Ynnnn",
        pretrained_on=("TCGA",),
        millions=21.7,
        reference="Kang et al., CVPR 2023, arXiv 2212.04690",
        notes=(
            "Normalised with the statistics it was trained with. The 1aurent port declares "
            "ImageNet's, which TRIDENT and slide2vec therefore use: "
            f"lunit-dino-s{patch}-imagenet.",
            *port,
            "Trained at 20x and 40x.",
        ),
    )


_GIGAPATH = entry(
    "gigapath",
    1536,
    Timm(
        "vit_giant_patch14_dinov2",
        {
            "patch_size": 16,
            "img_size": 224,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
            "num_classes": 0,
        },
    ),
    "Prov-GigaPath's tile encoder, ViT-g/16 trained with DINOv2 on 171,189 slides of Providence.",
    feature="cls",
    repos=("prov-gigapath/prov-gigapath",),
    # Commit: as most public pipelines pin it; a few take the later 64f9e26c.
    revision="eba85dd46097c3eedfcc2a3a9a930baecb6bcc19",
    files=("pytorch_model.bin", "model.safetensors"),
    crop_pct=0.875,
    precision="fp16",
    licence="Apache-2.0; its README bars deployment",
    gated=True,
    flags="pppp?",
    pretrained_on=("Providence (private)",),
    millions=1134.9,
    reference="Xu et al., Nature 2024, doi 10.1038/s41586-024-07441-w",
    notes=(
        "The patch is 16 px although the architecture's name says 14.",
        "Other sizes are resized to 256 and cropped to 224, as the authors do; the hub's own "
        "configuration (crop 1.0) would squeeze their 256 px tiles.",
        "TRIDENT pins timm 0.9.16; the authors ask for 1.0.3 or newer, which is what runs here.",
        "fp16 as in TRIDENT; HEST-bench runs it in fp32.",
        "eva states 181,000 slides, the authors 171,189.",
    ),
)

_GPFM = entry(
    "gpfm",
    1024,
    Timm(
        "vit_large_patch14_dinov2",
        {"img_size": 224, "init_values": 1e-5, "num_classes": 0},
        layout="gpfm",
    ),
    "GPFM, ViT-L/14 distilled from UNI, CONCH and Phikon on 33 public data sets.",
    feature="cls",
    repos=("majiabo/GPFM",),
    # Commit: as raw2features pins it.
    revision="c2e0c6c7cea4d7ae67151c3375d780712f82254e",
    files=("GPFM.pth", "model.safetensors", "pytorch_model.bin"),
    licence="CC-BY-NC-ND-4.0",
    flags="YYYY?",
    pretrained_on=("TCGA", "CPTAC", "PANDA", "CAMELYON16", "28 other public sets"),
    millions=303.2,
    reference="Ma et al., Nature Biomedical Engineering 2025, doi 10.1038/s41551-025-01488-4",
    notes=(
        "PANDA and Camelyon were seen in part.",
        "The authors cut 512 px at 40x (128 µm) and resize to 224: gpfm-512. TRIDENT and slide2vec "
        "cut 224 px at 20x, as here.",
        "Both published files are taken: the bare one of the hub, and the GitHub one that nests "
        "under `teacher`.",
        "fp32 upstream; TRIDENT runs it in fp16.",
        "Licence by its repository; slide2vec notes MIT on the hub.",
        "72,280, 95,572 or 96,000 slides, by the version of the paper.",
    ),
)

_SWIN = Timm(
    "swin_tiny_patch4_window7_224",
    {"num_classes": 0, "embed_layer": "ConvStem"},
    layout="swin",
)


def _ctranspath(name: str, description: str, **more: Any) -> Entry:
    notes = more.pop("notes")
    return entry(
        name,
        768,
        _SWIN,
        description,
        mpp=1.0,
        interpolation="bilinear",
        pretrained_on=("TCGA", "PAIP"),
        millions=27.5,
        notes=(
            "Feature: average pool.",
            "1.0 µm/px first (authors' tiles: 256 px at 10x).",
            "Two files go by this name. The authors' ctranspath.pth starts with SHA-256 7c998680; "
            "CHIEF's, which is TRIDENT's `ctranspath`, with 1646f230.",
            "Upstream needs a patched timm 0.5.4; here timm's own Swin takes the authors' names.",
            *notes,
        ),
        **more,
    )


def _imagenet(of: Entry) -> Entry:
    note = "ImageNet's channel statistics, as the 1aurent port declares."
    return variant(of, f"{of.card.name}-imagenet", note, normalisation=IMAGENET)


# Commits: as raw2features pins them.
_LUNIT8 = _lunit(8, commit="c23bc01cfbe022bc1f2a8a9306125a07818e4eb4")
_LUNIT16 = _lunit(16, commit="9ed09909d93f9d39a092d8e49717ae48f9b44e6f")

_GENBIO = entry(
    "genbio-pathfm",
    4608,
    Tower(
        Timm(
            "vit_7b_patch16_dinov3",
            {
                "img_size": 224,
                "in_chans": 1,
                "embed_dim": 1536,
                "depth": 40,
                "num_heads": 24,
                "mlp_ratio": 4096 / 1536,
                "norm_layer": "LayerNorm",
                "num_classes": 0,
                "global_pool": "token",
                "dynamic_img_size": False,
            },
        ),
        "channels",
        "dinov3",
    ),
    "GenBio-PathFM, a ViT-g/16 with rotary positions, trained on public slides alone; it sees the "
    "three colour channels one by one.",
    repos=("genbio-ai/genbio-pathfm",),
    files=("model.pth",),
    norm=GENBIO,
    interpolation="bilinear",
    licence="GenBio AI Community License",
    flags="?????",
    pretrained_on=None,
    millions=1133.7,
    reference="Kapse et al., bioRxiv 2026, doi 10.64898/2026.03.17.712534",
    notes=(
        "Feature: class tokens of the red, green and blue channel, side by side.",
        "Trained on public slides; which, its README does not say.",
        "Built with timm instead of the code beside the weights. Rotary angles are rounded to "
        "bfloat16 as there; queries and keys, which the authors round too, are not.",
        "Resized bilinearly as the authors do; slide2vec resizes bicubically.",
        "0.5 µm/px is a convention: the authors state no scale.",
    ),
)

ENTRIES: tuple[Entry, ...] = (
    _GIGAPATH,
    _GENBIO,
    _GPFM,
    variant(
        _GPFM,
        "gpfm-512",
        "512 px at 40x (128 µm) resized to 224, the authors' field of view.",
        mpp=round(128 / 224, 4),
    ),
    _ctranspath(
        "ctranspath",
        "CTransPath, a Swin-T with a convolutional stem, trained with MoCo v3 on 32,220 slides.",
        repos=("1aurent/swin_tiny_patch4_window7_224.CTransPath",),
        # Commit: as raw2features pins it.
        revision="59c740e4ed91dda4ebe094b64e4cd2e015c31810",
        files=("model.safetensors", "pytorch_model.bin", "ctranspath.pth"),
        licence="GPL-3.0",
        flags="Ynnnn",
        other_digest="1646f230",
        reference="Wang et al., Medical Image Analysis 2022, doi 10.1016/j.media.2022.102559",
        notes=(),
    ),
    _ctranspath(
        "ctranspath-chief",
        "CTransPath as retrained for CHIEF, a Swin-T with a convolutional stem.",
        repos=("MahmoodLab/hest-bench",),
        files=("fm_v1/ctranspath/CHIEF_CTransPath.pth", "CHIEF_CTransPath.pth"),
        kind="dataset",
        source="hub data set MahmoodLab/hest-bench, file CHIEF_CTransPath.pth",
        licence="AGPL-3.0",
        gated=True,
        flags="Y????",
        other_digest="7c998680",
        reference="Wang et al., Nature 2024, doi 10.1038/s41586-024-07894-z",
        notes=("Data as stated for CHIEF's patch features; the rest is unknown.",),
    ),
    _LUNIT8,
    _imagenet(_LUNIT8),
    _LUNIT16,
    _imagenet(_LUNIT16),
)
