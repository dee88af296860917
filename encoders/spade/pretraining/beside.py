"""Train a second model in a thread while the first one trains: for a GPU that has room for both."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from spade_bench.encoders.spade.pretraining.training import TrainingStopped

__all__ = ["training_beside"]


@contextlib.contextmanager
def training_beside(train: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run ``train`` in a thread beside a block; wait for it at the block's end.

    Where the block fails or is interrupted, the thread is told to stop and waited for: what it had
    reached lies in its checkpoints.

    Args:
        train: Trains; it ends early once the event that it is given is set.

    Raises:
        Exception: What ``train`` raised, after the block.
    """
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            train(stop)
        except TrainingStopped:
            return
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="training beside", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        thread.join()
    if failed:
        raise failed[0]
