"""CUDA graphs where no GPU captures them: operations are recorded and done again over their memory.

As on a GPU a capture changes nothing: what it overwrote is put back. A replay does what was
recorded, with the tensors and the plain numbers that were there then; so a number that the host
works out anew at every step, and that a graph would freeze, shows as a wrong result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["RecordedGraph", "recorded_graphs"]

_WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}


class RecordedGraph:
    """Stands for `torch.cuda.CUDAGraph`."""

    made: ClassVar[list[RecordedGraph]] = []

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, list[Any]]] = []
        self.replays = 0
        self.made.append(self)

    @property
    def kernels(self) -> int:
        """Operations that are no views: about as many kernels."""
        return len(self.operations)

    @torch.no_grad()
    def replay(self) -> None:
        """Do again what was recorded."""
        self.replays += 1
        for func, args, kwargs, outs in self.operations:
            again = tree_leaves(func(*args, **kwargs))
            for new, old in zip(again, outs, strict=True):
                if isinstance(old, torch.Tensor) and new is not old:
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.own: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        assert func not in _WAITS, f"{func} waits for the device inside a capture"
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._save(value)
        for argument in func._schema.arguments:
            if argument.name in kwargs and argument.alias_info and argument.alias_info.is_write:
                self._save(kwargs[argument.name])
        out = func(*args, **kwargs)
        outs = tree_leaves(out)
        moved = {t.device.type for t in [*given, *outs] if isinstance(t, torch.Tensor)} - {"cuda"}
        scalars = all(t.ndim == 0 for t in given if not t.is_cuda)
        assert not moved or scalars, f"{func} reads or writes host memory inside a capture"
        known = {t.untyped_storage().data_ptr() for t in given}
        fresh = [t for t in outs if isinstance(t, torch.Tensor)]
        fresh = [t for t in fresh if t.untyped_storage().data_ptr() not in known]
        self.own |= {t.untyped_storage().data_ptr() for t in fresh}
        writes = any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments)
        if fresh or writes:
            self.graph.operations.append((func, args, kwargs, outs))
        return out

    def _save(self, value: Any) -> None:
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            storage = tensor.untyped_storage().data_ptr()
            if storage not in self.own and id(tensor) not in self.before:
                self.before[id(tensor)] = tensor, tensor.detach().clone()


@contextlib.contextmanager
def _capture(graph: RecordedGraph, **_: Any) -> Iterator[None]:
    recorder = _Recorder(graph)
    with recorder:
        yield
    with torch.no_grad():
        for tensor, before in reversed(recorder.before.values()):
            tensor.copy_(before)


@contextlib.contextmanager
def recorded_graphs() -> Iterator[list[RecordedGraph]]:
    """Record instead of capture within a block; the graphs that were made come in a list."""
    RecordedGraph.made.clear()
    with (
        mock.patch.object(torch.cuda, "CUDAGraph", RecordedGraph),
        mock.patch.object(torch.cuda, "graph", _capture),
        mock.patch.object(torch.cuda, "graph_pool_handle", return_value=(0, 0)),
    ):
        yield RecordedGraph.made
