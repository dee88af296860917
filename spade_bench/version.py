"""The version of this package, said here alone, and those of what makes the numbers with it."""

from __future__ import annotations

import platform

__all__ = ["__version__", "package_versions"]

__version__ = "0.1.0"


def package_versions() -> dict[str, str]:
    """Versions of what makes the numbers."""
    import numpy as np
    import torch

    return {
        "spade-bench": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }
