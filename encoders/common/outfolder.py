"""The output folder of a pretraining: held by one process, and never given to other settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spade_bench import console
from spade_bench.config import read_yaml
from spade_bench.errors import ConfigError
from spade_bench.files import write_text
from spade_bench.leases import exclusive

__all__ = ["begun", "hold", "store_settings"]

_LOCK, _SETTINGS = ".pretrain.lease", "config.yaml"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold an output folder while a pretraining writes to it; a second one waits, saying for whom.

    Args:
        folder: The folder; made where it does not exist.
    """

    def waits(holder: Mapping[str, Any]) -> None:
        who = "another pretrain"  # it has only just begun
        if holder:
            who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        console.say(f"{folder} is in use by {who}; waiting for it to end")

    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / _LOCK, waits=waits):
        yield


def begun(folder: Path, model: str) -> bool:
    """Return whether ``folder`` holds a model or the checkpoints of one.

    Args:
        folder: Output folder of a pretraining.
        model: Name of the file that describes a finished model.
    """
    return (folder / model).exists() or any((folder / "checkpoints").glob("*.safetensors"))


def store_settings(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    keep: bool,
    ignored: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Write the settings of a pretraining, unless the folder belongs to others.

    Args:
        folder: Output folder.
        settings: All settings as plain values.
        keep: Whether the folder holds training that other settings must not replace.
        ignored: Dotted names of settings that do not change the model.
        defaults: What settings are where a folder of an older version does not name them.

    Raises:
        ConfigError: When the folder was made with other settings; it names them.
    """
    import yaml

    path = folder / _SETTINGS
    text = yaml.safe_dump(dict(settings), sort_keys=False)
    if keep and path.is_file():
        before, now = _flat(read_yaml(path)), _flat(yaml.safe_load(text))
        before = _flat(yaml.safe_load(yaml.safe_dump(dict(defaults or {})))) | before
        changed = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name not in ignored
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ConfigError(
                f"holds a model of other settings: {'; '.join(changed[:3])}{more}",
                where=str(folder),
                fix="Choose another --out, or pass --overwrite to replace it",
            )
    write_text(path, text)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
