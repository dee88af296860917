"""A head, and the fitted object that it returns: predicts, is saved and loaded, never by pickle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spade_bench.errors import ConfigError, DataError, UserError, name_some
from spade_bench.files import atomic_dir, hash_file, read_sealed, write_sealed
from spade_bench.heads._base import Fit, HeadOptions
from spade_bench.heads._contribution import (
    Contribution,
    Link,
    gradient_times_input,
    no_contributions,
)
from spade_bench.registry import heads
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

    Tensors = dict[str, NDArray[Any]]

__all__ = [
    "FittedHead",
    "FittingHead",
    "Head",
    "HeadInfo",
    "Keep",
    "can_be_saved",
    "check_tensors",
    "fitting",
    "no_attention",
]

FORMAT, VERSION = "spade-bench head", 1
DESCRIPTION, TENSORS = "head.json", "head.safetensors"


class Head(Protocol):
    """A head ready to be fitted."""

    card: HeadCard
    params: Mapping[str, Any]

    def resolve(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the full hyperparameters of a fit with these `Fit.params`.

        Raises:
            ConfigError: When a name or value is not one of this head's.
        """

    def fit_predict(
        self, bags: CaseBags, fits: Sequence[Fit], n_outputs: int
    ) -> list[NDArray[np.float64]]:
        """Train every fit on its own cases and predict its test cases.

        Args:
            bags: Bags of all cases.
            fits: Jobs that may be trained together, of any size and with any hyperparameters;
                each result equals training it alone.
            n_outputs: Number of classes; 1 for a value or a survival risk.

        Returns:
            For each fit (m, n_outputs): class probabilities, values, or risks (higher is worse).
        """


@dataclass(frozen=True)
class HeadInfo:
    """What a fitted head is.

    Attributes:
        head: Registry name of the head.
        params: All its hyperparameters.
        n_outputs: Number of classes; 1 for a value or a survival risk.
        dim: Width of the features.
        classes: Class names in the order of the columns of a prediction; empty where unknown.
    """

    head: str
    params: Mapping[str, Any]
    n_outputs: int
    dim: int
    classes: tuple[str, ...] = ()


class FittedHead(ABC):
    """A head that has learnt from cases.

    Args:
        info: What it is.
    """

    def __init__(self, info: HeadInfo) -> None:
        self.info = info

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a prediction: those of the classes, or `risk` or `value`."""
        if self.info.classes:
            return self.info.classes
        if self.info.n_outputs > 1:
            return tuple(map(str, range(self.info.n_outputs)))
        measured = "regression" in heads.get(self.info.head).card.kinds
        return ("value",) if measured else ("risk",)

    @abstractmethod
    def predict(self, bags: CaseBags, cases: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Predict cases.

        Args:
            bags: Bags of cases, of features of the width it was fitted on.
            cases: Positions of the m cases to predict; None for all.

        Returns:
            Class probabilities, values, or risks (higher is worse), (m, n_outputs).

        Raises:
            DataError: When the features are of another width.
        """

    def attention(self, bag: NDArray[np.floating]) -> NDArray[np.float64]:
        """Say how much each patch of a bag weighs.

        Args:
            bag: Features, (n, dim).

        Returns:
            Weights that sum to one, (n,).

        Raises:
            UserError: When the head has no attention over patches.
            DataError: When the bag is empty or of another width.
        """
        raise no_attention(self.info.head)

    def contributions(self, bag: NDArray[np.floating]) -> Contribution:
        """Say what each patch of a bag adds to the prediction of the bag.

        A head with a method ``forward``, which maps a bag as a torch tensor (n, dim) to its logits
        or its risk (n_outputs,), is explained by gradient x input; others override this.

        Args:
            bag: Features, (n, dim).

        Raises:
            UserError: When the head cannot say it.
            DataError: When the bag is empty or of another width.
        """
        forward = getattr(self, "forward", None)
        if forward is None:
            raise no_contributions(self.info.head)
        import torch

        self.check_bag(bag)
        x = torch.from_numpy(bag.astype("float32"))
        link: Link = "softmax" if self.info.n_outputs > 1 else "risk"
        if self.columns == ("value",):
            link = "value"
        return gradient_times_input(forward, x, torch.zeros(x.shape[1]), link)

    @abstractmethod
    def tensors(self) -> Tensors:
        """Return all numbers it has learnt, by name.

        Raises:
            UserError: When they cannot be taken out of it.
        """

    def with_classes(self, classes: Sequence[str]) -> FittedHead:
        """Return this head with names for the columns of its predictions."""
        named = copy(self)
        named.info = replace(self.info, classes=tuple(classes))
        return named

    def save(self, folder: str | Path) -> Path:
        """Write `head.json` and `head.safetensors` into a folder, whole or not at all.

        Raises:
            DataError: When the folder exists and is not a saved head.
            UserError: When this head cannot be saved.
        """
        from safetensors.numpy import save

        tensors = {name: _contiguous(tensor) for name, tensor in self.tensors().items()}
        target = Path(folder)
        if target.exists() and not (target / DESCRIPTION).is_file() and _holds_anything(target):
            raise DataError(
                "exists and is not a saved head", where=str(target), fix="Name a new folder"
            )
        with atomic_dir(target) as inside:
            # save_file would make it readable to its owner only
            (inside / TENSORS).write_bytes(save(tensors))
            about = {"format": FORMAT, "version": VERSION, **asdict(self.info)}
            digest = hash_file(inside / TENSORS)
            write_sealed(inside / DESCRIPTION, {**about, "tensors": digest})
        return target

    @staticmethod
    def load(folder: str | Path, device: str = "cpu") -> FittedHead:
        """Read what `save` wrote.

        Args:
            folder: The folder.
            device: Where it shall run: `auto`, `cpu` or `cuda[:n]`.

        Raises:
            DataError: When a file is missing, damaged, or does not describe a head that there is.
            PluginError: When no head of that name is registered.
        """
        info, digest = _described(Path(folder) / DESCRIPTION)
        where = str(Path(folder) / DESCRIPTION)
        plugin = heads.get(info.head)
        try:
            head = plugin.load(HeadOptions(device, info.params))
        except ConfigError as error:
            raise DataError(error.what, where=where) from error
        able = fitting(head)
        if able is None or dict(able.resolve({})) != dict(info.params):
            raise DataError(f"describes no head '{info.head}' of this version", where=where)
        path = Path(folder) / TENSORS
        tensors = _read(path, digest)
        check_tensors(tensors, able.layout(info), str(path))
        return able.restore(info, tensors)

    @staticmethod
    def check_files(folder: str | Path) -> None:
        """Make sure that what `save` wrote is whole, without building the head.

        Raises:
            DataError: When a file is missing or damaged.
        """
        _, digest = _described(Path(folder) / DESCRIPTION)
        _check_digest(Path(folder) / TENSORS, digest)

    def check_width(self, dim: int) -> None:
        """Refuse features of another width.

        Raises:
            DataError: Naming both widths.
        """
        if dim != self.info.dim:
            raise DataError(
                f"features are {dim} wide, the head was fitted on {self.info.dim}",
                where=f"head {self.info.head}",
                fix="Give features of the encoder that it was fitted on",
            )

    def check_bag(self, bag: NDArray[np.floating]) -> None:
        """Refuse what is not a bag of patches of the right width.

        Raises:
            DataError: Naming its shape.
        """
        if bag.ndim != 2 or not len(bag):
            raise DataError(f"a bag of shape {bag.shape}, not (n, {self.info.dim})")
        self.check_width(bag.shape[1])


Keep = Callable[[int, FittedHead], None]
"""Takes the fitted head of the fit at a position, as soon as there is one."""


class FittingHead(Head, Protocol):
    """A head that also hands out what it has learnt."""

    def fit(self, bags: CaseBags, fits: Sequence[Fit], n_outputs: int) -> list[FittedHead]:
        """Train every fit on its own cases; `Fit.test` is not looked at.

        Args:
            bags: Bags of all cases.
            fits: Jobs that may be trained together.
            n_outputs: Number of classes; 1 for a value or a survival risk.

        Returns:
            One fitted head per fit.
        """

    def fit_predict(
        self,
        bags: CaseBags,
        fits: Sequence[Fit],
        n_outputs: int,
        keep: Keep | None = None,
    ) -> list[NDArray[np.float64]]:
        """Train and predict in one pass; ``keep`` takes what was fitted. See `Head.fit_predict`."""

    def layout(self, info: HeadInfo) -> Mapping[str, tuple[tuple[int | None, ...], str]]:
        """Shape and dtype of each tensor of a fitted head; a None is as long as it likes."""

    def restore(self, info: HeadInfo, tensors: Tensors) -> FittedHead:
        """Return the fitted head with these tensors, which fit the layout."""


def fitting(head: Head) -> FittingHead | None:
    """Return the head as one that hands out fitted heads; None when it only predicts."""
    able = all(hasattr(head, name) for name in ("fit", "layout", "restore"))
    return head if able else None  # type: ignore[return-value]


def can_be_saved(head: Head) -> bool:
    """Whether what the head fits can be saved, as far as can be said before it is fitted."""
    able = fitting(head)
    if able is None:
        return False
    try:
        able.layout(HeadInfo(head.card.name, able.resolve({}), n_outputs=2, dim=2))
    except UserError:
        return False
    return True


def no_attention(name: str) -> UserError:
    """Return the error of a head without attention."""
    return UserError(
        f"The head '{name}' has no attention over patches", fix="Use abmil, or another map"
    )


def check_tensors(
    tensors: Mapping[str, NDArray[Any]],
    layout: Mapping[str, tuple[tuple[int | None, ...], str]],
    where: str,
) -> None:
    """Refuse tensors that are unknown, missing, or of another shape or dtype.

    Raises:
        DataError: Naming them.
    """
    if unknown := sorted(set(tensors) - set(layout)):
        raise DataError(f"holds unknown tensors: {name_some(unknown)}", where=where)
    if missing := sorted(set(layout) - set(tensors)):
        raise DataError(f"lacks the tensors {name_some(missing)}", where=where)
    for name, (shape, dtype) in layout.items():
        actual = tensors[name].shape
        fits = len(actual) == len(shape)
        fits = fits and all(b is None or a == b for a, b in zip(actual, shape, strict=False))
        if not fits or str(tensors[name].dtype) != dtype:
            wanted = str(tuple("any" if size is None else size for size in shape))
            raise DataError(
                f"'{name}' is {tensors[name].dtype} {actual}, not {dtype} {wanted}", where=where
            )


def _described(path: Path) -> tuple[HeadInfo, str]:
    """Read `head.json`: what the head is, and the checksum of its tensors."""
    where = str(path)
    content = read_sealed(path)
    if content.pop("format", None) != FORMAT:
        raise DataError("does not describe a saved head", where=where)
    version = content.pop("version", None)
    if version != VERSION:
        raise DataError(
            f"is of format version {version}; this version of spade-bench reads {VERSION}",
            where=where,
        )
    wanted = {"head": str, "params": dict, "n_outputs": int, "dim": int, "classes": list,
              "tensors": str}  # fmt: skip
    if set(content) != set(wanted):
        odd = sorted(set(content) ^ set(wanted))
        raise DataError(f"has unknown or missing keys: {name_some(odd)}", where=where)
    for key, kind in wanted.items():
        if not isinstance(content[key], kind):
            raise DataError(f"'{key}' is not of type {kind.__name__}", where=where)
    digest = content.pop("tensors")
    info = HeadInfo(**{**content, "classes": tuple(map(str, content["classes"]))})
    if info.classes and len(info.classes) != info.n_outputs:
        raise DataError(f"{len(info.classes)} classes for {info.n_outputs} outputs", where=where)
    return info, digest


def _read(path: Path, digest: str) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    _check_digest(path, digest)
    try:
        return dict(load_file(path))
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype numpy lacks
        raise DataError(f"not a readable safetensors file ({error})", where=str(path)) from error


def _check_digest(path: Path, digest: str) -> None:
    if not path.is_file():
        raise DataError("no such file", where=str(path))
    if hash_file(path) != digest:
        raise DataError("damaged or edited: its checksum does not fit", where=str(path))


def _contiguous(tensor: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.ascontiguousarray(tensor)


def _holds_anything(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())
