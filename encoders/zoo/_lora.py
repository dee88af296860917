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
    merged = dict(base)
    lead = "visual." if any(name.startswith("visual.") for name in base) else ""
    downs: dict[str, torch.Tensor] = {}
    ups: dict[str, torch.Tensor] = {}
    unknown = []
    for name, value in adapter.items():
        bare = name.removeprefix("module.")
        inside = bare.removeprefix(_INSIDE)
        found = re.fullmatch(r"(.+)\.lora_([AB])\.default\.weight", inside)
        if bare.startswith(_ASIDE):
            continue
        if inside == bare:
            unknown.append(name)
        elif found:
            (downs if found[2] == "A" else ups)[found[1]] = value.float()  # (rank, in), (out, rank)
        elif (own := lead + inside.replace(".base_layer.", ".")) in base:
            if value.shape != base[own].shape:
                unknown.append(name)
            merged[own] = value  # the base as it lay under the changes
        else:
            unknown.append(name)
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
        out_in = (up.shape[0], down.shape[1])
        if len(down) != build.rank or up.shape[1] != build.rank or out_in != merged[name].shape:
            raise WeightsError(
                f"change of {layer} is {tuple(up.shape)} by {tuple(down.shape)}, where rank "
                f"{build.rank} and {tuple(merged[name].shape)} are needed",
                where=where,
            )
        merged[name] = merged[name].float() + up @ down  # (out, in)
    return merged
