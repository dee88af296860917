"""What the hub says about the user's access: one probe for all, then one short question each."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from spade_bench.encoders.common import hub as _hub

__all__ = ["Hub", "ask", "may_read"]

_WORKERS = 8
_SECONDS = 10.0


@dataclass(frozen=True)
class Hub:
    """The hub as seen from here.

    Attributes:
        endpoint: Its address.
        reachable: Whether it answers.
        offline: True when the environment forbids asking (HF_HUB_OFFLINE).
        token: Whether the user has logged in.
        seconds: How long the probe took.
    """

    endpoint: str
    reachable: bool
    offline: bool
    token: bool
    seconds: float

    def line(self) -> str:
        """One line for people."""
        if self.offline:
            state = "not asked, because HF_HUB_OFFLINE is set"
        elif self.reachable:
            state = f"reachable ({self.seconds:.1f} s)"
        else:
            state = f"not reachable (probed for {self.seconds:.1f} s)"
        return f"hub {self.endpoint}: {state}; {'logged in' if self.token else 'no token'}"


def ask() -> Hub:
    """Probe the hub once and look for a token."""
    from huggingface_hub import constants, get_token

    start = time.monotonic()
    reachable = _hub.reachable()
    seconds = time.monotonic() - start
    return Hub(
        endpoint=constants.ENDPOINT,
        reachable=reachable,
        offline=bool(constants.HF_HUB_OFFLINE),
        token=get_token() is not None,
        seconds=round(seconds, 2),
    )


def may_read(repos: Iterable[tuple[str, _hub.Kind]]) -> dict[str, bool | None]:
    """Ask for each gated repository whether the user's token may read it.

    Args:
        repos: Repositories and their kinds.

    Returns:
        Repository -> yes, no, or None where the hub did not answer in time.
    """
    asked = sorted(set(repos))
    pool = ThreadPoolExecutor(_WORKERS)
    futures = {repo: pool.submit(_may_read, repo, kind) for repo, kind in asked}
    end = time.monotonic() + _SECONDS
    out: dict[str, bool | None] = {}
    for repo, future in futures.items():
        try:
            out[repo] = future.result(timeout=max(0.0, end - time.monotonic()))
        except TimeoutError:
            out[repo] = None
    pool.shutdown(wait=False, cancel_futures=True)
    return out


def _may_read(repo: str, kind: _hub.Kind) -> bool | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().auth_check(repo, repo_type=kind)
    except (GatedRepoError, RepositoryNotFoundError):
        return False
    except (HfHubHTTPError, OSError):
        return None
    return True
