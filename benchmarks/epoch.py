"""Peak memory of training over a cohort many times larger than memory.

A pack of each size is made sparse: its features are zeros that take no disk. ABMIL then trains one
epoch over it in a process of its own, which counts the bags that were read and measures the most
anonymous memory it had (what the system cannot take back), and the most with mapped pages. The
limit of the process on anonymous memory (`RLIMIT_DATA`) makes more than the budget an error.

    python benchmarks/epoch.py --gb 8 32 128 --memory 4GB --json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
from peakmemory import PeakMemory, exponent

INTERPRETER = 1_500_000_000  # bytes that Python and torch may take beside the budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, nargs="+", default=[1, 2, 4, 8], help="Sizes.")
    parser.add_argument("--rows", type=int, default=10_000, help="Patches of a slide.")
    parser.add_argument("--dim", type=int, default=1024, help="Width of the features.")
    parser.add_argument("--hidden", type=int, default=16, help="Width of the head.")
    parser.add_argument("--memory", default="4GB", help="As for `run`: bags and training.")
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(train(options.child, options.memory, options.hidden)))
        return
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return
    for row in result["rows"]:
        print(row)
    print(f"exponent of peak anonymous memory: {result['exponents']['anonymous_bytes']}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train over a pack of each size."""
    rows = []
    for size in options.gb:
        with tempfile.TemporaryDirectory(prefix="spade-bench-") as name:
            pack = Path(name) / "cohort.pack"
            slides = max(2, round(size * 1e9 / (4 * options.rows * options.dim)))
            write_sparse(pack, slides, options.rows, options.dim)
            words = ["--child", pack, "--memory", options.memory, "--hidden", options.hidden]
            run = subprocess.run(
                [sys.executable, __file__, *map(str, words)],
                check=True,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        found = json.loads(run.stdout.decode().splitlines()[-1])
        features = 4 * slides * options.rows * options.dim
        rows.append({"slides": slides, "feature_bytes": features, **found})
    exponents = {
        name: exponent([row["feature_bytes"] for row in rows], [row[name] for row in rows])
        for name in ("seconds", "anonymous_bytes", "resident_bytes")
    }
    return {"memory": options.memory, "rows": rows, "exponents": exponents}


def write_sparse(path: Path, slides: int, rows: int, dim: int) -> None:
    """Write a pack of slides of zeros, which takes no disk."""
    from spade_bench.features.packwriter import PackWriter
    from spade_bench.files import hash_array
    from spade_bench.types import Bag

    features = np.zeros((rows, dim), dtype=np.float32)
    writer = PackWriter(path, dim, "float32", durable=False)
    writer._file = _Holes(writer._file)  # type: ignore[assignment]
    for number in range(slides):
        features[0, 0] = number  # no two slides are alike
        writer.add(Bag(f"S{number:06}", features, encoder="zeros"), hash_array(features))
    writer.finish()


class _Holes:
    """A file in which zeros behind a first page become a hole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        page = 4096
        if len(data) > page and not np.frombuffer(data, np.uint8)[page:].any():
            self._file.write(data[:page])
            self._file.seek(len(data) - page, os.SEEK_CUR)
            return len(data)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def train(pack: Path, memory: str, hidden: int) -> dict[str, Any]:
    """Train ABMIL for one epoch within a budget; count bags and bytes."""
    import resource

    import torch  # noqa: F401 - its memory is none of ours

    from spade_bench.config import parse_memory
    from spade_bench.features.bagmemory import BagMemory, bag_bytes
    from spade_bench.features.bags import find_bags
    from spade_bench.features.casebags import CaseBags, scan_bags
    from spade_bench.features.packs import open_pack
    from spade_bench.heads import Fit, HeadOptions
    from spade_bench.registry import heads

    limit = parse_memory(memory) + INTERPRETER
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    files = find_bags(pack)
    infos = {info.path: info for info in scan_bags(files).values()}
    room = BagMemory(bag_bytes(memory))
    bags = CaseBags.from_files(
        [[path] for path in files.values()], open_pack(pack).dim, infos=infos, memory=room
    )
    n, reads = len(bags), [0]
    load = bags._load

    def counted(index: int) -> Any:
        reads[0] += 1
        return load(index)

    bags._load = counted
    head = heads.get("abmil").load(
        HeadOptions(params={"epochs": 1, "min_steps": 0, "hidden": hidden}, memory=memory)
    )
    small = np.random.default_rng(0).normal(size=(4, 8, bags.dim)).astype(np.float32)
    two = np.arange(2)  # what is loaded with the first step of all is none of the cohort's
    head.fit_predict(CaseBags(lambda i: small[i], 4, bags.dim), [Fit(two, two, two + 2)], 2)
    every = np.arange(n)
    fit = Fit(every[: n // 2], every[: n // 2] % 2, every[n // 2 :])
    start = time.perf_counter()
    with PeakMemory(every=0.005) as peak:
        head.fit_predict(bags, [fit], 2)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "reads_per_bag": reads[0] / n,
        "anonymous_bytes": peak.most.anonymous - peak.before.anonymous,
        "resident_bytes": peak.most.resident - peak.before.resident,
        "mapped_bytes": room.mapped,
    }


if __name__ == "__main__":
    main()
