"""Loads a model by the code that lies beside its weights on the hub, if the user agreed to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spade_bench.encoders.common.loadchecks import fit_or_fail, need_packages
from spade_bench.errors import WeightsError
from spade_bench.features.weightfiles import is_commit, own_folder, pinned
from spade_bench.types import EncoderCard, LoadOptions

__all__ = ["load_by_own_code", "own_files"]


def load_by_own_code(card: EncoderCard, options: LoadOptions, *, verb: str) -> Any:
    """Build a model of the hub by its own code, with its weights, strictly.

    Code of the hub runs only at the commit that the card or `--revision` names. Code in a folder of
    the user's own runs as it lies there.

    Args:
        card: The encoder's card; its needs name the repository and what the code imports.
        options: Weights (a folder with config.json and the code), revision, and
            `options["trust_remote_code"]`.
        verb: What the user does, such as `Extract`, for the messages.

    Raises:
        WeightsError: When a package, the weights, a commit or the user's consent is missing, or
            they do not fit; the message says what to do.
    """
    import transformers

    from spade_bench.encoders.common.hub import fetch

    _need_consent(card, options, verb=verb)
    repo, more = card.needs.repos[0], {}
    source: str | Path | None = _folder(card, options)
    if source is None:
        commit = _commit(card, options)
        # Says at once what is missing.
        fetch(repo, "config.json", gated=card.gated, revision=commit)
        source, more = repo, {"revision": commit, "code_revision": commit}
    elif not (Path(source) / "config.json").is_file():
        raise WeightsError("folder holds no config.json with code beside it", where=str(source))
    try:
        model, problems = transformers.AutoModel.from_pretrained(
            str(source), trust_remote_code=True, output_loading_info=True, **more
        )
    except (ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"its own code fails here ({type(error).__name__}: {reason})", where=card.name
        ) from error
    fit_or_fail(problems, str(source))
    return model


@contextlib.contextmanager
def own_files(card: EncoderCard, options: LoadOptions) -> Iterator[None]:
    """Have code of the hub that fetches further files take those beside it.

    Such code (TITAN's, for CONCH v1.5) asks the hub for a file of its own repository without a
    commit, wherever it was itself loaded from. While this holds it gets that of the same commit, or
    of the same folder of the user's own.

    Args:
        card: The encoder's card.
        options: As it was loaded.

    Raises:
        WeightsError: When a folder of the user's own lacks the file.
    """
    import huggingface_hub

    original = huggingface_hub.hf_hub_download
    folder, repo = _folder(card, options), card.needs.repos[0]

    def download(repo_id: str, filename: str, *args: Any, **more: Any) -> Any:
        if repo_id.lower() != repo.lower():
            return original(repo_id, filename, *args, **more)
        if folder is None:
            return original(
                repo_id, filename, *args, **{**more, "revision": _commit(card, options)}
            )
        if not (folder / filename).is_file():
            raise WeightsError(
                f"folder holds no {filename}, which its code needs", where=str(folder)
            )
        return str(folder / filename)

    huggingface_hub.hf_hub_download = download
    try:
        yield
    finally:
        huggingface_hub.hf_hub_download = original


def _folder(card: EncoderCard, options: LoadOptions) -> Path | None:
    """The user's own copy of the repository; None where the hub's is loaded."""
    if options.weights is not None:
        return Path(options.weights)
    return own_folder((card.name, *card.needs.folders))


def _commit(card: EncoderCard, options: LoadOptions) -> str:
    """Return the commit whose code runs.

    Raises:
        WeightsError: When none is pinned, or a branch or tag was asked for, which may move.
    """
    revision = pinned(card, options)
    if not revision:
        raise WeightsError(
            f"runs code of the hub repository {card.needs.repos[0]}, and its card pins no commit "
            "of it",
            where=card.name,
            fix="Read the code at one commit, then pass --revision COMMIT",
        )
    if not is_commit(revision):
        raise WeightsError(
            f"runs code of the hub, and '{revision}' is no commit in full (40 hex digits)",
            where=card.name,
            fix="Pass --revision COMMIT, as the history of its hub page shows it",
        )
    return revision


def _need_consent(card: EncoderCard, options: LoadOptions, *, verb: str) -> None:
    """Refuse to run a hub repository's code unless it can run here and the user agreed to it.

    Raises:
        WeightsError: When transformers is too new, a package is missing or consent is not given.
    """
    import transformers

    needs, name = card.needs, card.name
    major = int(transformers.__version__.split(".")[0])
    if needs.transformers_below is not None and major >= needs.transformers_below:
        raise WeightsError(
            f"its code needs transformers below {needs.transformers_below}, "
            f"here is {transformers.__version__}",
            where=name,
            fix=f"{verb} in an environment with 'transformers<{needs.transformers_below}'",
        )
    need_packages(name, needs.modules, needs.install)
    if not options.options.get("trust_remote_code"):
        raise WeightsError(
            f"would run code from the hub repository {needs.repos[0]} on this machine",
            where=name,
            fix="Read that code, then pass --trust-remote-code to agree",
        )
