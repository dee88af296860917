"""How much faster bags are read from a pack than from HDF5 files chunked one row at a time.

One-row chunks are what TRIDENT and CLAM write. The plain reader (own code) opens each file with
h5py and reads the whole dataset, as their data loaders do; it is also tried with files held open
and with a chunk cache that holds a whole bag, and counts at its best. Ours maps the pack and
copies each bag out of it, so that both hand over the same arrays in memory. Both are warm: the
files are in the page cache. The time to write the pack, and what a run's start costs without and
with the cache of digests, are printed beside it.

    python benchmarks/pack.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spade_bench.features import cache as packcache
from spade_bench.features.bags import find_bags
from spade_bench.features.casebags import CaseBags, scan_bags
from spade_bench.features.packing import pack_features
from spade_bench.features.packs import open_pack


def make_bags(folder: Path, args: argparse.Namespace) -> list[Path]:
    """Write bags as TRIDENT does: features of one row a chunk."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = []
    for i in range(args.bags):
        x = rng.normal(size=(args.patches, args.dim)).astype(args.dtype)
        path = folder / f"slide{i:03d}.h5"
        with h5py.File(path, "w") as file:
            shape = (None, args.dim)
            file.create_dataset("features", data=x, chunks=(1, args.dim), maxshape=shape)
        paths.append(path)
    return paths


def read_plain(paths: Sequence[Path], **options: Any) -> list[np.ndarray]:
    """Open every file and read its features, each (n, D)."""
    out = []
    for path in paths:
        with h5py.File(path, "r", **options) as file:
            out.append(file["features"][:])
    return out


def best_time(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the least wall and CPU seconds of several runs, after one to warm up."""
    work()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    paths = make_bags(folder / "bags", args)
    packing, done = timed(lambda: pack_features(folder / "bags", folder, dtype=args.dtype))
    names = [path.stem for path in paths]
    opened = [h5py.File(path, "r") for path in paths]
    whole = {"rdcc_nbytes": 1 << 30, "rdcc_nslots": 1_000_003}
    plain = {
        "open and read": best_time(lambda: read_plain(paths), args.repeats),
        "whole-bag chunk cache": best_time(lambda: read_plain(paths, **whole), args.repeats),
        "files held open": best_time(lambda: [f["features"][:] for f in opened], args.repeats),
    }
    for file in opened:
        file.close()

    def ours() -> list[np.ndarray]:
        pack = open_pack(done.path)
        return [pack.features(name).copy() for name in names]

    def mapped() -> float:
        pack = open_pack(done.path)
        return sum(float(pack.features(name)[:, 0].sum()) for name in names)

    wall, cpu = best_time(ours, args.repeats)
    equal = all(np.array_equal(a, b) for a, b in zip(read_plain(paths), ours(), strict=True))
    best = min(plain, key=lambda name: plain[name][0])
    return {
        "plain": {name: {"seconds": w, "cpu_seconds": c} for name, (w, c) in plain.items()},
        "plain_best": best,
        "spade_bench": {"seconds": wall, "cpu_seconds": cpu},
        "spade_bench_one_column_of_the_map": {"seconds": best_time(mapped, args.repeats)[0]},
        "ms_a_bag": {
            "plain": 1e3 * plain[best][0] / args.bags,
            "spade_bench": 1e3 * wall / args.bags,
        },
        "pack_seconds": packing,
        "run_start": start_of_a_run(folder / "bags"),
        "ratio": plain[best][0] / wall,
        "ratio_cpu": min(c for _, c in plain.values()) / cpu,
        "equality": {"equal": equal},
    }


def start_of_a_run(folder: Path) -> dict[str, Any]:
    """Find, check and pool all bags, the first time and again; the numbers must be the same."""

    def start(mode: str) -> bytes:
        files = find_bags(folder)
        infos = scan_bags(files, cache=mode)
        dim = next(iter(infos.values())).dim
        cases = [[path] for path in files.values()]
        return CaseBags.from_files(cases, dim, cache=mode).pooled().tobytes()

    os.environ["SPADE_BENCH_CACHE"] = "off"
    without, numbers = timed(lambda: start("off"))
    result: dict[str, Any] = {"without_cache_seconds": without}
    equal = True
    for mode in ("digests", "copy"):
        os.environ["SPADE_BENCH_CACHE"] = str(folder.parent / f"cache-{mode}")
        filling, first = timed(partial(start, mode))
        again, second = timed(partial(start, mode))
        equal = equal and first == second == numbers
        result[mode] = {
            "first_run_seconds": filling,
            "later_runs_seconds": again,
            "ratio": without / again,
        }
    return {**result, "equal": equal}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--bags", type=int, default=10)
    parser.add_argument("--patches", type=int, default=10_000, help="patches of a bag")
    parser.add_argument("--dim", type=int, default=1024, help="width D of the features")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    packcache.SETTLED_SECONDS = 0.0  # the files were written a moment ago and stay as they are
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        os.environ["SPADE_BENCH_CACHE"] = "off"
        measured = compare(args, Path(folder))
    sizes = {key: getattr(args, key) for key in ("bags", "patches", "dim", "dtype")}
    result = {"benchmark": "pack", "sizes": sizes, **measured, "target": 20.0}
    result["load_average"] = list(os.getloadavg())
    if args.json:
        print(json.dumps(result))
    else:
        each = result["ms_a_bag"]
        print(
            f"one-row-chunk HDF5 {each['plain']:.1f} ms a bag ({result['plain_best']}), "
            f"pack {each['spade_bench']:.2f} ms: {result['ratio']:.1f}x, "
            f"values {'equal' if result['equality']['equal'] else 'DIFFERENT'}; start of a run "
            f"{result['run_start']['digests']['ratio']:.1f}x with digests, "
            f"{result['run_start']['copy']['ratio']:.1f}x with copies"
        )
    return result


if __name__ == "__main__":
    main()
