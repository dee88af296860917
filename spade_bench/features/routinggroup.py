"""Routing beside the features it made: the group `routing` of a feature file.

The group is written only where it is asked for. Readers of features pass it over, and the digest of
the features does not depend on it.

======================  ==================  ====================================================
`expert`                (n,) int16          nearest expert of each patch
`distance`              (n,) float32        distance to it, in the space of the base features
`entropy`               (n,) float32        entropy of all K weights, nats
`weights`               (n, K) float16      weight of every expert, up to `ALL_UP_TO` of them
or `weights`, `kept`    (n, m) float16,     beyond that the `LARGEST` weights, largest first, and
                        (n, m) int16        whose they are
======================  ==================  ====================================================

Weights lie in 0..1, where float16 is off by at most 0.0003: less than any picture shows, at half
the size. Distances have no such bound and entropies are sums, so both stay float32. Attributes:
`schema`, `n_experts`, `mode`, and `nearest_leads`: for which share of the patches the nearest
expert has the largest weight. With random, mean and concatenated routing `expert` is not where a
patch went.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.features.formats import HDF5, opened
from spade_bench.features.packs import split_path
from spade_bench.features.storedarrays import check_dataset, dataset, read_dataset
from spade_bench.types import Routing

if TYPE_CHECKING:
    import h5py
    import numpy as np

__all__ = ["ALL_UP_TO", "GROUP", "LARGEST", "SCHEMA", "has_routing", "read_routing", "routing_of",
           "write_routing"]  # fmt: skip

GROUP = "routing"
SCHEMA = "spade-bench/routing/1"
ALL_UP_TO = 32
"""Experts up to which the weights of all are kept."""
LARGEST = 8
"""Weights that are kept of more experts than that."""
_NAMES = ("expert", "distance", "weights", "entropy", "kept")
_FORMS = {
    "expert": ("iu", "whole numbers"),
    "kept": ("iu", "whole numbers"),
    **dict.fromkeys(("distance", "weights", "entropy"), ("f", "real numbers")),
}
"""Kinds of numbers of each array, as numpy calls them and in words."""
_AGAIN = "Encode it again with `spade-bench encode --with-routing`"


def routing_of(
    weights: np.ndarray, expert: np.ndarray, distance: np.ndarray, *, mode: str = ""
) -> Routing:
    """Make what is kept of the routing of a slide.

    Args:
        weights: Weight of each expert for each patch, (n, K); rows sum to one.
        expert: Nearest expert, (n,).
        distance: Distance to it, (n,).
        mode: How patches are routed.
    """
    import numpy as np
    from scipy.special import entr

    weights = np.asarray(weights)
    n_experts = weights.shape[1]
    entropy = entr(weights.astype(np.float64)).sum(axis=1)  # (n,)
    kept = None
    if n_experts > ALL_UP_TO:
        kept = np.argsort(-weights, axis=1, kind="stable")[:, :LARGEST].astype(np.int16)  # (n, m)
        weights = np.take_along_axis(weights, kept.astype(np.int64), axis=1)  # (n, m)
    return Routing(
        expert=np.asarray(expert, dtype=np.int16),
        distance=np.asarray(distance, dtype=np.float32),
        weights=weights.astype(np.float16),
        entropy=entropy.astype(np.float32),
        n_experts=n_experts,
        kept=kept,
        mode=mode,
    )


def write_routing(file: h5py.File, routing: Routing) -> None:
    """Write the group into a feature file that is being written."""
    group = file.create_group(GROUP)
    group.attrs.update({"schema": SCHEMA, "n_experts": routing.n_experts, "mode": routing.mode,
                        "nearest_leads": routing.nearest_leads()})  # fmt: skip
    for name in _NAMES:
        values = getattr(routing, name)
        if values is not None:
            group.create_dataset(name, data=values)


def has_routing(path: Path) -> bool:
    """Whether a feature file holds sound routing of this version."""
    try:
        return read_routing(path) is not None
    except DataError:
        return False


def read_routing(path: Path) -> Routing | None:
    """Read the routing of a feature file.

    Args:
        path: A feature file of any format; only our HDF5 files can hold it, and packs do not.

    Returns:
        The routing; None where the file has none.

    Raises:
        DataError: When it is of another version, damaged, or does not fit the features.
    """
    if split_path(path) is not None or path.suffix not in HDF5 or not path.is_file():
        return None
    import h5py

    with opened(path) as file:
        if not isinstance(file.get(GROUP, getlink=True), h5py.HardLink):
            return None
        attrs = dict(file[GROUP].attrs)
        if str(attrs.get("schema")) != SCHEMA:
            raise DataError(
                f"its routing has the schema '{attrs.get('schema')}', not '{SCHEMA}'",
                where=str(path),
                fix=_AGAIN,
            )
        arrays = {name: _array(file, name, path) for name in _NAMES}
        routing = Routing(
            **arrays, n_experts=_n_experts(attrs, path), mode=str(attrs.get("mode", ""))
        )
        _check(routing, len(file["features"]), path)
        return routing


def _n_experts(attrs: dict[str, Any], path: Path) -> int:
    import numpy as np

    stored = np.asarray(attrs.get("n_experts"))
    if stored.ndim or stored.dtype.kind not in "iu" or stored < 1:
        raise _damaged("it does not say the number of experts", path)
    return int(stored)


def _array(file: h5py.File, name: str, path: Path) -> Any:
    data = dataset(file, f"{GROUP}/{name}", path)
    if data is None:
        if name == "kept":
            return None
        raise DataError(f"its routing lacks '{name}'", where=str(path), fix=_AGAIN)
    check_dataset(data, path)
    kinds, words = _FORMS[name]
    if data.dtype.kind not in kinds:
        raise _damaged(f"'{name}' holds {data.dtype.name}, not {words}", path)
    return read_dataset(data, path)


def _check(routing: Routing, n: int, path: Path) -> None:
    """Refuse arrays that do not belong to these features, or that no routing can hold.

    Raises:
        DataError: When shapes or lengths differ, an expert is none of the K, or a number is none.
    """
    import numpy as np

    arrays = {name: getattr(routing, name) for name in _NAMES if getattr(routing, name) is not None}
    for name, array in arrays.items():
        if array.ndim != (2 if name in ("weights", "kept") else 1):
            raise _damaged(f"'{name}' has the shape {array.shape}", path)
    lengths = {len(array) for array in arrays.values()}
    if lengths != {n}:
        raise DataError(
            f"its routing speaks of {max(lengths)} patches, its features of {n}",
            where=str(path),
            fix=_AGAIN,
        )
    wide = routing.n_experts if routing.kept is None else routing.kept.shape[1]
    named = [arrays[name] for name in ("expert", "kept") if name in arrays]
    outside = any(e.size and not (e.min() >= 0 and e.max() < routing.n_experts) for e in named)
    if outside or routing.weights.shape != (n, wide):
        raise DataError(
            f"its routing does not fit {routing.n_experts} experts", where=str(path), fix=_AGAIN
        )
    for name in ("distance", "entropy", "weights"):
        if not np.isfinite(arrays[name]).all():
            raise _damaged(f"'{name}' holds NaN or infinite values", path)


def _damaged(what: str, path: Path) -> DataError:
    return DataError(f"its routing is damaged: {what}", where=str(path), fix=_AGAIN)
