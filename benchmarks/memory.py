"""What `spade_bench.memory.keep_freed_memory` saves in encoding patches on CPU.

Every turn is a process of its own, with and without it in pairs; medians of the turns and of the
ratio of each pair are printed. The training of SPADE's experts does not gain: its blocks are small
enough for glibc to keep them by itself.

    python benchmarks/memory.py --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np


def encode() -> float:
    """Encode 128 patches with EfficientNet-Lite0, three times; return the seconds per patch."""
    from spade_bench.encoders import efficientnet_lite
    from spade_bench.types import LoadOptions

    encoder = efficientnet_lite.load_lite0(LoadOptions(device="cpu"))
    images = np.random.default_rng(0).integers(0, 256, (128, 224, 224, 3), dtype=np.uint8)
    encoder.encode(images[:16])
    began = time.perf_counter()
    for _ in range(3):
        encoder.encode(images)
    return (time.perf_counter() - began) / (3 * len(images))


def turn(kept: bool) -> tuple[float, int]:
    """Encode in a process of its own; return the seconds per patch and the page faults."""
    command = [sys.executable, __file__, "--here", *([] if kept else ["--off"])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], answer["faults"]


def faults() -> int:
    """Page faults of this process so far; 0 where the system does not count them."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def encode_here(off: bool) -> None:
    """Encode in this process and print what it took."""
    import spade_bench.memory

    if off:
        spade_bench.memory.keep_freed_memory = lambda: None  # type: ignore[assignment]
    before = faults()
    seconds = encode()
    print(json.dumps({"seconds": seconds, "faults": faults() - before}))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of turns")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--off", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.here:
        encode_here(args.off)
        return
    pairs = [(turn(False), turn(True)) for _ in range(args.rounds)]
    row: dict[str, Any] = {
        "benchmark": "memory",
        "seconds_default": statistics.median(off[0] for off, _ in pairs),
        "seconds_kept": statistics.median(on[0] for _, on in pairs),
        "faults_default": statistics.median(off[1] for off, _ in pairs),
        "faults_kept": statistics.median(on[1] for _, on in pairs),
        "ratio": statistics.median(off[0] / on[0] for off, on in pairs),
    }
    line = (
        f"{row['ratio']:.2f}x faster with freed memory kept; page faults "
        f"{row['faults_default']:,.0f} -> {row['faults_kept']:,.0f}"
    )
    print(json.dumps(row) if args.json else line)


if __name__ == "__main__":
    main()
