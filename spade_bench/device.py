"""Devices and numerics."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from spade_bench.errors import UserError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = [
    "array_to_device",
    "autocast",
    "compiled_kernels",
    "kept_threads",
    "resolve_device",
    "setup_numerics",
    "small_products",
    "to_device",
    "without_compiler",
]

_WITHOUT_BFLOAT16 = {"DEFAULT", "NO AVX", "AVX2"}  # as torch names classes of x86 processors
_SWITCH = "TORCH_DISABLE_NATIVE_JIT"  # read by torch while it is imported
_PROBES = ((64, 512, 64), (50, 16, 5), (128, 1024, 256), (7, 33, 129), (512, 64, 512))


def without_compiler() -> None:
    """Keep torch from compiling kernels where no C compiler is; call it before torch is imported.

    From version 2.14 on torch sends some operations on a GPU (outer products among them) to
    Triton, which builds its launchers with a C compiler and fails without one: on the nodes of
    many clusters. Torch's own kernels then do the work. A setting of the user's stands.
    """
    if _SWITCH not in os.environ and not _compiler():
        os.environ[_SWITCH] = "1"


def compiled_kernels() -> str:
    """Return in words whether torch may compile kernels for a GPU here, and what to do if not."""
    if compiler := _compiler():
        return f"torch may compile kernels ({compiler})"
    if os.environ.get(_SWITCH) == "1":
        return "no C compiler: torch uses the kernels it came with"
    return f"no C compiler, and torch may ask for one on a GPU: set {_SWITCH}=1"


def _compiler() -> str:
    """The C compiler that Triton would take; empty without one."""
    named = os.environ.get("CC")
    found = (shutil.which(name) for name in ([named] if named else ["clang", "gcc"]))
    return next((path for path in found if path), "")


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Turn `auto`, `cpu` or `cuda[:n]` into a device that is really there.

    A CUDA device always has an index: some functions of torch refuse one without.

    Raises:
        UserError: When the device is unknown or absent.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device '{name}'", fix="Use auto, cpu or cuda[:n]") from error
    if device.type not in {"cpu", "cuda"}:
        raise UserError(f"unsupported device '{name}'", fix="Use auto, cpu or cuda[:n]")
    if device.type == "cpu":
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device '{name}' is not available ({torch.cuda.device_count()} CUDA device(s) found)",
            fix="Use --device cpu or auto",
        )
    return torch.device(
        "cuda", torch.cuda.current_device() if device.index is None else device.index
    )


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device without waiting: on CUDA through pinned memory."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def array_to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting: on CUDA once, into pinned memory, then across."""
    import numpy as np
    import torch

    if device.type != "cuda":
        return torch.from_numpy(np.array(array))
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
    host = torch.empty(array.shape, dtype=kind, pin_memory=True)
    np.copyto(host.numpy(), array)
    return host.to(device, non_blocking=True)


def setup_numerics(device: torch.device) -> None:
    """Choose the matrix-product backend: fast, and still float32 where it matters.

    On CPU `medium` precision selects oneDNN, which is about twice as fast as the default on many
    machines. Processors with units for bfloat16 (AMX, AVX-512) round to it, by 0.4% a product: they
    keep the default.
    On CUDA TF32 is switched off, for products and convolutions (where torch has it on by default):
    it moves the features of an EfficientNet by 0.3%, and what trains side by side would depend on
    how much memory there is. `bf16` is there for speed, and says so in its name.
    """
    import torch

    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    elif _onednn_is_exact():
        torch.set_float32_matmul_precision("medium")
    else:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def kept_threads() -> Iterator[None]:
    """Keep the number of threads of a process over a block that runs numba.

    When numba starts its own threads it gives OpenMP, and so torch, all cores for the rest of the
    process, whatever ``OMP_NUM_THREADS`` asks for. Beside other processes these then wait for each
    other: small products took up to seventy times as long.
    """
    import threadpoolctl

    with threadpoolctl.threadpool_limits(None):  # sets nothing; at the end all is as it was
        yield


@contextlib.contextmanager
def small_products(device: torch.device) -> Iterator[None]:
    """Run a block of many small matrix products with the backend that starts them fastest.

    oneDNN takes tens of microseconds to set a product up, which for the attention of a few dozen
    tokens is more than the product itself.
    """
    import torch

    if device.type != "cpu":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Run a block in `fp32`, `bf16` or `fp16`; `fp16` means float32 on CPU.

    Half precision without a GPU is slower and less exact than float32, so a card's `fp16` means
    float32 on CPU. `bf16` is honoured everywhere.
    """
    import torch

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    if kind is None or (kind == torch.float16 and device.type == "cpu"):
        yield
        return
    with torch.autocast(device.type, dtype=kind):
        yield


@cache
def _onednn_is_exact() -> bool:
    """Return whether `medium` precision keeps float32 accuracy on this processor.

    oneDNN chooses by shape whether it rounds to bfloat16, so one small product proves nothing: a
    processor of the class that has bfloat16 units is not asked, any other for several shapes.
    """
    import torch

    if torch.backends.cpu.get_cpu_capability() not in _WITHOUT_BFLOAT16:
        return False
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return all(_product_error(*shape) < 1e-5 for shape in _PROBES)
    finally:
        torch.set_float32_matmul_precision(previous)


def _product_error(n: int, k: int, m: int) -> float:
    """Relative error of an (n, k) by (k, m) float32 product under the present setting."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, k, generator=generator)
    b = torch.randn(k, m, generator=generator)
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).norm() / exact.norm())
