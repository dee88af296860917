"""spade-bench: a benchmark harness for computational pathology encoders, with a working SPADE."""

from pathlib import Path as _Path

# The rooms come first: the verbs of the same names must stay what `sb.explain` and the like are.
from spade_bench import device as _device
from spade_bench import explain as _explain  # noqa: F401
from spade_bench import plugins as _plugins
from spade_bench import robustness as _robustness  # noqa: F401
from spade_bench.api import (
    encode,
    evaluate,
    explain,
    export,
    export_leaderboard,
    extract,
    fit,
    import_results,
    load_encoder,
    load_results,
    merge,
    pretrain,
    pull,
    push,
    read_features,
    read_spots,
    robustness,
)
from spade_bench.errors import SpadeBenchError, UserError
from spade_bench.types import Bag, Case, Cohort, EncoderCard, Episode, LoadOptions, TaskCard
from spade_bench.version import __version__

__all__ = [
    "Bag",
    "Case",
    "Cohort",
    "EncoderCard",
    "Episode",
    "LoadOptions",
    "SpadeBenchError",
    "TaskCard",
    "UserError",
    "__version__",
    "encode",
    "evaluate",
    "explain",
    "export",
    "export_leaderboard",
    "extract",
    "fit",
    "import_results",
    "load_encoder",
    "load_results",
    "merge",
    "pretrain",
    "pull",
    "push",
    "read_features",
    "read_spots",
    "robustness",
]

# In a checkout without the in-package links (Windows writes them as small text files) the folders
# beside the package are found where they lie.
_here = _Path(__file__).parent
if not (_here / "encoders").is_dir() and (_here.parent / "encoders" / "__init__.py").is_file():
    __path__.append(str(_here.parent))

_plugins.install()
_device.without_compiler()
