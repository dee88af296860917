"""Encoders trained with gene expression: mSTAR, OmiCLIP and SEAL."""

from __future__ import annotations

from typing import Any

from spade_bench.encoders.zoo import _mahmood
from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import CLIP, IMAGENET, Adapter, Entry, Timm, Tower

__all__ = ["ENTRIES"]

_ND = "CC-BY-NC-ND-4.0"
_BASES = {row.card.name: row for row in _mahmood.ENTRIES}

_MSTAR = entry(
    "mstar",
    1024,
    Timm(
        "vit_large_patch16_224",
        {
            "img_size": 224,
            "patch_size": 16,
            "init_values": 1e-5,
            "num_classes": 0,
            "dynamic_img_size": True,
        },
    ),
    "mSTAR, ViT-L/16 taught by a slide model of 26,169 pairs of TCGA's slides, reports and RNA.",
    feature="cls",
    repos=("Wangyh/mSTAR",),
    # Commit: as raw2features pins it.
    revision="162ae5da9897d4ff8b9a4c2daea175ae45012ef7",
    files=("model.safetensors", "mSTAR.pth", "pytorch_model.bin"),
    interpolation="bilinear",
    licence=_ND,
    gated=True,
    flags="Y????",
    pretrained_on=("TCGA",),
    millions=303.4,
    reference="Xu et al., Nature Communications 2025, doi 10.1038/s41467-025-66220-x",
    notes=(
        "Normalised with ImageNet's statistics, as the authors do; its configuration on the hub "
        "declares 0.5, timm's default for the architecture.",
        "It saw TCGA's reports and RNA too: results on TCGA are no test of it.",
        "The licence also covers models trained on its features and bars commercial use.",
    ),
)


def _omiclip(*, unit: bool) -> Tower:
    trunk = Timm("vit_large_patch14_clip_224", {"num_classes": 0, "final_norm": False})
    return Tower(trunk, "pooled", "open_clip", width=768, queries=256, project=True, unit=unit)


_OMICLIP = entry(
    "omiclip",
    768,
    _omiclip(unit=True),
    "OmiCLIP, the image side of a CoCa ViT-L/14 trained on 2.2 million pairs of a Visium patch and "
    "its highest expressed genes.",
    repos=("WangGuangyuLab/Loki",),
    files=("checkpoint.pt",),
    norm=CLIP,
    licence="BSD-3-Clause (by LazySlide)",
    gated=True,
    flags="?????",
    pretrained_on=None,
    millions=306.7,
    reference="Chen et al., Nature Methods 2025, doi 10.1038/s41592-025-02707-1",
    notes=(
        "Feature: pooled image vector, projected into the space shared with genes and scaled to "
        "length 1, open_clip's default and so LazySlide's and AtlasPatch's; unscaled: omiclip-raw.",
        "Built with timm, without open_clip.",
        "Trained on ST-bank (Visium, 32 organs), which may share samples with HEST-1k.",
        "The file is a training checkpoint of 7 GB, of which the image side is used. One that "
        "holds more than tensors and plain values is refused: save its state_dict alone then.",
        "SEAL's code feeds it ImageNet's statistics; open_clip's are CLIP's, as here.",
        "0.5 µm/px is a convention.",
    ),
)


def _seal(
    name: str, of: str, dim: int, build: Timm | Tower, *, block: str, file: str, **more: Any
) -> Entry:
    base = _BASES[of]
    notes = more.pop("notes")
    return entry(
        name,
        dim,
        Adapter(base, build, block, rank=8),
        f"SEAL: {base.card.title or base.card.name.upper()} whose last block was tuned by low-rank "
        "changes on more than 700,000 spots of spatial transcriptomics of 14 organs.",
        repos=("MahmoodLab/SEAL",),
        # Commit: as raw2features pins it.
        revision="c20762e7a04551e21e62c083a9c443bdbc48cb89",
        files=(file,),
        onto=of,
        licence=_ND,
        gated=True,
        pretrained_on=(*(base.card.pretrained_on or ()), "SEAL's spatial transcriptomics"),
        reference="Hemker et al., arXiv 2602.14177",
        notes=(
            f"Needs the weights of {of} too: from the hub, or $SPADE_BENCH_WEIGHTS/{of}.",
            "The changes are added to the base's weights here, so the authors' package, which pins "
            "torch 2.1, is not needed. Rank 8 and scale 1 are as raw2features records them.",
            "Trained on spatial transcriptomics by the lab behind HEST-1k. Whether on its "
            "samples is unknown, so tasks on HEST-1k are no clean test of it.",
            *notes,
            "The licence also covers models trained on its features and bars commercial use.",
        ),
        **more,
    )


def _uni2() -> Timm:
    build = _BASES["uni2"].build
    assert isinstance(build, Timm)
    return build


_CONCH = Tower(
    Timm(
        "vit_base_patch16_224",
        {"img_size": 448, "num_classes": 0, "dynamic_img_size": True},
    ),
    "pooled",
    "conch",
    width=512,
)

ENTRIES: tuple[Entry, ...] = (
    _MSTAR,
    _OMICLIP,
    variant(_OMICLIP, "omiclip-raw", "not scaled to length 1.", build=_omiclip(unit=False)),
    _seal(
        "seal-uni2",
        "uni2",
        1536,
        _uni2(),
        block="blocks.23",
        file="seal_univ2_vision.pth",
        feature="cls",
        prefix=9,
        norm=IMAGENET,
        interpolation="bilinear",
        precision="bf16",
        flags="pppp?",
        millions=681.4,
        notes=("bf16 as in the authors' code; raw2features runs it in fp32.",),
    ),
    _seal(
        "seal-conch",
        "conch",
        512,
        _CONCH,
        block="trunk.blocks.11",
        file="seal_conch_vision.pth",
        norm=CLIP,
        flags="n????",
        millions=87.6,
        notes=(
            "Feature: attention-pooled image vector, neither projected nor normalised.",
            "Fed 224 px, as in the authors' code; positions of CONCH's 448 px are interpolated.",
            "CONCH's image side is built with timm, without its package.",
        ),
    ),
)
