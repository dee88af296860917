"""A process that trains the experts it is told to: ``python -m ...training.worker JOB``.

It reads expert numbers from stdin, one per line, and writes one JSON object per line to stdout: an
epoch's row, the end of an expert, or an error. When stdin closes it ends at once, so no worker
outlives a parent that was killed.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(job_path: str) -> int:
    """Serve one job; returns the exit status."""
    orders: queue.Queue[int] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    try:
        _serve(Path(job_path), orders)
    except Exception as error:
        from spade_bench.errors import UserError

        traceback.print_exc()
        report: dict[str, Any] = {"kind": "error", "what": str(error) or type(error).__name__}
        if isinstance(error, UserError):
            report |= {"what": error.what, "where": error.where, "fix": error.fix, "user": True}
        _write(report)
    return 1


def _serve(job_path: Path, orders: queue.Queue[int]) -> None:
    import torch

    from spade_bench.config import build
    from spade_bench.device import setup_numerics
    from spade_bench.encoders.common.sealedfolder import read_tensors
    from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
    from spade_bench.encoders.spade.pretraining.training.job import Job, Keeper
    from spade_bench.encoders.spade.pretraining.training.sharedarrays import open_shared
    from spade_bench.encoders.spade.pretraining.training.single import train_in_turn

    torch.set_num_threads(1)
    content = json.loads(job_path.read_text(encoding="utf-8"))
    device = torch.device("cpu")
    setup_numerics(device)
    data = open_shared(content["data"])
    config = build(TrainingConfig, content["config"], str(job_path))
    keeper = Keeper(
        Path(content["out_dir"]), content["fingerprints"], content["checkpoint_seconds"]
    )

    def report(row: dict[str, Any]) -> None:
        _write({"kind": "epoch", "row": row})

    path = content["initial"]
    initial = None if path is None else read_tensors(Path(path))[0]
    job = Job(data, config, content["seed"], device, keeper, report, initial)
    while True:
        expert = orders.get()
        train_in_turn(job, [expert])
        _write({"kind": "done", "expert": expert})


def _listen(orders: queue.Queue[int]) -> None:
    for line in sys.stdin:
        orders.put(int(line))
    os._exit(0)


def _write(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
