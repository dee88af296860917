"""Builds the architectures of the zoo without weights, and picks the feature from their tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spade_bench.encoders.zoo.entry import Entry, Timm, Transformers
from spade_bench.errors import WeightsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Feature", "build_timm", "build_transformers", "empty_parameters"]


class Feature(nn.Module):
    """Turns what a model returns into one vector per patch.

    Args:
        model: Maps (n, 3, px, px) to tokens (n, t, d), to vectors (n, dim), or to an output object
            of transformers.
        entry: Says which tokens are taken.
    """

    def __init__(self, model: nn.Module, entry: Entry) -> None:
        super().__init__()
        self.model = model
        self.feature = entry.feature
        self.prefix = entry.prefix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode normalised patches, (n, 3, px, px) -> (n, dim)."""
        out = self.model(x)  # (n, t, d), (n, dim) or an output object
        if not isinstance(out, torch.Tensor):
            embeds = getattr(out, "image_embeds", None)
            out = out.last_hidden_state if embeds is None else embeds  # (n, t, d) or (n, dim)
        if out.ndim == 2:
            vectors: torch.Tensor = out  # (n, dim): the model has pooled
            return vectors
        first: torch.Tensor = out[:, 0]  # (n, d)
        if self.feature == "cls":
            return first
        mean = out[:, self.prefix :].mean(1)  # (n, d)
        return torch.cat([first, mean], dim=-1)  # (n, 2 d)


def build_timm(build: Timm, **changes: Any) -> nn.Module:
    """Build an architecture of timm with untrained weights.

    Args:
        build: The architecture.
        changes: Arguments that differ, for tests and for checkpoints of another size.

    Raises:
        WeightsError: When the installed timm is too old to know it.
    """
    import timm
    import timm.layers

    if not timm.is_model(build.name):
        raise WeightsError(
            f"the installed timm {timm.__version__} has no {build.name}",
            fix="Run: pip install --upgrade timm",
        )
    layers: Any = timm.layers
    classes = {
        "SwiGLUPacked": layers.SwiGLUPacked,
        "SiLU": nn.SiLU,
        "LayerNorm": layers.LayerNorm,  # epsilon 1e-6
        "ConvStem": _ConvStem,
    }
    arguments = {**build.arguments, **changes}
    for key, value in arguments.items():
        if isinstance(value, str) and value in classes:
            arguments[key] = classes[value]
    model: nn.Module = timm.create_model(build.name, pretrained=False, **arguments)
    return model


def build_transformers(
    build: Transformers, state: Mapping[str, torch.Tensor] | None = None, **changes: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Build an architecture of transformers; with ``state``, load it.

    Args:
        build: The architecture.
        state: Weights as the hub names them; transformers knows its own older names.
        changes: Settings of the configuration that differ, for tests.

    Returns:
        The model, and what did not fit: names under `missing_keys`, `unexpected_keys` and
        `mismatched_keys`.

    Raises:
        WeightsError: When the installed transformers is too old to know it.
    """
    import transformers
    import transformers.utils

    logging: Any = transformers.utils.logging
    if not (hasattr(transformers, build.config) and hasattr(transformers, build.model)):
        raise WeightsError(
            f"the installed transformers {transformers.__version__} has no {build.model}",
            fix="Run: pip install --upgrade transformers",
        )
    config = getattr(transformers, build.config)(**{**build.settings, **changes})
    model_class = getattr(transformers, build.model)
    if state is None:
        return model_class(config, **build.arguments), {}
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what does not fit becomes our own error
    try:
        model, problems = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported with the others
            **build.arguments,
        )
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    return model.float(), problems


@contextlib.contextmanager
def empty_parameters() -> Iterator[None]:
    """Give the modules built inside parameters without memory, and buffers as usual.

    A model of a billion parameters is then built at once; its weights are assigned, not copied, so
    that memory never holds them twice.
    """
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class _ConvStem(nn.Module):
    """The convolutional stem of CTransPath, a layer for timm's `embed_layer`.

    Two 3 x 3 convolutions of stride 2 with batch normalisation, then a 1 x 1 convolution, in place
    of a Swin's 4 x 4 patches (Wang et al., Medical Image Analysis 2022).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()
        side = img_size if isinstance(img_size, int) else img_size[0]
        self.img_size = (side, side)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (side // patch_size, side // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        narrow, wide = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, embed_dim, 1),
        )
        self.norm = norm_layer(embed_dim) if norm_layer is not None else nn.LayerNorm(embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x)  # (n, d, side / 4, side / 4)
        x = x.permute(0, 2, 3, 1)  # (n, side / 4, side / 4, d), timm's Swin has channels last
        normed: torch.Tensor = self.norm(x)  # (n, side / 4, side / 4, d)
        return normed
