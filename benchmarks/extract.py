"""How much faster slides are extracted here than by a plain loop, reading and writing included.

The plain loop (own code): one slide after another, open, mask, grid; batch by batch read each
patch, transform it with torchvision, encode the batch with timm's own model, write the file. Same
mask, grid, batch size and weights; it is tried with one thread and with all cores and counts at its
best. Ours is `spade-bench extract`, in this process. Both are run in turns, the best time counts.

    python benchmarks/extract.py --json            # 20,000 patches or more: some 20 minutes
    python benchmarks/extract.py --json --quick    # a busy machine
    python benchmarks/extract.py --json --model vit_large_patch16_224 --device cuda --precision bf16
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torchvision import transforms

from spade_bench.encoders import efficientnet_lite
from spade_bench.encoders.common.timmodel import HALF, TimmEncoder
from spade_bench.extraction import Settings, extract_slides
from spade_bench.features.bags import read_bag, write_features
from spade_bench.simulate.imaging import make_image
from spade_bench.simulate.scanner import draw_site
from spade_bench.simulate.studysettings import ORGANS, Nuisance
from spade_bench.simulate.textures import Textures
from spade_bench.simulate.tiff import write_pyramid
from spade_bench.simulate.tissuemap import draw_case, grow_tissue
from spade_bench.slides.grid import make_grid
from spade_bench.slides.opening import open_slide
from spade_bench.slides.tissue import find_tissue
from spade_bench.types import EncoderCard, LoadOptions

PX = 224
Turn = Callable[..., dict[str, float]]


def make_slides(folder: Path, patches: int, side: int, mpp: float) -> int:
    """Write simulated slides of at least ``patches`` patches together; how many there are."""
    rng = np.random.default_rng(0)
    tissue = grow_tissue(ORGANS[0], draw_case(ORGANS[0], rng), 2048.0, rng)
    section = make_image(tissue, draw_site("S1", Nuisance(), rng), Textures(rng), rng)
    repeat = -(-side // len(section))
    image = np.tile(section, (repeat, repeat, 1))[:side, :side]
    folder.mkdir()
    sizes: list[int] = []
    while sum(sizes) < patches:
        number = len(sizes)
        path = folder / f"slide_{number:03d}.tif"
        if number < 3:
            write_pyramid(path, np.roll(image, 517 * number, axis=(0, 1)), mpp)
            sizes.append(len(patches_of(path)[0]))
        else:  # further slides are copies: only their files need to be others
            shutil.copy(folder / f"slide_{number % 3:03d}.tif", path)
            sizes.append(sizes[number % 3])
    return sum(sizes)


def patches_of(path: Path) -> tuple[np.ndarray, float]:
    """Level-0 corners (n, 2) and width of the patches of a slide."""
    with open_slide(path) as slide:
        mask = find_tissue(slide).mask
        grid = make_grid(slide.width, slide.height, slide.side(PX, 0.5), mask)
        return grid.coords, grid.side


class Plain:
    """The plain loop.

    Args:
        model: timm's model, as it is.
        device: Where it runs.
        precision: Autocast on a GPU: fp32, bf16 or fp16.
    """

    def __init__(self, model: torch.nn.Module, device: str, precision: str) -> None:
        self.model, self.device = model.eval().to(device), device
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(HALF.mean, HALF.std)]
        )
        self.reading = 0.0

    def run(self, folder: Path, out: Path, batch: int, limit: int | None = None) -> int:
        """Extract every slide (or the first ``limit`` patches of each); how many patches."""
        out.mkdir(parents=True, exist_ok=True)
        self.reading, count = 0.0, 0
        for path in sorted(folder.glob("*.tif"))[: None if limit is None else 1]:
            coords, side = patches_of(path)
            coords = coords[:limit]
            parts = [
                self._encode(path, coords, side, i, batch) for i in range(0, len(coords), batch)
            ]
            features = np.concatenate(parts)
            write_features(
                out / f"{path.stem}.h5", features, coords, slide_id=path.stem, encoder="plain"
            )
            count += len(coords)
        return count

    def _encode(
        self, path: Path, coords: np.ndarray, side: float, start: int, batch: int
    ) -> np.ndarray:
        began = time.perf_counter()
        if start == 0:
            import openslide

            self.slide = openslide.OpenSlide(str(path))
            self.level = self.slide.get_best_level_for_downsample(side / PX + 0.01)
        width = round(side / self.slide.level_downsamples[self.level])
        images = []
        for x, y in coords[start : start + batch]:
            image = self.slide.read_region((int(x), int(y)), self.level, (width, width))
            image = image.convert("RGB")
            images.append(self.transform(image if width == PX else image.resize((PX, PX))))
        stacked = torch.stack(images)
        self.reading += time.perf_counter() - began
        half = nullcontext() if self.dtype is None else torch.autocast("cuda", dtype=self.dtype)
        with torch.inference_mode(), half:
            return np.asarray(self.model(stacked.to(self.device)).float().cpu())


class Watched:
    """An encoder whose working time is noted."""

    def __init__(self, encoder: TimmEncoder) -> None:
        self.encoder, self.card, self.lanes = encoder, encoder.card, encoder.lanes
        self.calls: list[tuple[float, float]] = []
        self._lock = threading.Lock()

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """See `TimmEncoder.encode`."""
        began = time.perf_counter()
        features = self.encoder.encode(images)
        with self._lock:
            self.calls.append((began, time.perf_counter()))
        return features

    def busy(self) -> float:
        """Share of the time between its first and last call that it was encoding."""
        total, end = 0.0, 0.0
        for began, ended in sorted(self.calls):
            total += max(ended - max(began, end), 0.0)
            end = max(end, ended)
        return total / (end - min(began for began, _ in self.calls))


def model_of(args: argparse.Namespace) -> torch.nn.Module:
    """The model both use, as timm builds it."""
    if args.model is None:
        return efficientnet_lite.build(0, None)
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(args.model, pretrained=False, num_classes=0)
    return model


def make_encoder(args: argparse.Namespace) -> TimmEncoder:
    """Our encoder."""
    options = LoadOptions(device=args.device, precision=args.precision)
    if args.model is None:
        return efficientnet_lite.load_lite0(options)
    card = EncoderCard(
        args.model, "image", None, "random weights", patch_px=PX, mpp=0.5, normalisation=HALF
    )
    return TimmEncoder(card, model_of(args), options)


_held: dict[str, Plain] = {}


def plain_turn(
    args: argparse.Namespace, slides: Path, out: Path, threads: int, limit: int | None = None
) -> dict[str, float]:
    """Run the plain loop in the calling process, which keeps its model."""
    if "plain" not in _held:
        _held["plain"] = Plain(model_of(args), args.device, args.precision)
    torch.set_num_threads(threads)
    row = clocked(partial(_held["plain"].run, slides, out, args.batch, limit))
    return {**row, "reading_seconds": _held["plain"].reading}


def clocked(work: Callable[[], Any]) -> dict[str, float]:
    """Wall-clock and processor seconds of some work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def encode_again(encoder: TimmEncoder, images: np.ndarray, times: int) -> None:
    """Encode the same patches several times."""
    for _ in range(times):
        encoder.encode(images)


def best(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The run that took the least time."""
    return min(rows, key=lambda row: row["seconds"])


def difference(plain: Path, ours: Path) -> float:
    """Largest difference of features, relative to the largest feature; corners must be equal."""
    worst = 0.0
    for path in sorted(plain.glob("*.h5")):
        a, b = read_bag(path), read_bag(ours / path.name)
        if a.coords is None or b.coords is None or not np.array_equal(a.coords, b.coords):
            return float("inf")
        worst = max(worst, float(np.abs(a.features - b.features).max() / np.abs(a.features).max()))
    return worst


def tune(turn: Turn, args: argparse.Namespace, folder: Path) -> tuple[int, dict[int, float]]:
    """The number of threads at which the plain loop is fastest, and the seconds it took at each."""
    patches = args.batch // 2 if args.quick else 2 * args.batch
    turn(args, folder / "slides", folder / "warm", 1, 16)
    tried = {
        threads: turn(args, folder / "slides", folder / "warm", threads, patches)["seconds"]
        for threads in sorted({1, torch.get_num_threads()})
    }
    return min(tried, key=tried.__getitem__), tried


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run both in turns and compare times and features.

    The plain loop has a process of its own, so that nothing this package sets up (its way with
    freed memory, its choice of matrix products) speeds it up too.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        return _compare(args, folder, lambda *given: apart.submit(plain_turn, *given).result())


def _compare(args: argparse.Namespace, folder: Path, turn: Turn) -> dict[str, Any]:
    slides = folder / "slides"
    count = make_slides(slides, args.patches, args.side, args.slide_mpp)
    threads, tried = tune(turn, args, folder)
    encoder = make_encoder(args)
    held = np.random.default_rng(0).integers(0, 256, (args.batch, PX, PX, 3), dtype=np.uint8)
    encoder.encode(held[:16])
    repeats = max(min(count // 2, 2048) // args.batch, 1)  # what the encoder does from memory
    scale = count / (repeats * args.batch)
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "ours": [], "encode_only": []}
    settings = Settings(batch_size=args.batch, preview=False)
    for number in range(args.rounds):
        rounds["plain"].append(turn(args, slides, folder / "plain", threads))
        watched, out = Watched(encoder), folder / f"ours{number}"
        row = clocked(partial(extract_slides, slides, watched, out, settings=settings))
        rounds["ours"].append({**row, "encoder_busy": watched.busy()})
        row = clocked(partial(encode_again, encoder, held, repeats))
        rounds["encode_only"].append({key: value * scale for key, value in row.items()})
    found = {name: best(rows) for name, rows in rounds.items()}
    for row in found.values():
        row["patches_per_second"] = count / row["seconds"]
    made = next((folder / "ours0").rglob("*.h5")).parent
    gap = difference(folder / "plain", made)
    return {
        **found,
        "plain_threads": threads,
        "plain_tried_seconds": tried,
        "patches": count,
        "slides": len(list(slides.iterdir())),
        "ratio": found["plain"]["seconds"] / found["ours"]["seconds"],
        "ratio_cpu": found["plain"]["cpu_seconds"] / found["ours"]["cpu_seconds"],
        "share_of_encoding_alone": found["encode_only"]["seconds"] / found["ours"]["seconds"],
        "largest_relative_difference": gap,
        "equal": gap < (1e-4 if args.precision == "fp32" else 5e-2),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--patches", type=int, default=20_000, help="patches in all, at least")
    parser.add_argument("--side", type=int, default=8192, help="width of a slide in pixels")
    parser.add_argument("--slide-mpp", type=float, default=0.5, help="level-0 µm per pixel")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, in turns")
    parser.add_argument("--model", help="any timm model of 224 px, with random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--quick", action="store_true", help="some 300 patches, twice")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    if args.quick:
        args.patches, args.side, args.rounds = 300, 3072, 2
    with tempfile.TemporaryDirectory() as name:
        result = {
            "benchmark": "extract",
            "encoder": args.model or "efficientnet-lite0",
            "device": args.device,
            "precision": args.precision,
            "batch": args.batch,
            "slide_mpp": args.slide_mpp,
            "cores": torch.get_num_threads(),
            **compare(args, Path(name)),
            "target": 1.5,
            "load_average": list(os.getloadavg()),
        }
    ours, plain = result["ours"], result["plain"]
    line = (
        f"{ours['patches_per_second']:.0f} patches/s, plain {plain['patches_per_second']:.0f}: "
        f"{result['ratio']:.2f}x; relative difference {result['largest_relative_difference']:.1e}"
    )
    print(json.dumps(result) if args.json else line)
    return result


if __name__ == "__main__":
    main()
