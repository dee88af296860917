"""Trains TANGLE: sampled patches, symmetric contrast, a checkpoint after every epoch.

Everything random is keyed by (seed, purpose, epoch, ...), so that a run that was killed continues
from its checkpoint and ends at the same weights.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spade_bench import console
from spade_bench.encoders.common.checkpoint import load_checkpoint, save_checkpoint
from spade_bench.encoders.tangle.pretraining.tangleconfig import TrainingConfig
from spade_bench.encoders.tangle.towers import Tangle, info_nce
from spade_bench.errors import DataError
from spade_bench.files import hash_obj

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

__all__ = ["Trained", "embed", "train"]

_KEPT = ("params", "exp_avg", "exp_avg_sq", "best")
_SCALARS = ("epoch", "step", "best_epoch", "best_loss", "history")


@dataclass
class Trained:
    """The state of training between two epochs; at the end, its result.

    Attributes:
        params: Parameters by name.
        exp_avg: AdamW's first moments.
        exp_avg_sq: AdamW's second moments.
        best: Parameters of the best epoch so far.
        epoch: Epochs done.
        step: Steps done.
        best_epoch: Epoch of ``best``, from 1.
        best_loss: Its validation loss.
        history: Rows of `training.csv`.
    """

    params: dict[str, Tensor] = field(default_factory=dict)
    exp_avg: dict[str, Tensor] = field(default_factory=dict)
    exp_avg_sq: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    bags: CaseBags,
    expression: NDArray[np.float32],
    parts: dict[str, NDArray[np.int64]],
    config: TrainingConfig,
    out: Path,
    *,
    seed: int,
    device: torch.device,
    key: str,
) -> Trained:
    """Train, or continue from the checkpoint in ``out``.

    Args:
        bags: Patch features of each case.
        expression: Standardised expression, (n, G).
        parts: Positions of `train` and `val` cases.
        config: The optimisation.
        out: Folder of the checkpoint.
        seed: Seed of everything random.
        device: Where it runs.
        key: Hash of the data, so that a checkpoint of others is not taken up.

    Raises:
        DataError: When no epoch has a finite validation loss.
    """
    fingerprint = hash_obj([key, asdict(config), seed])
    path = out / "checkpoints" / "tangle.safetensors"
    state = _load(path, fingerprint) or Trained()
    model = _new_model(bags.dim, expression.shape[1], config, seed).to(device)
    optimizer = _optimizer(model, config, state)
    target = torch.from_numpy(expression).to(device)  # (n, G)
    steps = _n_steps(len(parts["train"]), config)
    with console.progress("train TANGLE", total=config.epochs * steps, unit="steps") as bar:
        bar.advance(state.epoch * steps)
        while state.epoch < config.epochs:
            loss = _epoch(
                model,
                optimizer,
                bags,
                target,
                parts["train"],
                config=config,
                state=state,
                seed=seed,
            )
            slide, genes = embed(model, bags, expression, parts["val"])
            val = float(info_nce(slide, genes, config.temperature))
            _finish_epoch(state, model, optimizer, loss, val)
            _save(path, state, fingerprint)
            bar.advance(steps, f"epoch {state.epoch}: loss {loss:.3f}, validation {val:.3f}")
    if not state.best:
        raise DataError("training diverged: no epoch has a finite validation loss",
                        fix="Lower training.lr or raise training.temperature")  # fmt: skip
    return state


@torch.inference_mode()
def embed(
    model: Tangle, bags: CaseBags, expression: NDArray[np.float32], cases: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Encode cases with all of their patches: slide and expression vectors, (m, H) each."""
    device = next(model.parameters()).device
    model.eval()
    slide = [
        model.slide(torch.from_numpy(np.array(bags[int(i)]))[None].to(device)) for i in cases
    ]  # m times (1, H)
    genes = model.expression(torch.from_numpy(expression[cases]).to(device))  # (m, H)
    return torch.cat(slide).cpu(), genes.cpu()


def _new_model(in_dim: int, n_genes: int, config: TrainingConfig, seed: int) -> Tangle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_key(seed, 0))
        return Tangle(in_dim, n_genes, config.hidden, config.attention, config.dropout)


def _optimizer(model: Tangle, config: TrainingConfig, state: Trained) -> torch.optim.AdamW:
    """Return the optimiser; it and the model continue where ``state`` stopped, if it did."""
    if state.epoch:
        console.say(f"continuing after epoch {state.epoch}")
        model.load_state_dict(state.params, strict=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, foreach=False
    )
    _restore(optimizer, model, state)
    return optimizer


def _finish_epoch(
    state: Trained, model: Tangle, optimizer: torch.optim.AdamW, loss: float, val: float
) -> None:
    """Note an epoch's losses and weights; the best one by validation loss is kept."""
    state.epoch += 1
    state.history.append(
        {"epoch": state.epoch, "train_loss": loss, "val_loss": val, "lr": _lr(optimizer)}
    )
    state.params = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    if val < state.best_loss:
        state.best, state.best_loss = dict(state.params), val
        state.best_epoch = state.epoch
    _keep(optimizer, model, state)


def _n_steps(cases: int, config: TrainingConfig) -> int:
    """Number of batches that an epoch over so many cases takes."""
    return max(1, round(cases / config.batch_size))


def _epoch(
    model: Tangle,
    optimizer: torch.optim.Optimizer,
    bags: CaseBags,
    target: Tensor,
    cases: NDArray[np.int64],
    *,
    config: TrainingConfig,
    state: Trained,
    seed: int,
) -> float:
    """Run one epoch; return its mean loss."""
    model.train()
    device = target.device
    order = np.random.default_rng([seed, 1, state.epoch]).permutation(cases)
    # Equal parts: a last batch of one case would have nothing to contrast with.
    batches = np.array_split(order, _n_steps(len(order), config))
    total = 0.0
    for batch in batches:
        for group in optimizer.param_groups:
            group["lr"] = _rate(config, state.step, len(batches))
        x, mask = _sample(bags, batch, config.patches, seed, state.epoch)  # (B, n, D), (B, n)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(_key(seed, 1 + state.step))  # dropout
            slide = model.slide(x.to(device), mask.to(device))  # (B, H)
            genes = model.expression(target[torch.from_numpy(batch).to(device)])  # (B, H)
        loss = info_nce(slide, genes, config.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        state.step += 1
        total += float(loss.detach()) * len(batch)
    return total / len(order)


def _sample(
    bags: CaseBags, batch: NDArray[np.int64], patches: int, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Draw patches without replacement; cases with fewer are padded and masked."""
    drawn = []
    for case in batch:
        bag = bags[int(case)]  # (n, D)
        if len(bag) > patches:
            rng = np.random.default_rng([seed, 2, epoch, int(case)])
            bag = bag[np.sort(rng.choice(len(bag), patches, replace=False))]
        drawn.append(bag)
    longest = max(len(bag) for bag in drawn)
    x = torch.zeros(len(drawn), longest, bags.dim)
    mask = torch.zeros(len(drawn), longest, dtype=torch.bool)
    for row, bag in enumerate(drawn):
        x[row, : len(bag)] = torch.from_numpy(np.array(bag))
        mask[row, : len(bag)] = True
    return x, mask


def _rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm, end = config.warmup_epochs * steps, config.epochs * steps
    if step < warm:
        return config.lr * (step + 1) / warm
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, end - warm)))


def _lr(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _key(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, 3, step]).generate_state(1, np.uint64)[0] >> 1)


def _restore(optimizer: torch.optim.AdamW, model: Tangle, state: Trained) -> None:
    for name, parameter in model.named_parameters():
        if name in state.exp_avg:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": state.exp_avg[name].to(parameter.device),
                "exp_avg_sq": state.exp_avg_sq[name].to(parameter.device),
            }


def _keep(optimizer: torch.optim.AdamW, model: Tangle, state: Trained) -> None:
    for name, parameter in model.named_parameters():
        moments = optimizer.state[parameter]
        state.exp_avg[name] = moments["exp_avg"].cpu().clone()
        state.exp_avg_sq[name] = moments["exp_avg_sq"].cpu().clone()


def _save(path: Path, state: Trained, fingerprint: str) -> None:
    # Clones: the best parameters and the present ones may be the same tensors.
    groups = {g: {name: t.clone() for name, t in getattr(state, g).items()} for g in _KEPT}
    scalars = {name: getattr(state, name) for name in _SCALARS}
    save_checkpoint(path, groups, scalars, fingerprint)


def _load(path: Path, fingerprint: str) -> Trained | None:
    """Read a checkpoint; None when none applies to this data and these settings, or is whole."""
    saved = load_checkpoint(path, fingerprint)
    if saved is None:
        return None
    values: dict[str, Any] = {**saved[1], **saved[0]}
    return Trained(**values)
