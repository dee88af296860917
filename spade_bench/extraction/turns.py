"""Which slide is next, where several processes write to one folder: each slide by one of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from spade_bench.extraction.sharing import Sharing
from spade_bench.extraction.stream import Job
from spade_bench.leases import Lease, Leases

__all__ = ["Turns"]

_POLL = 0.5  # seconds between two looks at slides that others hold


class Turns:
    """Slides to do, handed out while no other process works on them.

    Args:
        todo: Slides with the attributes of their features.
        leases: Say what other processes work on.
        is_current: Whether the features of a slide have been written meanwhile.
        sharing: How the work is shared.

    Attributes:
        elsewhere: Slides that other processes have written meanwhile.
        failed: Slide id -> why another worker could not do it.
    """

    def __init__(
        self,
        todo: Sequence[tuple[Job, Mapping[str, str]]],
        leases: Leases,
        is_current: Callable[[Job], bool],
        sharing: Sharing,
    ) -> None:
        self._waiting = deque(sharing.order(todo))
        self._leases, self._is_current, self._sharing = leases, is_current, sharing
        self._held: dict[str, Lease] = {}
        self.elsewhere: list[str] = []
        self.failed: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> tuple[Job, Mapping[str, str]] | None:
        """Return the next slide that is free; None where others hold all that is left."""
        for _ in range(len(self._waiting)):
            job, attrs = self._waiting.popleft()
            lease = self._leases.take(job.slide_id)
            if lease is None:
                self._waiting.append((job, attrs))
                continue
            why = self._sharing.noted(job.slide_id)
            if self._is_current(job):
                self.elsewhere.append(job.slide_id)
            elif why is not None:
                self.failed[job.slide_id] = why
            else:
                self._held[job.slide_id] = lease
                return job, attrs
            lease.release()
        return None

    def wait(self) -> bool:
        """Wait a little for others, where they hold what is left; whether something is left."""
        if self._waiting:
            time.sleep(_POLL)
        return bool(self._waiting)

    def over(self, slide_id: str, why: str | None = None) -> None:
        """Give a slide free that is done, or that cannot be done."""
        if why is not None:
            self._sharing.note(slide_id, why)
        if (lease := self._held.pop(slide_id, None)) is not None:
            lease.release()

    def close(self) -> None:
        """Give everything free."""
        for slide_id in list(self._held):
            self.over(slide_id)
        self._leases.close()
