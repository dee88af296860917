"""Encoders trained with text: MUSK, PLIP and KEEP. CONCH stands with the Mahmood lab's."""

from __future__ import annotations

from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import CLIP, HALF, Entry, Package, Timm, Tower, Transformers

__all__ = ["ENTRIES"]


def _musk(*, ms_aug: bool) -> Package:
    return Package(
        "musk",
        {"with_head": False, "out_norm": False, "return_global": True, "ms_aug": ms_aug},
    )


_MUSK = entry(
    "musk",
    1024,
    _musk(ms_aug=False),
    "MUSK, a vision-language transformer trained on TCGA and image-text pairs.",
    repos=("xiangjx/musk",),
    # Commit: as raw2features pins it.
    revision="de1ffed28608c197d2903f6fa42b491a3fbf0fb8",
    files=("model.safetensors",),
    modules=("musk", "fairscale"),
    install="fairscale git+https://github.com/lilab-stanford/MUSK",
    norm=HALF,
    patch_px=384,
    precision="fp16",
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    extra="musk, fairscale",
    flags="Y????",
    pretrained_on=("TCGA", "Quilt-1M", "PathAsst"),
    reference="Xiang et al., Nature 2025, doi 10.1038/s41586-024-08378-w",
    notes=(
        "Feature: class token without the zero-shot head, as in TRIDENT. LazySlide applies the "
        "head, also 1024 wide; slide2vec, STAMP and thunder use two scales (musk-ms).",
        "Trained at 10x, 20x and 40x.",
        "The licence also covers models trained on its features and bars commercial use.",
    ),
)


def _keep(*, unit: bool) -> Tower:
    trunk = Timm(
        "vit_large_patch16_224",
        {"init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
    )
    return Tower(trunk, "projected", "keep", width=768, unit=unit)


_KEEP = entry(
    "keep",
    768,
    _keep(unit=True),
    "KEEP, ViT-L/16 aligned with captions in 143,000 groups that a graph of diseases arranges.",
    repos=("Astaxanthin/KEEP",),
    # Commit: as raw2features pins it.
    revision="28a25d95cc6ba27a7e6fab3f144e13dbafd8b21e",
    licence="MIT",
    flags="?????",
    pretrained_on=None,
    millions=304.7,
    reference="Zhou et al., Cancer Cell 2026, doi 10.1016/j.ccell.2026.01.019",
    notes=(
        "Feature: image vector, projected into the space shared with text and scaled to length 1, "
        "as the authors, TRIDENT and raw2features do; LazySlide leaves it unscaled (keep-raw).",
        "Trained on public pairs of images and captions; what slides these show is unknown.",
        "The authors' code, which the hub runs beside the weights, alters timm for the whole "
        "process and does not load with a current one; here timm's own architecture takes its "
        "weights.",
        "fp32 as in raw2features; TRIDENT runs it in fp16.",
        "0.5 µm/px is a convention: the authors state no scale.",
    ),
)

ENTRIES: tuple[Entry, ...] = (
    _MUSK,
    variant(
        _MUSK,
        "musk-ms",
        "two scales side by side, as slide2vec, STAMP and thunder do.",
        dim=2048,
        build=_musk(ms_aug=True),
    ),
    entry(
        "plip",
        512,
        Transformers(
            "CLIPVisionModelWithProjection",
            "CLIPVisionConfig",
            {"patch_size": 32, "image_size": 224, "projection_dim": 512},
            drop=(
                "text_model.",
                "text_projection.",
                "logit_scale",
                "vision_model.embeddings.position_ids",
            ),
        ),
        "PLIP, CLIP ViT-B/32 trained on pathology images and their captions from the web.",
        repos=("vinid/plip",),
        # Commit: as raw2features pins it.
        revision="67ade53ddd32195868f422585f72698ef5d15094",
        files=("model.safetensors", "pytorch_model.bin"),
        norm=CLIP,
        licence="none stated; LazySlide lists it as non-commercial",
        flags="?????",
        pretrained_on=None,
        millions=87.8,
        reference="Huang et al., Nature Medicine 2023, doi 10.1038/s41591-023-02504-3",
        notes=(
            "Feature: pooled image token, projected into the space shared with text.",
            "Trained on OpenPath, 208,414 pairs; what slides these show is unknown.",
            "0.5 µm/px is what surveys use; the web images have no stated scale.",
        ),
    ),
    _KEEP,
    variant(_KEEP, "keep-raw", "not scaled to length 1.", build=_keep(unit=False)),
)
