"""Encoders of the Mahmood lab: UNI2-h, CONCH and CONCH v1.5. UNI has a module of its own."""

from __future__ import annotations

from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import CLIP, Entry, Package, Remote, Timm

__all__ = ["ENTRIES"]

_ND = "CC-BY-NC-ND-4.0"
_TERMS = "The licence also covers models trained on its features and bars commercial use."

_UNI2 = entry(
    "uni2",
    1536,
    Timm(
        "vit_giant_patch14_224",
        {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 5.33334,
            "init_values": 1e-5,
            "num_classes": 0,
            "no_embed_class": True,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "SiLU",
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
    ),
    "UNI2-h, ViT-H/14 with 8 registers, trained on more than 350,000 H&E and IHC slides.",
    feature="cls",
    prefix=9,
    repos=("MahmoodLab/UNI2-h",),
    # Commit: as several public pipelines pin it.
    revision="d517a8dd47902dd7c308b3c36f63bce47e7b9a43",
    files=("pytorch_model.bin", "model.safetensors"),
    interpolation="bilinear",
    precision="bf16",
    licence=_ND,
    gated=True,
    flags="pppp?",
    pretrained_on=("Mass General Brigham (private)",),
    millions=681.4,
    reference="Model card MahmoodLab/UNI2-h, 2025; no paper",
    notes=(
        "bf16 as in TRIDENT; slide2vec runs it in fp16.",
        "Authors' tiles: 256 px at 20x, resized to 224.",
        "eva states 250,000 slides, the authors more than 350,000.",
        _TERMS,
    ),
)

_CONCH = entry(
    "conch",
    512,
    Package("conch", {"proj_contrast": False, "normalize": False}),
    "CONCH, ViT-B/16 with an attention pool, trained on image-caption pairs.",
    repos=("MahmoodLab/conch",),
    # Commit: as STAMP and other public pipelines pin it.
    revision="f9ca9f877171a28ade80228fb195ac5d79003357",
    modules=("conch",),
    install="git+https://github.com/mahmoodlab/CONCH.git",
    files=("pytorch_model.bin",),
    norm=CLIP,
    patch_px=448,
    licence=_ND,
    gated=True,
    extra="conch",
    flags="n????",
    pretrained_on=("PMC-OA", "educational captions", "in-house slides (private)"),
    reference="Lu et al., Nature Medicine 2024, doi 10.1038/s41591-024-02856-4",
    notes=(
        "Feature: attention-pooled image vector, neither projected nor normalised, as the authors "
        "advise for probing and MIL.",
        "LazySlide projects by default (conch-proj); both are 512 wide, so the slip is silent.",
        "448 px; MADELEINE and plismbench feed 224 px (conch-224).",
        "Authors' tiles: 512 px at 20x, resized to 448.",
        _TERMS,
    ),
)

_CONCH15 = entry(
    "conch_v15",
    768,
    Remote("return_conch"),
    "CONCH v1.5, ViT-L/16 started from UNI and trained on 1.26 million captions; TITAN's patches.",
    repos=("MahmoodLab/TITAN",),
    # Commit: as slide2vec pins it.
    revision="dac6773d9961cfc75503440676ff157a2c6e8d2e",
    modules=("einops", "einops_exts"),
    install="einops einops_exts",
    transformers_below=5,
    interpolation="bilinear",
    precision="fp16",
    patch_px=448,
    licence=_ND,
    gated=True,
    extra="einops, einops_exts, transformers<5",
    flags="n????",
    pretrained_on=("Mass-100K", "GTEx", "captions (private)"),
    reference="Ding et al., Nature Medicine 2025, doi 10.1038/s41591-025-03982-3 (TITAN)",
    notes=(
        "Feature: pooled image vector of TITAN's return_conch().",
        "Runs code from the hub, so it asks for --trust-remote-code; that code was written for "
        "transformers 4 and does not load with 5.",
        "Authors' tiles: 512 px at 20x, resized to 448.",
        "Started from UNI, whose data it inherits.",
        _TERMS,
    ),
)

ENTRIES: tuple[Entry, ...] = (
    _UNI2,
    _CONCH,
    variant(
        _CONCH,
        "conch-proj",
        "projected into the space shared with text, LazySlide's default.",
        build=Package("conch", {"proj_contrast": True, "normalize": False}),
    ),
    variant(_CONCH, "conch-224", "fed 224 px, as MADELEINE and plismbench do.", patch_px=224),
    _CONCH15,
)
