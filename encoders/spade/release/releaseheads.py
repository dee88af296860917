"""Recognise the heads in a checkpoint of the public SPADE release by their keys.

Two architectures exist under that name. Training saves pairs of residual heads with LayerNorm
(`image_projection.*`, `spot_projection.*`); the routing script expects a two-layer ReLU perceptron
without a gene side (`proj.net.0`, `proj.net.2`). Loading one as the other, non-strictly, leaves
every expert random: here every key counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MLP", "RESIDUAL", "listed", "recognise", "unwrap"]

RESIDUAL = tuple(
    f"{layer}.{kind}" for layer in ("projection", "fc", "layer_norm") for kind in ("weight", "bias")
)
MLP = tuple(f"net.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias"))
_IMAGE, _SPOT = "image_projection.", "spot_projection."
_WRAPPERS = ("model", "state_dict", "model_state_dict")


def unwrap(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, whatever wraps them.

    Raises:
        WeightsError: When there are none where they are known to be.
    """
    import torch

    state: Any = content
    while isinstance(state, Mapping) and not any(torch.is_tensor(v) for v in state.values()):
        wrapper = next((w for w in _WRAPPERS if isinstance(state.get(w), Mapping)), None)
        if wrapper is None:
            raise WeightsError(
                f"no weights under {', '.join(_WRAPPERS)}; it holds {listed(list(state))}",
                where=str(path),
            )
        state = state[wrapper]
    tensors = {str(k): v for k, v in state.items() if torch.is_tensor(v)}
    for prefix in ("module.", "model."):
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def recognise(
    state: Mapping[str, Tensor], path: Path
) -> tuple[str, dict[str, Tensor], dict[str, Tensor] | None]:
    """Return (head, image parameters, gene parameters) by the keys of a state dict.

    The head is `residual` or `mlp`; gene parameters are None where the file has none.

    Raises:
        WeightsError: Naming missing and unexpected keys, or a wrong shape.
    """
    if any(key.startswith((_IMAGE, _SPOT)) for key in state):
        wanted = [_IMAGE + name for name in RESIDUAL]
        has_spot = any(key.startswith(_SPOT) for key in state)
        wanted += [_SPOT + name for name in RESIDUAL] if has_spot else []
        _check_keys(state, wanted, path)
        image = {name: state[_IMAGE + name] for name in RESIDUAL}
        spot = {name: state[_SPOT + name] for name in RESIDUAL} if has_spot else None
        for parameters in (image, spot) if spot else (image,):
            _check_residual(parameters, path)
        return "residual", _floats(image, path), None if spot is None else _floats(spot, path)
    if all(key.startswith("proj.") for key in state):
        state = {key.removeprefix("proj."): value for key, value in state.items()}
    if any(key.startswith("net.") for key in state):
        _check_keys(state, MLP, path)
        image = {name: state[name] for name in MLP}
        _check_mlp(image, path)
        return "mlp", _floats(image, path), None
    raise WeightsError(
        f"its keys fit no SPADE head: {listed(sorted(state))}",
        where=str(path),
        fix="Known are image_projection.* with spot_projection.*, and proj.net.{0,2}.*",
    )


def _check_keys(state: Mapping[str, Tensor], wanted: Sequence[str], path: Path) -> None:
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unexpected:
        parts = [f"missing {listed(missing)}"] if missing else []
        parts += [f"unexpected {listed(unexpected)}"] if unexpected else []
        raise WeightsError(f"keys do not fit: {'; '.join(parts)}", where=str(path))


def _check_residual(parameters: Mapping[str, Tensor], path: Path) -> None:
    width = parameters["projection.bias"].shape[0] if parameters["projection.bias"].ndim else 0
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    wide = shapes["projection.weight"]
    wanted = dict.fromkeys(RESIDUAL, (width,)) | {"fc.weight": (width, width)}
    wanted["projection.weight"] = (width, wide[1] if len(wide) == 2 else -1)
    _check_shapes(shapes, wanted, path)


def _check_mlp(parameters: Mapping[str, Tensor], path: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    first, last = shapes["net.0.weight"], shapes["net.2.weight"]
    hidden, width = (first[0] if first else -1), (last[0] if last else -1)
    wanted = {
        "net.0.weight": (hidden, first[1] if len(first) == 2 else -1),
        "net.0.bias": (hidden,),
        "net.2.weight": (width, hidden),
        "net.2.bias": (width,),
    }
    _check_shapes(shapes, wanted, path)


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise WeightsError(f"{name} has shape {shapes[name]}, not {shape}", where=str(path))


def _floats(parameters: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    for name, value in parameters.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise WeightsError(f"{name} is not made of finite floats", where=str(path))
    return {name: value.float().contiguous() for name, value in parameters.items()}


def listed(items: Sequence[object], most: int = 6) -> str:
    """Return items separated by commas, the first few and a count of the rest."""
    text = ", ".join(str(item) for item in items[:most])
    return f"{text} and {len(items) - most} more" if len(items) > most else text
