"""Read the files of the public SPADE release: centroids, clusters and checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spade_bench.encoders.common.weights import refuse_impostor
from spade_bench.encoders.spade.release.releaseheads import listed, recognise, unwrap
from spade_bench.errors import ConfigError, DataError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ReleaseExpert", "find_checkpoints", "read_centroids", "read_clusters", "read_experts"]

SUFFIXES = (".pt", ".pth", ".ckpt")
_NUMBER = re.compile(r"(?:proto(?:type)?|expert|cluster)[ _-]?(\d+)", re.IGNORECASE)
_LOSS = re.compile(r"val(?:loss|_loss)?[_-]?(\d+(?:\.\d+)?)", re.IGNORECASE)
_LAST = re.compile(r"(?:^|[_-])last(?:[_.-]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class ReleaseExpert:
    """One expert of the release.

    Attributes:
        number: Expert number, 0-based.
        path: Checkpoint it came from.
        head: `residual` or `mlp`.
        image: Parameters of the image head by name (`release_heads.RESIDUAL` or `MLP`).
        spot: Parameters of the gene head, or None.
        val_loss: Validation loss recorded with it, or None.
        epoch: Epoch recorded with it, or None.
    """

    number: int
    path: Path
    head: str
    image: Mapping[str, Tensor]
    spot: Mapping[str, Tensor] | None
    val_loss: float | None
    epoch: int | None


def read_centroids(path: Path) -> np.ndarray:
    """Read `centroids.npy`: (C, D) step-1 centroids of all organs, as float32.

    Raises:
        DataError: When the file is not such an array.
    """
    array = _read_npy(path)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind != "f":
        raise DataError(
            f"centroids must be a (C, D) array of floats, this is {array.shape} {array.dtype}",
            where=str(path),
            fix="Give the file with the centroids of all organs, not that of one organ",
        )
    if not np.isfinite(array).all():
        raise DataError("centroids hold NaN or infinite values", where=str(path))
    return array.astype(np.float32)


def read_clusters(path: Path, n_centroids: int) -> np.ndarray:
    """Read `reassigned_clusters.npy`: (C,) expert of each centroid, as int64.

    Raises:
        DataError: When the file is not such an array or skips an expert.
    """
    array = _read_npy(path)
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and bool((array % 1 == 0).all()))
    if array.ndim != 1 or not whole or array.size == 0 or array.min() < 0:
        raise DataError(
            f"clusters must be (C,) whole numbers from 0, this is {array.shape} {array.dtype}",
            where=str(path),
        )
    if len(array) != n_centroids:
        raise DataError(
            f"{len(array)} clusters for {n_centroids} centroids",
            where=str(path),
            fix="Give the two files of one release",
        )
    clusters = array.astype(np.int64)
    empty = sorted(set(range(int(clusters.max()) + 1)) - set(clusters.tolist()))
    if empty:
        raise DataError(f"no centroid belongs to expert {listed(empty)}", where=str(path))
    return clusters


def find_checkpoints(folder: Path, pattern: str | None = None) -> dict[int | None, list[Path]]:
    """Sort the checkpoints of a folder by the expert number in their names.

    Args:
        folder: Searched with its subfolders for .pt, .pth and .ckpt files.
        pattern: Regular expression searched in each file's path below `folder`. Its group named
            `expert`, or its only group, or the group right after `proto` or `expert`, is the
            number; files that do not match are ignored. Without it, a number after `proto`,
            `expert` or `cluster` in the file name counts.

    Returns:
        Number -> files; None holds files whose name gives no number.

    Raises:
        ConfigError: When the pattern is not valid or does not say which group is the number.
        WeightsError: When there is no checkpoint, or none matches.
    """
    if not folder.is_dir():
        raise WeightsError("no such folder", where=str(folder))
    files = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    if not files:
        raise WeightsError(
            f"no checkpoint ({', '.join(SUFFIXES)}) in the folder", where=str(folder)
        )
    regex, group = (_NUMBER, 1) if pattern is None else _compile(pattern)
    by_expert: dict[int | None, list[Path]] = {}
    for path in files:
        text = path.name if pattern is None else path.relative_to(folder).as_posix()
        matches = list(regex.finditer(text))
        if not matches and pattern is not None:
            continue
        numbers = {_int(match.group(group), path) for match in matches}
        if len(numbers) > 1:
            raise WeightsError(
                f"the name gives several expert numbers: {listed(sorted(numbers))}",
                where=str(path),
                fix="Give --pattern with a group (?P<expert>...)",
            )
        by_expert.setdefault(numbers.pop() if numbers else None, []).append(path)
    if not by_expert:
        raise WeightsError(
            f"none of {len(files)} checkpoints matches the pattern {pattern!r}",
            where=str(folder),
            fix=f"The first is called {files[0].name!r}",
        )
    return by_expert


def read_experts(
    candidates: Mapping[int | None, Sequence[Path]], n_experts: int, where: str
) -> list[ReleaseExpert]:
    """Read one checkpoint per expert, the one with the lowest validation loss.

    Training writes a file at each improvement and one after the last epoch, which carries the
    best loss but the last weights: it counts only where nothing else is there.

    Args:
        candidates: Files by expert number, from `find_checkpoints`.
        n_experts: K, from the clusters.
        where: Name of the folder, for messages.

    Raises:
        WeightsError: When experts are missing, too many, ambiguous or not of one kind.
    """
    by_expert: dict[int, list[ReleaseExpert]] = {}
    for number, paths in candidates.items():
        for path in _without_last(paths) if number is not None else paths:
            expert = read_checkpoint(path, number)
            by_expert.setdefault(expert.number, []).append(expert)
    missing = sorted(set(range(n_experts)) - set(by_expert))
    extra = sorted(set(by_expert) - set(range(n_experts)))
    if missing or extra:
        parts = [f"no checkpoint for expert {listed(missing)}"] if missing else []
        parts += [f"checkpoints for expert {listed(extra)}, which has no centroid"] if extra else []
        raise WeightsError(
            f"the clusters file has experts 0..{n_experts - 1}: {'; '.join(parts)}",
            where=where,
            fix="Give --pattern that picks the files of one run, or the matching clusters file",
        )
    experts = [_best(by_expert[number]) for number in range(n_experts)]
    _check_alike(experts)
    return experts


def read_checkpoint(path: Path, number: int | None) -> ReleaseExpert:
    """Read and recognise one checkpoint, strictly.

    Args:
        path: The file.
        number: Expert number from its name; the `proto` entry of the file is used, or has to
            agree, where there is one.

    Raises:
        WeightsError: When it cannot be read safely, or its keys or shapes fit no architecture.
    """
    import torch

    refuse_impostor(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or unsafe file
        raise WeightsError(
            f"cannot be read as plain weights ({type(error).__name__})",
            where=str(path),
            fix="Only tensors and plain values are loaded, never pickled code",
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"holds a {type(content).__name__}, not a state dict", where=str(path))
    meta = {k: content[k] for k in ("proto", "epoch", "val_loss") if _is_number(content.get(k))}
    inside = None if "proto" not in meta else int(meta["proto"])
    if number is not None and inside is not None and number != inside:
        raise WeightsError(f"named expert {number}, but says it is {inside}", where=str(path))
    if number is None and inside is None:
        raise WeightsError(
            "neither its name nor its content says which expert it is",
            where=str(path),
            fix="Give --pattern with a group for the expert number",
        )
    head, image, spot = recognise(unwrap(content, path), path)
    loss = meta.get("val_loss", _loss_in_name(path))
    return ReleaseExpert(
        number=int(inside if number is None else number),  # type: ignore[arg-type]
        path=path,
        head=head,
        image=image,
        spot=spot,
        val_loss=None if loss is None or math.isnan(loss) else float(loss),
        epoch=None if "epoch" not in meta else int(meta["epoch"]),
    )


def _check_alike(experts: Sequence[ReleaseExpert]) -> None:
    """Refuse experts that differ in architecture, widths or in having a gene side."""
    first = experts[0]
    for other in experts[1:]:
        if other.head != first.head or (other.spot is None) != (first.spot is None):
            raise WeightsError(
                f"is a {_kind(other)}, but {first.path.name} is a {_kind(first)}",
                where=str(other.path),
            )
        for first_head, other_head in ((first.image, other.image), (first.spot, other.spot)):
            for name in first_head or ():
                a, b = tuple(first_head[name].shape), tuple(other_head[name].shape)  # type: ignore[index]
                if a != b:
                    raise WeightsError(
                        f"{name} has shape {b}, but {a} in {first.path.name}",
                        where=str(other.path),
                    )


def _kind(expert: ReleaseExpert) -> str:
    return f"{expert.head} head {'without' if expert.spot is None else 'with'} a gene side"


def _best(files: Sequence[ReleaseExpert]) -> ReleaseExpert:
    if len(files) == 1:
        return files[0]
    files = [f for f in files if not _LAST.search(f.path.stem)] or files
    scored = sorted(
        (f for f in files if f.val_loss is not None), key=lambda f: (f.val_loss, f.path.name)
    )
    if len(scored) < len(files) or len({f.val_loss for f in scored[:2]}) < len(scored[:2]):
        names = listed([f.path.name for f in files])
        raise WeightsError(
            f"expert {files[0].number} has several checkpoints, none clearly the best: {names}",
            where=str(files[0].path.parent),
            fix="Give --pattern that matches one of them",
        )
    return scored[0]


def _without_last(paths: Sequence[Path]) -> Sequence[Path]:
    return [p for p in paths if not _LAST.search(p.stem)] or paths


def _compile(pattern: str) -> tuple[re.Pattern[str], int | str]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"not a regular expression ({error})", where=f"--pattern {pattern}"
        ) from error
    if "expert" in regex.groupindex:
        return regex, "expert"
    if regex.groups == 1:
        return regex, 1
    # The groups are numbered by their opening parentheses; the release's own pattern has three.
    opens = [m.start() for m in re.finditer(r"(?<!\\)\((?!\?(?!P<))", pattern)]
    after = [
        i for i, at in enumerate(opens, 1) if re.search(r"(?:proto|expert)[_-]?$", pattern[:at])
    ]
    if len(after) != 1 or len(opens) != regex.groups:
        raise ConfigError(
            f"{regex.groups} groups and no telling which is the expert number",
            where=f"--pattern {pattern}",
            fix="Name it (?P<expert>...)",
        )
    return regex, after[0]


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"not a plain .npy array ({error})", where=str(path)) from error
    if not isinstance(array, np.ndarray):
        raise DataError("holds several arrays, not one", where=str(path))
    return array


def _loss_in_name(path: Path) -> float | None:
    match = _LOSS.search(path.stem)
    return float(match.group(1)) if match else None


def _int(text: str | None, path: Path) -> int:
    if text is None or not text.isdigit():
        raise WeightsError(f"the expert group matches {text!r}, not a number", where=str(path))
    return int(text)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
