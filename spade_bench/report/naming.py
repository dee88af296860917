"""Names for print: what cards call encoders, heads and tasks, and what controls and metrics are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spade_bench.types import EncoderCard, HeadCard

__all__ = ["card_of", "card_title", "encoder_title", "head_title", "metric_title", "protocol_title",
           "task_title"]  # fmt: skip

_ACRONYM = 6  # letters of a name that is taken for one, such as `uni` or `tangle`
_NAMES = {"Cox"}
_CONTROLS = {
    "permuted-labels": "permuted labels",
    "permuted-spots": "permuted spots",
    "total-counts": "total counts alone",
    "coordinates": "place alone",
    "random-projection": "random projection",
    "random-weights": "untrained",
    "pca": "principal components",
    "k1": "one expert",
    "random-routing": "random routing",
}
_METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "kappa_quadratic": "quadratic kappa",
    "ece": "calibration error",
    "brier": "Brier score",
    "calibration_slope": "calibration slope",
    "c_index": "C-index",
    "c_index_uno": "Uno's C-index",
    "ibs": "integrated Brier score",
    "pearson": "Pearson's r",
    "pearson_per_sample": "Pearson's r per sample",
    "spearman": "Spearman's rho",
    "r2": "R²",
    "mae": "mean absolute error",
    "mean_rank": "mean rank",
    "logrank_p": "log-rank p",
}


def card_title(card: EncoderCard | HeadCard) -> str:
    """Return the card's title, or one made from its name: `uni` -> UNI, `my-encoder` -> My Encoder.

    Names with a prefix, such as `timm:resnet18`, stay as they are.
    """
    if card.title or ":" in card.name:
        return card.title or card.name
    if card.name.isalpha() and len(card.name) <= _ACRONYM:
        return card.name.upper()
    words = re.split(r"[-_ ]+", card.name)
    return " ".join(word[:1].upper() + word[1:] for word in words)


def encoder_title(label: str, control: str = "", control_of: str = "") -> str:
    """Return what a label of the results is called in print.

    A label that is no registered encoder but begins with one keeps its rest (`uni-east` -> UNI
    east); any other is somebody's own name and stays.

    Args:
        label: Label of an encoder or of a control.
        control: Name of the control that it is, or empty.
        control_of: Label of the encoder beside which the control stands, where it is known.
    """
    if control and control != "base":
        words = _CONTROLS.get(control, control.replace("-", " "))
        owner = control_of or (label if control in {"permuted-labels", "permuted-spots"} else "")
        return f"{encoder_title(owner)}: {words}" if owner else words
    card, rest = card_of(label)
    if card is None:
        return label
    return f"{card_title(card)} {rest}".rstrip()


def card_of(label: str) -> tuple[EncoderCard | None, str]:
    """Return the card of the registered encoder that a label names or begins with, and its rest."""
    from spade_bench.registry import encoders

    known = encoders.names()
    if label in known:
        return encoders.get(label).card, ""
    starts = [
        name
        for name in known
        if label.startswith(name) and re.match(r"[-_@+ ]\w", label[len(name) :])
    ]
    if not starts:
        return None, ""
    longest = max(starts, key=len)
    return encoders.get(longest).card, label[len(longest) + 1 :]


def head_title(name: str) -> str:
    """Return what a head is called within a line of print: acronyms alone keep their capitals."""
    from spade_bench.registry import head_card

    card = head_card(name)
    if card is None:
        return name
    title = card_title(card)
    first = title.split()[0]
    return (
        title if first[1:] != first[1:].lower() or first in _NAMES else title[0].lower() + title[1:]
    )


def protocol_title(name: str) -> str:
    """Return what a protocol is called in print."""
    known = {"cv": "cross-validation", "external": "external test", "official": "official splits",
             "leave-site-out": "leave one site out"}  # fmt: skip
    return known.get(name, name.replace("-", " ") if name.startswith("leave-") else name)


def task_title(name: str) -> str:
    """Return the title of a task's card; a task without one keeps its name."""
    from spade_bench.registry import tasks

    return tasks.get(name).card.title or name if name in tasks.names() else name


def metric_title(name: str) -> str:
    """Return what a metric is called in print."""
    return _METRICS.get(name, name.replace("_", " "))
