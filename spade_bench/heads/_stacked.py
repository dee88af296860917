"""Heads trained by gradient steps: all that a new one must write is its parameters and forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from spade_bench import config, console
from spade_bench.errors import ConfigError
from spade_bench.heads._base import CPU_MEMORY, Fit, HeadOptions, Model, parse_memory
from spade_bench.heads._fitted import FittedHead, HeadInfo, Keep
from spade_bench.registry import heads
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags
    from spade_bench.heads._objectives import Objective
    from spade_bench.heads.training.reader import Reader
    from spade_bench.heads.training.trainer import Member, Trainer

__all__ = ["StackedHead", "TrainConfig", "stacked_head"]

GPU_SHARE = 0.7  # of the memory that is free


@dataclass(frozen=True)
class TrainConfig:
    """Settings that all heads trained by gradient steps share.

    Attributes:
        lr: AdamW learning rate at the start; cosine to zero over all steps.
        weight_decay: AdamW weight decay.
        epochs: Passes over the training cases at most.
        min_steps: Steps at least: with very few cases more passes are made.
        batch: Cases a step.
        dropout: Dropout on the vector of a case. Patches are never dropped, so their order cannot
            matter even in training.
        patience: Epochs without a lower loss on the tuning cases, where a fit has any, before it
            stops; its best weights count.
        precision: `fp32`; `bf16` for matrix products in bfloat16 (weights and optimiser stay
            float32); `fp64` to compare stacked with single training exactly.
    """

    lr: float = 5e-4
    weight_decay: float = 1e-2
    epochs: int = 20
    min_steps: int = 100
    batch: int = 1
    dropout: float = 0.25
    patience: int = 5
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"

    def __post_init__(self) -> None:
        """Refuse what cannot train.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        whole = [
            name
            for name, value in asdict(self).items()
            if isinstance(value, int) and not isinstance(value, bool)
        ]
        ranges = {**dict.fromkeys(whole, (1, math.inf)), **_RANGES}
        config.check_ranges(self, ranges, "")


_RANGES = {
    "lr": (1e-12, math.inf),
    "weight_decay": (0, math.inf),
    "min_steps": (0, math.inf),
    "dropout": (0, 0.99),
}
"""Ranges of the shared settings; whole numbers are 1 or more unless they stand here."""


def stacked_head(
    card: HeadCard,
    settings: type[TrainConfig],
    model: Model,
    objective: str,
    of_one_output: str = "",
) -> None:
    """Register a head that is trained by gradient steps.

    Args:
        card: The head's card. With ``input="pooled"`` its bags are single mean vectors.
        settings: Frozen dataclass of its hyperparameters.
        model: Its architecture.
        objective: `classes`, `squared-error`, `discrete-time` or `cox`.
        of_one_output: Objective where there is one output, of a head that also serves a kind of
            task without classes; empty for ``objective``.
    """
    wanted = (objective, of_one_output or objective)
    heads.add(card, lambda options: StackedHead(card, settings, model, wanted, options))


class StackedHead:
    """Trains all fits of a call side by side, in as few stacks as the memory allows."""

    def __init__(
        self,
        card: HeadCard,
        settings: type[TrainConfig],
        model: Model,
        objectives: tuple[str, str],
        options: HeadOptions,
    ) -> None:
        self.card = card
        self._settings, self._model, self._objectives = settings, model, objectives
        self._device = options.device
        self._memory = None if options.memory is None else parse_memory(options.memory)
        self._most_epochs = 0  # that the user knows of
        self.params: Mapping[str, Any] = asdict(
            config.build(settings, options.params, f"head {card.name}")
        )

    def resolve(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the full hyperparameters of a fit. See `Head.resolve`."""
        return asdict(self._build(params))

    def fit(self, bags: CaseBags, fits: Sequence[Fit], n_outputs: int) -> list[FittedHead]:
        """Train every fit. See `FittingHead.fit`."""
        fitted: dict[int, FittedHead] = {}

        def hand_out(indices: Sequence[int], trainer: Trainer) -> None:
            fitted.update(self._fitted(indices, trainer, fits, bags.dim, n_outputs))

        self._train(bags, fits, n_outputs, hand_out)
        return [fitted[index] for index in range(len(fits))]

    def fit_predict(
        self,
        bags: CaseBags,
        fits: Sequence[Fit],
        n_outputs: int,
        keep: Keep | None = None,
    ) -> list[NDArray[np.float64]]:
        """Train and predict. See `FittingHead.fit_predict`."""
        out: dict[int, NDArray[np.float64]] = {}

        def hand_out(indices: Sequence[int], trainer: Trainer) -> None:
            out.update(zip(indices, trainer.predict(), strict=True))
            if keep is not None:
                for index, head in self._fitted(indices, trainer, fits, bags.dim, n_outputs):
                    keep(index, head)

        self._train(bags, fits, n_outputs, hand_out)
        return [out[index] for index in range(len(fits))]

    def layout(self, info: HeadInfo) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each tensor of a fitted head. See `FittingHead.layout`."""
        from spade_bench.heads._network import network_shapes

        settings, objective = self._build(info.params), self._objective(info.n_outputs)
        return network_shapes(self._model, objective, settings, info.dim, info.n_outputs)

    def restore(self, info: HeadInfo, tensors: Mapping[str, NDArray[Any]]) -> FittedHead:
        """Return the fitted head with these tensors. See `FittingHead.restore`."""
        import torch

        return self._network(info, {k: torch.from_numpy(x) for k, x in tensors.items()})

    def _train(
        self,
        bags: CaseBags,
        fits: Sequence[Fit],
        n_outputs: int,
        hand_out: Callable[[Sequence[int], Trainer], None],
    ) -> None:
        """Train all fits, stack by stack; what is wanted of each is taken from its trainer."""
        import torch

        from spade_bench.device import resolve_device, small_products
        from spade_bench.heads.training.reader import Reader
        from spade_bench.heads.training.trainer import Member, Trainer
        from spade_bench.heads.training.workers import Workers

        device = resolve_device(self._device)
        memory = self._memory or _default_memory(device)
        pooled = bags.pooled().astype("float32")[:, None] if self.card.input == "pooled" else None
        by_format: dict[str, list[int]] = {}
        members = [Member(fit, self._build(fit.params)) for fit in fits]
        self._tell_epochs(members)
        for index, member in enumerate(members):
            by_format.setdefault(member.settings.precision, []).append(index)
        for precision, chosen in by_format.items():
            reader = Reader(
                bags.__getitem__ if pooled is None else pooled.__getitem__,
                len(bags),
                bags.dim,
                device=device,
                dtype=torch.float64 if precision == "fp64" else torch.float32,
                resident=memory // 2,
                half=precision == "bf16",
                bags=bags if pooled is None else None,
            )
            for stack in self._stacks([members[i] for i in chosen], reader, n_outputs, memory):
                own = [members[chosen[i]] for i in stack]
                objective = self._objective(n_outputs)
                ready = small_products(device) if self._model.small else nullcontext()
                with ready, Workers(device) as workers:
                    trainer = Trainer(
                        own,
                        reader,
                        self._model,
                        objective,
                        n_outputs,
                        name=self.card.name,
                        room=memory // 4,
                        workers=workers,
                    )
                    trainer.train()
                    hand_out([chosen[i] for i in stack], trainer)

    def _fitted(
        self,
        indices: Sequence[int],
        trainer: Trainer,
        fits: Sequence[Fit],
        dim: int,
        n_outputs: int,
    ) -> list[tuple[int, FittedHead]]:
        """The members of a trained stack, each on its own, with the positions of their fits."""
        out: list[tuple[int, FittedHead]] = []
        for index, weights in zip(indices, trainer.weights(), strict=True):
            params = self.resolve(fits[index].params)
            info = HeadInfo(self.card.name, params, n_outputs, dim)
            out.append((index, self._network(info, weights)))
        return out

    def _network(self, info: HeadInfo, weights: Mapping[str, torch.Tensor]) -> FittedHead:
        from spade_bench.heads._network import FittedNetwork

        return FittedNetwork(
            info,
            self._build(info.params),
            self._model,
            self._objective(info.n_outputs),
            weights,
            pooled=self.card.input == "pooled",
            device=self._device,
        )

    def _tell_epochs(self, members: Sequence[Member]) -> None:
        """Say once where `min_steps` makes more epochs than were asked for."""
        most = max(members, key=lambda member: member.wanted_epochs - member.settings.epochs)
        epochs, s = most.wanted_epochs, most.settings
        if epochs > max(s.epochs, self._most_epochs):
            self._most_epochs = epochs
            console.say(
                f"head {self.card.name}: up to {epochs} epochs, not {s.epochs}, because "
                f"{len(most.fit.train)} training cases need them for min_steps={s.min_steps}; "
                f"--set {self.card.name}.min_steps=0 keeps to the epochs"
            )

    def _objective(self, n_outputs: int) -> Objective:
        """What is learnt: of two or more outputs classes, of one a value or a risk."""
        from spade_bench.heads._objectives import OBJECTIVES

        return OBJECTIVES[self._objectives[n_outputs == 1]]

    def _build(self, params: Mapping[str, Any]) -> Any:
        return config.build(self._settings, {**self.params, **params}, f"head {self.card.name}")

    def _stacks(
        self, members: Sequence[Member], reader: Reader, n_outputs: int, memory: int
    ) -> list[list[int]]:
        """Split members so that weights and optimiser take a quarter of the memory at most.

        Another quarter is for the activations of a step; half is for bags, on a GPU for those
        that stay there.

        Raises:
            ConfigError: When one member alone does not fit into the memory that was asked for.
        """
        stacks: list[list[int]] = [[]]
        used, room = 0, memory // 4
        sizes: dict[Hashable, int] = {}
        for index, member in enumerate(members):
            kind = member.settings.precision, *self._model.shape_of(member.settings)
            if kind not in sizes:
                sizes[kind] = self._state_bytes(member, reader.dim, n_outputs)
            size = sizes[kind]
            if self._memory is not None:
                longest = max(reader.length(int(case)) for case in member.fit.train)
                floats = self._model.row_floats(member.settings) + 2 * reader.dim
                need = 4 * max(size, 4 * longest * floats)
                if need > memory:
                    raise ConfigError(
                        f"a bag of {longest} patches needs {need / 1e6:.0f} MB to train on, "
                        f"more than the {memory / 1e6:.0f} MB given",
                        where=f"head {self.card.name}",
                        fix=f"Give --memory {-(-need // 10**6)}MB or more",
                    )
            if stacks[-1] and used + size > room:
                stacks.append([])
                used = 0
            stacks[-1].append(index)
            used += size
        return stacks

    def _state_bytes(self, member: Member, dim: int, n_outputs: int) -> int:
        """Bytes of a model's weights, optimiser moments, best weights and gradients."""
        import torch

        width = self._objective(n_outputs).width(n_outputs, member.settings)
        # Drawn for real: on torch's meta device the first draw takes a second of imports.
        p = self._model.initial(dim, width, member.settings, torch.Generator())
        floats = sum(w.numel() for w in p.values())
        return floats * 6 * (8 if member.settings.precision == "fp64" else 4)


def _default_memory(device: torch.device) -> int:
    import torch

    if device.type == "cpu":
        return CPU_MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * GPU_SHARE)
