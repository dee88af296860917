"""Several experts as one: their heads stacked, their losses and AdamW steps together.

The tensors of A experts lie one after the other, so that the first a of them are a view. Both heads
of an expert share all tensors but the first layers, whose inputs differ in width: what follows the
first layer is one product for both. Weights are held as (in, out), not as (out, in): their
gradients then come out of the product as they lie, without a copy.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from spade_bench.encoders.spade.experts import LAYER_NORM_EPS, MASKED
from spade_bench.encoders.spade.numerics import exact_float32

__all__ = ["adamw_step", "pack", "stacked_agreement", "stacked_project", "unpack"]

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8
_PIECE = 1 << 16  # numbers of which torch's fused kernel makes one block
_FEW = 4  # experts up to which blocks of that size leave most of a GPU idle
_A_LAUNCH = 32  # tensors that one launch of it takes
_HEADS = ("image", "spot")
_SHARED = {
    "first_bias": "projection.bias",  # (A, 2, P)
    "second": "fc.weight",  # (A, 2, P, P)
    "second_bias": "fc.bias",  # (A, 2, P)
    "gain": "layer_norm.weight",  # (A, 2, P)
    "shift": "layer_norm.bias",  # (A, 2, P)
}


def pack(experts: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Stack the tensors of A experts.

    Args:
        experts: Tensors of each by `image.*` and `spot.*` names, weights as (out, in).
        device: Where the stack lies.

    Returns:
        `image` (A, D, P) and `spot` (A, G, P), the first layers; and of both heads `first_bias`,
        `second` (A, 2, P, P), `second_bias`, `gain` and `shift`, (A, 2, P) each.
    """
    stacked: dict[str, Tensor] = {}
    for head in _HEADS:
        weights = [tensors[f"{head}.projection.weight"].detach() for tensors in experts]  # (P, in)
        shape = len(experts), *weights[0].T.shape
        stacked[head] = torch.empty(shape, device=device)  # (A, in, P)
        for place, weight in zip(stacked[head], weights, strict=True):
            place.copy_(weight.to(device).T)
    for name, long in _SHARED.items():
        rows = [[tensors[f"{h}.{long}"].detach() for h in _HEADS] for tensors in experts]
        both = torch.stack([torch.stack(pair) for pair in rows])  # (A, 2, ...)
        stacked[name] = (both.mT if name == "second" else both).to(device).contiguous()
    return stacked


def unpack(stacked: Mapping[str, Tensor], expert: int) -> dict[str, Tensor]:
    """Return one expert's tensors by `image.*` and `spot.*` names, as views of the stack."""
    found: dict[str, Tensor] = {}
    for at, head in enumerate(_HEADS):
        found[f"{head}.projection.weight"] = stacked[head][expert].T
        for name, long in _SHARED.items():
            tensor = stacked[name][expert, at]
            found[f"{head}.{long}"] = tensor.T if name == "second" else tensor
    return found


def stacked_project(
    x: Tensor, g: Tensor, parameters: Mapping[str, Tensor], keep: Tensor | None, low: bool
) -> Tensor:
    """Run both projection heads of a experts; the stacked form of `experts.project`.

    Args:
        x: Image features (a, n, D), of any precision.
        g: Expression (a, n, G), of any precision.
        parameters: What :func:`pack` returned, the first a experts.
        keep: Dropout multipliers (a, 2, n, P), or None.
        low: Whether the linear layers multiply in bfloat16.

    Returns:
        Embeddings (a, 2, n, P), images first.
    """
    a, n, _ = x.shape
    first = _product(x, parameters["image"], low), _product(g, parameters["spot"], low)
    p = torch.stack(first, dim=1).add_(parameters["first_bias"].unsqueeze(2))  # (a, 2, n, P)
    dim = p.shape[3]
    second = parameters["second"].reshape(2 * a, dim, dim)  # (2 a, P, P)
    above = functional.gelu(p).view(2 * a, n, dim)  # (2 a, n, P)
    h = _product(above, second, low).view_as(p)  # (a, 2, n, P)
    h = h + parameters["second_bias"].unsqueeze(2)  # (a, 2, n, P)
    u = p + h if keep is None else torch.addcmul(p, h, keep)  # (a, 2, n, P)
    normal = functional.layer_norm(u, (dim,), eps=LAYER_NORM_EPS)  # (a, 2, n, P)
    gain, shift = parameters["gain"], parameters["shift"]  # (a, 2, P)
    return torch.addcmul(shift.unsqueeze(2), normal, gain.unsqueeze(2))  # (a, 2, n, P)


def stacked_agreement(
    embedded: Tensor,
    outside: Tensor,
    temperature: float = 1.0,
    detach_targets: bool = False,
    *,
    group: Tensor | None = None,
) -> Tensor:
    """Return how well a batches agree with their soft targets, each over its m rows in use.

    The contrastive loss of `experts.contrastive_loss` is this times -1 / 2m.

    Args:
        embedded: Image and expression embeddings (a, 2, n, P).
        outside: Which rows are not in use, (a, n) bool.
        temperature: T.
        detach_targets: Whether the soft targets are held constant in the backward pass.
        group: Which genes each spot measures, as a number, (a, n); None: all the same.

    Returns:
        (a,); zero for a batch without rows.
    """
    rows, columns = outside[:, :, None], outside[:, None, :]  # (a, n, 1), (a, 1, n)
    if group is not None:
        apart = group[:, :, None] != group[:, None, :]  # (a, n, n)
        columns, rows_of = columns | apart, rows | apart  # (a, n, n)
    else:
        rows_of = rows
    how = temperature, detach_targets
    return cast(Tensor, _Agreement.apply(embedded, rows, rows_of, columns, *how))


class _Agreement(torch.autograd.Function):
    """Its slope is written out: half as many kernels as autograd makes of it.

    With L = S I^T / T, A the soft targets (zero where a row or column is none of the batch), R and
    C the log-softmax of L over rows and over columns, it is sum(A (R + C)). Its slope in L is
    2 A - exp(R) sum_j A - exp(C) sum_i A, where sum_j A is one in every row in use, and in the
    logits of A, of which only the symmetric part matters, A (R + C - sum_j A (R + C)).
    """

    @staticmethod
    def forward(
        ctx: Any, embedded: Tensor, rows: Tensor, rows_of: Tensor, columns: Tensor, *how: Any
    ) -> Tensor:
        temperature, _ = ctx.how = how
        a, _, n, dim = embedded.shape
        both = embedded.reshape(a, 2 * n, dim)  # (a, 2 n, P)
        with exact_float32(embedded.device):
            products = torch.bmm(both, both.mT).view(a, 2, n, 2, n)
        similarity = torch.lerp(products[:, 0, :, 0], products[:, 1, :, 1], 0.5)  # (a, n, n)
        logits = products[:, 1, :, 0]  # (a, n, n)
        if temperature != 1:
            similarity, logits = similarity * temperature, logits / temperature  # (a, n, n)
        targets = torch.softmax(similarity.masked_fill_(columns, MASKED), dim=2)  # (a, n, n)
        targets = targets.masked_fill_(rows, 0.0)  # (a, n, n)
        by_row = torch.log_softmax(logits.masked_fill(columns, MASKED), dim=2)  # (a, n, n)
        # Transposed, as a GPU is ten times slower where it must add up along columns.
        columns_first = logits.masked_fill(rows_of, MASKED).mT.contiguous()  # (a, n, n)
        by_column = torch.log_softmax(columns_first, dim=2).mT  # (a, n, n)
        both_ways = by_row + by_column  # (a, n, n)
        mean = (targets * both_ways).sum(dim=2, keepdim=True)  # (a, n, 1)
        ctx.save_for_backward(both, rows, targets, by_row, by_column, both_ways, mean)
        return mean.sum(dim=(1, 2))  # (a,)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        both, rows, targets, by_row, by_column, both_ways, mean = ctx.saved_tensors
        temperature, detach_targets = ctx.how
        a, n, _ = targets.shape
        slope = both.new_empty(a, 2, n, 2, n)
        across = by_row.exp().masked_fill_(rows, 0.0)  # (a, n, n)
        across.addcmul_(by_column.exp(), targets.sum(dim=1, keepdim=True))  # (a, n, n)
        torch.sub(2 * targets, across, out=slope[:, 1, :, 0])
        if temperature != 1:
            slope[:, 1, :, 0] /= temperature
        slope[:, 0, :, 1] = slope[:, 1, :, 0].mT
        if detach_targets:
            slope[:, 0, :, 0] = 0
        else:
            within = (both_ways - mean).mul_(targets)  # (a, n, n)
            torch.lerp(within, within.mT, 0.5, out=slope[:, 0, :, 0])
            if temperature != 1:
                slope[:, 0, :, 0] *= temperature
        slope[:, 1, :, 1] = slope[:, 0, :, 0]
        slope.mul_(above.view(a, 1, 1, 1, 1))
        with exact_float32(both.device):
            gradient = torch.bmm(slope.view(a, 2 * n, 2 * n), both)  # (a, 2 n, P)
        return gradient.view(a, 2, n, -1), None, None, None, None, None


def adamw_step(
    groups: Sequence[Mapping[str, Tensor]],
    gradients: Mapping[str, Tensor],
    rates: Tensor,
    counts: Tensor,
    weight_decay: float,
    *,
    lanes: Sequence[torch.cuda.Stream] = (),
) -> None:
    """Take an AdamW step of a experts, each with a rate and a step count of its own.

    Parameters, moments and gradients are passed over once, by fused kernels. One of them keeps a
    fraction of a GPU busy: with ``lanes`` they run side by side.

    Args:
        groups: Parameters, first and second moments by name, (a, ...) each.
        gradients: Gradients by name.
        rates: Learning rates, (a,).
        counts: How many steps an expert will then have taken, (a,) float32.
        weight_decay: Weight decay.
        lanes: Streams beside the current one; without any, kernel follows kernel.
    """
    kinds = [groups[0], gradients, groups[1], groups[2]]
    size = _PIECE if len(rates) > _FEW else _PIECE // 4
    with _spread(lanes) as turn:
        for expert in range(len(rates)):
            whole = [[kind[name][expert] for name in gradients] for kind in kinds]
            split = [_pieces(tensors, size) if lanes else tensors for tensors in whole]
            for start in range(0, len(split[0]), _A_LAUNCH):
                some = [tensors[start : start + _A_LAUNCH] for tensors in split]
                with turn():
                    _adamw(some, rates[expert], counts[expert], weight_decay)


def _adamw(tensors: list[list[Tensor]], rate: Tensor, count: Tensor, weight_decay: float) -> None:
    """Step parameters by gradients and moments, lists of tensors in this order."""
    parameters, gradients, first, second = tensors
    torch._fused_adamw_(
        parameters,
        gradients,
        first,
        second,
        [],
        [count] * len(parameters),
        lr=rate,
        beta1=_BETA1,
        beta2=_BETA2,
        weight_decay=weight_decay,
        eps=_EPS,
        amsgrad=False,
        maximize=False,
    )


def _pieces(tensors: Sequence[Tensor], size: int) -> list[Tensor]:
    """Cut tensors into views of ``size`` numbers at most, where they are larger than the kernel's.

    The kernel gives a multiprocessor 65,536 numbers to work on, and those of a tensor that is cut
    smaller sooner finish.
    """
    if size >= _PIECE:
        return list(tensors)
    return [part for tensor in tensors for part in torch.split(tensor.view(-1), size)]


@contextlib.contextmanager
def _spread(lanes: Sequence[torch.cuda.Stream]) -> Iterator[Callable[[], Any]]:
    """Give out streams in turn, which begin after what was launched and end before what follows."""
    if not lanes:
        yield contextlib.nullcontext
        return
    here, used = torch.cuda.current_stream(), itertools.count()

    def turn() -> Any:
        number = next(used)
        lane = lanes[number % len(lanes)]
        if number < len(lanes):
            lane.wait_stream(here)
        return torch.cuda.stream(lane)

    yield turn
    for lane in lanes[: next(used)]:
        here.wait_stream(lane)


def _product(z: Tensor, weight: Tensor, low_precision: bool) -> Tensor:
    """Multiply (a, n, in) by (a, in, out)."""
    if not low_precision:
        return torch.bmm(z.float(), weight)  # (a, n, out)
    product = torch.bmm(z.to(torch.bfloat16), weight.to(torch.bfloat16))  # (a, n, out)
    return product.to(weight.dtype)  # (a, n, out)
