"""Loads a model by the code that lies beside its weights on the hub, if the user agreed to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spade_bench.encoders.common.loadchecks import fit_or_fail, need_packages
from spade_bench.encoders.common.weights import own_folder
from spade_bench.errors import WeightsError
from spade_bench.types import EncoderCard, LoadOptions

__all__ = ["load_by_own_code"]


def load_by_own_code(
    card: EncoderCard,
    repo: str,
    names: tuple[str, ...],
    *,
    needs: tuple[str, ...],
    transformers_below: int | None,
    options: LoadOptions,
    verb: str,
) -> Any:
    """Build a model of the hub by its own code, with its weights, strictly.

    Args:
        card: The encoder's card.
        repo: Its hub repository.
        names: Names under which a folder of the user's own may hold a copy.
        needs: Modules that the code imports.
        transformers_below: First major version of transformers that the code does not run with.
        options: Weights (a folder with config.json and the code) and
            `options["trust_remote_code"]`.
        verb: What the user does, such as `Extract`, for the messages.

    Raises:
        WeightsError: When a package, the weights or the user's consent is missing, or they do not
            fit; the message says what to do.
    """
    import transformers

    from spade_bench.encoders.common.hub import fetch

    _need_consent(card.name, repo, transformers_below, needs, options, verb=verb)
    source: str | Path | None = options.weights or own_folder(names)
    if source is None:
        fetch(repo, "config.json", gated=card.gated)  # says at once what is missing
        source = repo
    elif not (Path(source) / "config.json").is_file():
        raise WeightsError("folder holds no config.json with code beside it", where=str(source))
    try:
        model, problems = transformers.AutoModel.from_pretrained(
            str(source), trust_remote_code=True, output_loading_info=True
        )
    except (ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"its own code fails here ({type(error).__name__}: {reason})", where=card.name
        ) from error
    fit_or_fail(problems, str(source))
    return model


def _need_consent(
    name: str,
    repo: str,
    transformers_below: int | None,
    needs: tuple[str, ...],
    options: LoadOptions,
    *,
    verb: str,
) -> None:
    """Refuse to run a hub repository's code unless it can run here and the user agreed to it.

    Raises:
        WeightsError: When transformers is too new, a package is missing or consent is not given.
    """
    import transformers

    major = int(transformers.__version__.split(".")[0])
    if transformers_below is not None and major >= transformers_below:
        raise WeightsError(
            f"its code needs transformers below {transformers_below}, "
            f"here is {transformers.__version__}",
            where=name,
            fix=f"{verb} in an environment with 'transformers<{transformers_below}'",
        )
    need_packages(name, needs, " ".join(needs))
    if not options.options.get("trust_remote_code"):
        raise WeightsError(
            f"would run code from the hub repository {repo} on this machine",
            where=name,
            fix="Read that code, then pass --trust-remote-code to agree",
        )
