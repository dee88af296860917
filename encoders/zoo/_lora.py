"""Adds low-rank changes (LoRA, Hu et al., 2022) to the weights of the encoder they are for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from spade_bench.encoders.zoo.entry import Adapter
from spade_bench.errors import WeightsError

if TYPE_CHECKING:
    import torch

    State = Mapping[str, torch.Tensor]

__all__ = ["merge"]

_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
_INSIDE = "encoder.base_model.model."
_ASIDE = ("decoder.", "projection_head.", "organ_emb.")
"""Parts of SEAL's training that do not make the feature."""


def merge(build: Adapter, base: State, adapter: State, where: str) -> dict[str, torch.Tensor]:
    """Return the base encoder's checkpoint with the changes added to its weights.

    Args:
        build: Which block is changed, and the rank of the changes.
        base: Checkpoint of the base encoder, as its authors name it.
        adapter: Checkpoint of the changes, as peft names them.
        where: Where they come from, for messages.

    Raises:
        WeightsError: When a change is missing, has another rank or shape, or belongs to another
            layer, or a tensor is unknown.
    """
    merged = {name.removeprefix("module."): value for name, value in base.items()}
    lead = "visual." if any(name.startswith("visual.") for name in merged) else ""
    downs, ups, unknown = _sorted(adapter, merged, lead)
    wanted = {f"{build.block}.{layer}" for layer in _LAYERS}
    lacking = sorted(wanted - (downs.keys() & ups.keys()))
    unknown += sorted((downs.keys() | ups.keys()) - wanted)
    if lacking or unknown:
        raise WeightsError(
            f"weights do not fit {build.base.card.name}: {len(lacking)} changes missing "
            f"({', '.join(lacking[:4])}), {len(unknown)} unexpected ({', '.join(unknown[:4])})",
            where=where,
        )
    for layer in sorted(wanted):
        name = f"{lead}{layer}.weight"
        down, up = downs[layer], ups[layer]
        if name not in merged:
            raise WeightsError(
                f"the file of {build.base.card.name} that was found has no {name}", where=where
            )
        out_in = (up.shape[0], down.shape[1])
        if len(down) != build.rank or up.shape[1] != build.rank or out_in != merged[name].shape:
            raise WeightsError(
                f"change of {layer} is {tuple(up.shape)} by {tuple(down.shape)}, where rank "
                f"{build.rank} and {tuple(merged[name].shape)} are needed",
                where=where,
            )
        merged[name] = merged[name].float() + up @ down  # (out, in)
    return merged


def _sorted(
    adapter: State, merged: dict[str, torch.Tensor], lead: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[str]]:
    """Sort a checkpoint of changes: layer -> (rank, in), layer -> (out, rank), unknown names.

    What it holds of the base itself, as that lay under the changes, replaces that in ``merged``.
    """
    downs: dict[str, torch.Tensor] = {}
    ups: dict[str, torch.Tensor] = {}
    unknown = []
    for name, value in adapter.items():
        bare = name.removeprefix("module.")
        inside = bare.removeprefix(_INSIDE)
        own = lead + inside.replace(".base_layer.", ".")
        found = re.fullmatch(r"(.+)\.lora_([AB])\.default\.weight", inside)
        if bare.startswith(_ASIDE):
            continue
        if inside != bare and found:
            (downs if found[2] == "A" else ups)[found[1]] = value.float()
        elif inside != bare and own in merged and value.shape == merged[own].shape:
            merged[own] = value
        else:
            unknown.append(name)
    return downs, ups, unknown
