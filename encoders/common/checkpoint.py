"""Training checkpoints: tensors and JSON values in one safetensors file that proves itself whole.

The file's header carries a SHA-256 over every tensor and the values beside them, so that a flipped
bit on disk becomes a training started over, and never a number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.encoders.common.sealedfolder import read_tensors, write_tensors
from spade_bench.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path, groups: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any], key: str
) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: The file.
        groups: Named groups of named tensors.
        values: What goes beside them, as JSON values.
        key: Hash of all that the training depends on.
    """
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    state = json.dumps(dict(values))
    metadata = {"fingerprint": key, "state": state, "sha256": _digest(tensors, state)}
    write_tensors(path, tensors, metadata)


def load_checkpoint(
    path: Path, key: str
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Read a checkpoint; None, with the reason said, when there is none that can be continued.

    Args:
        path: The file.
        key: As it was saved with; a checkpoint of other data or settings is not taken up.

    Returns:
        Groups of tensors, and the values beside them.
    """
    if not path.is_file():
        return None
    try:
        tensors, metadata = read_tensors(path)
    except WeightsError as error:
        console.warn(f"{path}: unreadable checkpoint ({error.what}); starting it over")
        return None
    if metadata.get("fingerprint") != key:
        console.say(f"{path.name}: data or settings have changed since; starting it over")
        return None
    if metadata.get("sha256") != _digest(tensors, metadata["state"]):
        console.warn(f"{path}: damaged checkpoint (its checksum does not fit); starting it over")
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, member = name.split("/", 1)
        groups.setdefault(group, {})[member] = tensor
    return groups, json.loads(metadata["state"])


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    import torch

    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
