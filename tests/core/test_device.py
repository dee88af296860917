"""Products are float32 wherever they run."""

from __future__ import annotations

from collections.abc import Iterator

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
