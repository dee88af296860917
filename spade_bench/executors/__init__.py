"""Where work runs: processes of this machine, Ray, Slurm. One interface, no scheduler of its own.

A command that is spread over workers is started once for each of them, from a small file, the
*unit*: the command's settings and a seat. All workers know all of the work; leases in the folder
that they write to say who does what (`spade_bench.leases`). So it does not matter how many there
are, when they begin, or which of them die: who is left does the rest, and a worker that ends well
has seen all of the work done.
"""

from __future__ import annotations

from spade_bench.executors.choosing import EXECUTORS, ExecutorSettings, executor_settings
from spade_bench.executors.following import spread, worker_count
from spade_bench.executors.workunits import Unit

__all__ = ["EXECUTORS", "ExecutorSettings", "Unit", "executor_settings", "spread", "worker_count"]
