"""A small public release of SPADE, written out independently of the importer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.release.importing import import_release

D, G, P, K, C = 12, 9, 8, 3, 10


class Residual(nn.Module):
    """The head that the release's training saves, written out independently."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, P)
        self.fc = nn.Linear(P, P)
        self.layer_norm = nn.LayerNorm(P)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        p = self.projection(z)
        return self.layer_norm(self.fc(nn.functional.gelu(p)) + p)


class Pair(nn.Module):
    def __init__(self, gene_side: bool = True) -> None:
        super().__init__()
        self.image_projection = Residual(D)
        if gene_side:
            self.spot_projection = Residual(G)


class Perceptron(nn.Module):
    """The head that the release's routing script builds."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Module()
        self.proj.net = nn.Sequential(nn.Linear(D, 20), nn.ReLU(), nn.Linear(20, P))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.proj.net(z)


def experts(kind=Pair, n: int = K, **kwargs) -> list[nn.Module]:
    torch.manual_seed(0)
    return [kind(**kwargs) for _ in range(n)]


def checkpoint(module: nn.Module, number: int, val_loss: float = 1.0, epoch: int = 7) -> dict:
    cfg = {"batch_size": 128, "lr": 1e-4, "num_epochs": 100}
    return {
        "model": module.state_dict(), "epoch": epoch, "proto": number, "val_loss": val_loss,
        "cfg": cfg,
    }  # fmt: skip


def write_release(folder: Path) -> Path:
    """Write a complete release under the names its training uses, and return its folder."""
    (folder / "checkpoints").mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / "centroids.npy", rng.normal(size=(C, D)))
    np.save(folder / "reassigned_clusters.npy", (np.arange(C) % K).astype(np.int32))
    for number, module in enumerate(experts()):
        name = f"uni_k16_best_proto{number}_ep{7:03d}_val1.250000.pt"
        torch.save(checkpoint(module, number), folder / "checkpoints" / name)
    return folder


def run(release: Path, **kwargs) -> SpadeModel:
    out = release.parent / "out"
    import_release(
        release / "checkpoints",
        release / "centroids.npy",
        release / "reassigned_clusters.npy",
        out,
        **kwargs,
    )
    return SpadeModel.load(out, device="cpu")


def clear(release: Path) -> Path:
    for path in (release / "checkpoints").iterdir():
        path.unlink()
    return release / "checkpoints"
