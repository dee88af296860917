"""Products are float32 wherever they run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spade_bench import device


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    device._onednn_is_exact.cache_clear()
    yield
    device._onednn_is_exact.cache_clear()
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("capability", ["AVX512", "AMX", "SVE256", "unheard of"])
def test_a_processor_that_may_have_bfloat16_keeps_the_default(
    capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    device.setup_numerics(torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("rounded", range(len(device._PROBES)))
def test_one_shape_that_rounds_is_enough(rounded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    errors = {shape: 4e-3 if i == rounded else 1e-7 for i, shape in enumerate(device._PROBES)}
    monkeypatch.setattr(device, "_product_error", lambda *shape: errors[shape])
    device.setup_numerics(torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_is_chosen_here_is_float32_and_the_probe_leaves_no_trace() -> None:
    torch.set_float32_matmul_precision("high")
    device._onednn_is_exact()
    assert torch.get_float32_matmul_precision() == "high"
    device.setup_numerics(torch.device("cpu"))
    for shape in ((1, 1024, 256), (300, 256, 7), (2000, 512, 128)):
        assert device._product_error(*shape) < 1e-5


def test_the_error_of_bfloat16_would_be_seen() -> None:
    a, b = torch.randn(64, 512), torch.randn(512, 64)
    low = (a.bfloat16() @ b.bfloat16()).double()
    assert (low - a.double() @ b.double()).norm() / (a.double() @ b.double()).norm() > 1e-3


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "auto"])
def test_a_cuda_device_has_an_index(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert device.resolve_device(name).index == int(name == "cuda:1")
    assert device.resolve_device(torch.device("cuda")) == torch.device("cuda:0")


@pytest.mark.parametrize(("compiler", "own"), [("", ""), ("", "0"), ("gcc", "")])
def test_torch_is_kept_from_compiling_where_nothing_can(
    tmp_path: Path, compiler: str, own: str
) -> None:
    if compiler:
        (tmp_path / compiler).write_text("#!/bin/sh")
        (tmp_path / compiler).chmod(0o755)
    work = (
        "import spade_bench, os, sys; assert 'torch' not in sys.modules;"
        "from spade_bench.device import compiled_kernels;"
        "print(os.environ.get('TORCH_DISABLE_NATIVE_JIT', '-'), compiled_kernels())"
    )
    kept = {k: v for k, v in os.environ.items() if k not in {"CC", "TORCH_DISABLE_NATIVE_JIT"}}
    env = kept | {"PATH": str(tmp_path)} | ({"TORCH_DISABLE_NATIVE_JIT": own} if own else {})
    run = subprocess.run(
        [sys.executable, "-c", work], capture_output=True, text=True, env=env, check=True
    )
    switch, _, words = run.stdout.partition(" ")
    assert switch == ("-" if compiler else own or "1")
    assert ("no C compiler" in words) == (not compiler)
    assert ("set TORCH_DISABLE_NATIVE_JIT=1" in words) == bool(own)
