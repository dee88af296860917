"""Fetches weights from the Hugging Face hub, or says in one line what is missing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from spade_bench.errors import WeightsError
from spade_bench.features.weightfiles import cached, cached_commits

__all__ = ["Kind", "fetch", "reachable"]

_PROBE_SECONDS = 4.0
_probed: dict[str, bool] = {}

Kind = Literal["model", "dataset"]


def reachable() -> bool:
    """Return whether the hub answers; probed once a process, for at most a few seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if constants.ENDPOINT not in _probed:
        _probed[constants.ENDPOINT] = _reachable(constants.ENDPOINT)
    return _probed[constants.ENDPOINT]


def fetch(
    repos: str | Sequence[str],
    files: str | Sequence[str],
    *,
    gated: bool,
    kind: Kind = "model",
    revision: str = "",
) -> Path:
    """Return the local path of a hub file, downloading it when it is not in the cache.

    The hub client retries for half a minute without a network, so reachability is probed first.

    Args:
        repos: Repository on the hub, such as `MahmoodLab/UNI`; of several, the first that exists.
        files: File in it; of several, the first that exists.
        gated: Whether its licence has to be accepted.
        kind: Whether it is a repository of a model or of a data set.
        revision: Commit to take; empty for the main branch.

    Raises:
        WeightsError: Without network, licence or token; the message says what to do.
    """
    repos = (repos,) if isinstance(repos, str) else tuple(repos)
    files = (files,) if isinstance(files, str) else tuple(files)
    for repo in repos:
        for file in files:
            if (path := cached(repo, file, kind=kind, revision=revision)) is not None:
                return path
    if not reachable():
        _refuse_other_commits(repos, files, kind, revision)
        raise WeightsError(
            "weights are not in the local cache and the hub cannot be reached",
            where=repos[0],
            fix=f"Download {files[0]} elsewhere and pass --weights FILE",
        )
    refusal: Exception | None = None
    for repo in repos:
        for file in files:
            downloaded = _download(repo, file, kind, revision)
            if isinstance(downloaded, Path):
                return downloaded
            refusal = refusal or downloaded
    what = "the hub refuses access" if gated else "the hub has no such file for this token"
    raise WeightsError(
        what,
        where=repos[0],
        fix="Accept the licence on its hub page, run `hf auth login`, or pass --weights FILE",
    ) from refusal


def _refuse_other_commits(
    repos: Sequence[str], files: Sequence[str], kind: Kind, revision: str
) -> None:
    """Say that the cache holds the file, but of another commit than the one to load.

    Raises:
        WeightsError: Naming that commit, where there is one.
    """
    for repo in repos if revision else ():
        for file in files:
            for commit in cached_commits(repo, file, kind=kind):
                raise WeightsError(
                    f"the cache holds {file} of commit {commit}, not of {revision}, and the hub "
                    "cannot be reached",
                    where=repo,
                    fix=f"Pass --revision {commit} to take it, or download the other elsewhere and "
                    "pass --weights FILE",
                )


def _download(repo: str, file: str, kind: Kind, revision: str) -> Path | Exception:
    """Download one file; return the error where another file or repository may do instead."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    more: dict[str, Any] = {} if kind == "model" else {"repo_type": kind}
    if revision:
        more["revision"] = revision
    try:
        return Path(hf_hub_download(repo, file, **more))
    except RevisionNotFoundError as error:
        raise WeightsError(
            f"the hub has no revision {revision}", where=repo, fix="Correct --revision"
        ) from error
    except (GatedRepoError, RepositoryNotFoundError, EntryNotFoundError) as error:
        return error
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"download failed ({type(error).__name__})",
            where=repo,
            fix="Try again or use --weights",
        ) from error


def _reachable(endpoint: str) -> bool:
    """Probe in a thread: looking up a name has no time limit of its own."""
    answered: list[bool] = []
    thread = threading.Thread(target=lambda: answered.append(_probe(endpoint)), daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return bool(answered and answered[0])


def _probe(endpoint: str) -> bool:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except (urllib.error.URLError, OSError, ValueError):
        return False
