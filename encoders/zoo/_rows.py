"""Short ways to write the rows of the zoo's tables."""

from __future__ import annotations

import dataclasses
from typing import Any

from spade_bench.encoders.common.seendata import ledger, ledger_notes
from spade_bench.encoders.common.weights import UNPINNED, UNPINNED_CODE
from spade_bench.encoders.zoo.entry import IMAGENET, Build, Entry, Remote
from spade_bench.types import EncoderCard, Needs, Normalisation

__all__ = ["entry", "variant"]

_TITLES = {
    "uni2": "UNI2-h",
    "conch_v15": "CONCH v1.5",
    "ctranspath": "CTransPath",
    "ctranspath-chief": "CHIEF (CTransPath)",
    "dinov2-vitl14": "DINOv2 ViT-L/14",
    "dinov2-vitl14-reg4": "DINOv2 ViT-L/14 (reg4)",
    "dinov3-vitl16": "DINOv3 ViT-L/16",
    "genbio-pathfm": "GenBio-PathFM",
    "gigapath": "Prov-GigaPath",
    "h-optimus-0": "H-optimus-0",
    "h-optimus-1": "H-optimus-1",
    "h0-mini": "H0-mini",
    "hibou-b": "Hibou-B",
    "hibou-l": "Hibou-L",
    "kaiko-vitb16": "Kaiko ViT-B/16",
    "kaiko-vitb8": "Kaiko ViT-B/8",
    "kaiko-vitl14": "Kaiko ViT-L/14",
    "kaiko-vits16": "Kaiko ViT-S/16",
    "kaiko-vits8": "Kaiko ViT-S/8",
    "lunit-dino-s16": "Lunit DINO S/16",
    "lunit-dino-s8": "Lunit DINO S/8",
    "midnight": "Midnight-12k",
    "mstar": "mSTAR",
    "omiclip": "OmiCLIP",
    "openmidnight": "OpenMidnight",
    "phikon": "Phikon",
    "phikon_v2": "Phikon-v2",
    "rudolfv2": "RudolfV-2",
    "rudolfv2-b": "RudolfV-2 B",
    "rudolfv2-s": "RudolfV-2 S",
    "seal-conch": "SEAL (CONCH)",
    "seal-uni2": "SEAL (UNI2-h)",
    "virchow": "Virchow",
    "virchow2": "Virchow2",
}
"""What people write where `spade_bench.report.naming` would not guess it from the name."""

_TOKENS = {
    "cls": "Feature: class token.",
    "cls+mean": "Feature: class token, then the mean of the patch tokens after {prefix} prefix "
    "token(s).",
}


def entry(
    name: str,
    dim: int,
    build: Build,
    description: str,
    *,
    flags: str,
    pretrained_on: tuple[str, ...] | None,
    licence: str,
    repos: tuple[str, ...],
    norm: Normalisation = IMAGENET,
    notes: tuple[str, ...] = (),
    source: str = "",
    **more: Any,
) -> Entry:
    """Return a row: a card with the usual defaults, and how to build and load the model.

    Args:
        name: Registry name.
        dim: Width of the feature.
        build: The architecture.
        description: One sentence.
        flags: One letter for each data set of the ledger, see `ledger`.
        pretrained_on: Data sets seen in pretraining; None when unknown.
        licence: Licence of the weights.
        repos: Hub repositories.
        norm: Channel statistics.
        notes: Choices worth knowing.
        source: Where the weights come from, when not from the first repository.
        more: Other attributes of `Entry`, `EncoderCard` or `Needs`.
    """
    of_entry, of_needs, of_card = _sorted(more)
    feature = _TOKENS.get(of_entry.get("feature", ""), "").format(prefix=of_entry.get("prefix", 1))
    defaults: dict[str, Any] = {"patch_px": 224, "mpp": 0.5, "remote_code": False}
    if isinstance(build, Remote):
        defaults["remote_code"] = True
        # Beside the code, which names the weights itself, this says whether they are there.
        of_needs = {"files": ("config.json",), **of_needs}
    note = UNPINNED_CODE if defaults["remote_code"] else UNPINNED
    unpinned = () if of_card.get("revision") else (note,)
    card = EncoderCard(
        name=name,
        input="image",
        dim=dim,
        description=description,
        title=_TITLES.get(name, ""),
        normalisation=norm,
        source=source or f"hub {repos[0]}",
        licence=licence,
        pretrained_on=pretrained_on,
        undeclared=ledger(flags),
        notes=(*((feature,) if feature else ()), *notes, *unpinned, *ledger_notes(flags)),
        needs=Needs(repos=repos, **of_needs),
        **{**defaults, **of_card},
    )
    return Entry(card=card, build=build, **of_entry)


def variant(of: Entry, name: str, note: str, **changes: Any) -> Entry:
    """Return a row for the same weights used otherwise.

    Args:
        of: The row it is a variant of.
        name: Registry name.
        note: What differs, and who uses it so.
        changes: Attributes of `Entry`, `EncoderCard` or `Needs` that differ.
    """
    of_entry, of_needs, of_card = _sorted(changes)
    base = of.base or of.card.name
    feature = of_entry.get("feature", of.feature)
    kept = [text for text in of.card.notes if not text.startswith("Feature:")]
    prefix = of_entry.get("prefix", of.prefix)
    lead = (_TOKENS[feature].format(prefix=prefix),) if feature in _TOKENS else ()
    card = dataclasses.replace(
        of.card,
        name=name,
        title=_variant_title(of.card, base, name),
        notes=(*lead, f"Variant of {of.card.name}: {note}", *kept),
        needs=dataclasses.replace(of.card.needs, folders=(base,), **of_needs),
        **of_card,
    )
    return dataclasses.replace(of, card=card, **{"base": base, **of_entry})


def _variant_title(card: EncoderCard, base: str, name: str) -> str:
    """Name what is other in brackets: `conch-224` -> CONCH (224)."""
    other = name.removeprefix(base).strip("-_").replace("-", " ")
    if name in _TITLES or not other:
        return _TITLES.get(name, "")
    return f"{_TITLES.get(base) or base.upper()} ({other})"


def _sorted(
    values: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split values into the attributes of `Entry`, of `Needs` and of `EncoderCard`."""
    of_entry = {field.name for field in dataclasses.fields(Entry)}
    of_needs = {field.name for field in dataclasses.fields(Needs)}
    return (
        {key: value for key, value in values.items() if key in of_entry},
        {key: value for key, value in values.items() if key in of_needs},
        {key: value for key, value in values.items() if key not in of_entry | of_needs},
    )
