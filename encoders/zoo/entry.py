"""What one row of the zoo's tables holds. Importing this loads no heavy library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spade_bench.types import EncoderCard, Normalisation

__all__ = [
    "CLIP",
    "GENBIO",
    "HALF",
    "H_OPTIMUS",
    "IMAGENET",
    "LUNIT",
    "Adapter",
    "Build",
    "Entry",
    "Package",
    "Remote",
    "Timm",
    "Tower",
    "Transformers",
]

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
H_OPTIMUS = Normalisation((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
GENBIO = Normalisation((0.697, 0.575, 0.728), (0.188, 0.24, 0.187))
LUNIT = Normalisation((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))


@dataclass(frozen=True)
class Timm:
    """An architecture of timm.

    Attributes:
        name: Its name there.
        arguments: Arguments of `timm.create_model`. The names `SwiGLUPacked`, `SiLU`, `LayerNorm`
            and `ConvStem` stand for the classes, which are not imported here.
        layout: How the checkpoint names its tensors: `timm`, `dinov2`, `gpfm` or `swin`. With
            `resample`, timm's names, and position embeddings that are resampled to the input size
            once; with `native`, timm's names, and a model built at the checkpoint's own size.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    layout: Literal["timm", "dinov2", "gpfm", "swin", "resample", "native"] = "timm"


@dataclass(frozen=True)
class Transformers:
    """An architecture of transformers, configured here rather than by a file of the hub.

    Attributes:
        model: Name of the model's class.
        config: Name of the configuration's class.
        settings: Arguments of the configuration.
        arguments: Arguments of the model besides it.
        drop: Prefixes of tensors in the checkpoint that belong to parts not built.
    """

    model: str
    config: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tower:
    """An architecture of timm with parts of its authors' own before or behind it.

    Attributes:
        trunk: The architecture of timm.
        form: `projected`: two linear layers behind the class token (KEEP). `pooled`: attention of
            a learned query over all tokens, as in CoCa. `channels`: each colour channel is encoded
            alone, and the three class tokens stand side by side (GenBio-PathFM).
        layout: How the checkpoint names its tensors: `keep`, `open_clip`, `conch` or `dinov3`.
        width: Width of the vector that a part behind the trunk makes.
        queries: Number of learned queries in the checkpoint, of which the first is used.
        project: Whether the pooled vector is projected into the space shared with text.
        unit: Whether vectors are scaled to length 1.
    """

    trunk: Timm
    form: Literal["projected", "pooled", "channels"]
    layout: Literal["keep", "open_clip", "conch", "dinov3"]
    width: int = 0
    queries: int = 1
    project: bool = False
    unit: bool = False


@dataclass(frozen=True)
class Adapter:
    """Low-rank changes (LoRA) to the last block of another encoder of the zoo.

    Attributes:
        base: Row of that encoder, whose weights are loaded too.
        build: Its architecture, fed with the size of this row's card.
        block: Name of the changed block.
        rank: Rank of the changes, which are added unscaled.
    """

    base: Entry
    build: Timm | Tower
    block: str
    rank: int


@dataclass(frozen=True)
class Remote:
    """A model whose code lies beside its weights on the hub and runs only when the user agrees.

    Attributes:
        branch: Method of the model that returns the patch encoder; empty for the model itself.
    """

    branch: str = ""


@dataclass(frozen=True)
class Package:
    """A model that only its authors' package can build.

    Attributes:
        builder: Function of `packages.py` that builds it.
        arguments: Arguments of its call on images.
    """

    builder: Literal["conch", "musk"]
    arguments: Mapping[str, Any] = field(default_factory=dict)


Build = Timm | Transformers | Tower | Adapter | Remote | Package


@dataclass(frozen=True)
class Entry:
    """One patch encoder.

    Attributes:
        card: Its card, which also says where its weights are.
        build: Its architecture.
        feature: `cls` takes the class token, `cls+mean` puts the mean of the patch tokens behind
            it, `vector` takes what the model returns.
        prefix: Number of tokens before the patch tokens (class token and registers).
        base: Name of the encoder whose weights this variant uses.
        other_digest: First digits of the SHA-256 of a file that is easily taken for this one.
        millions: Parameters in millions as published or counted, for the tests; 0 when unknown.
    """

    card: EncoderCard
    build: Build
    feature: Literal["cls", "cls+mean", "vector"] = "vector"
    prefix: int = 1
    base: str = ""
    other_digest: str = ""
    millions: float = 0.0
