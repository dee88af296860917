from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device; test_pretended.py runs this where CUDA can be pretended")


@pytest.fixture
def pretended() -> bool:
    """Whether CUDA is only pretended here."""
    module = sys.modules.get("pretend_cuda")
    return module is not None and not module.why_not()


@pytest.fixture(autouse=True)
def _graphs(pretended: bool) -> Iterator[None]:
    """Where no GPU captures graphs, record and repeat them."""
    if not pretended:
        yield
        return
    from recorded_graphs import recorded_graphs

    with recorded_graphs():
        yield
