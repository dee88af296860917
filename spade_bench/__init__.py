"""spade-bench: a benchmark harness for computational pathology encoders, with a working SPADE."""

from spade_bench import plugins as _plugins
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
]

_plugins.install()
