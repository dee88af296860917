"""Stages that run once: each leaves a marker, and a changed setting redoes it and what follows.

A marker records a digest of the files its stage wrote. They are checked when the stage is found
done, so that a file damaged at rest is named and made again instead of being trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spade_bench import console
from spade_bench.errors import ConfigError, DataError
from spade_bench.files import hash_obj, read_sealed, write_sealed

__all__ = ["Digest", "Stages"]

Digest = Callable[[Path], str]
_VERSION = 1  # raise when a stage's outcome changes without its settings


class Stages:
    """A chain of stages under one folder.

    A stage's key hashes its own settings and the key of the stage before it. Where the marker of
    a stage carries the same key and its files are there and whole, the stage is not run again.

    Args:
        folder: Where the markers lie.
        keep: Refuse to run a stage again that ran with other settings or data, because a model
            was made from it.
    """

    def __init__(self, folder: Path, keep: bool = False) -> None:
        self.folder = folder
        self.keep = keep
        self.key = hash_obj({"version": _VERSION})

    def run(
        self,
        name: str,
        settings: Mapping[str, Any],
        work: Callable[[], Mapping[str, Any]],
        *,
        outputs: Mapping[Path, Digest] | None = None,
        older: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Runs a stage unless it is done, and says which.

        Args:
            name: Of the stage.
            settings: Everything that determines its outcome beside the stages before it.
            work: Does it; returns what the next stages need as plain JSON values, with a
                sentence under `said`.
            outputs: Files that must exist for the stage to count as done, and how to tell
                whether they are as the stage left them.
            older: The settings as older versions wrote them; a stage that ran with these is done.

        Returns:
            What `work` returned, now or when it ran.

        Raises:
            ConfigError: When settings or data differ from those of a model that is to be kept.
        """
        before, self.key = self.key, _key(self.key, name, settings)
        if older is not None and self._ran_with(name) == _key(before, name, older):
            self.key = _key(before, name, older)
        files = dict(outputs or {})
        found = self._done(name, files)
        if found is not None:
            console.say(f"{name}: done before; {found['said']}")
            return found
        marker = self.folder / f"{name}.json"
        marker.unlink(missing_ok=True)
        start = time.monotonic()
        result = dict(work())
        seconds = round(time.monotonic() - start, 1)
        digests = {path.name: digest(path) for path, digest in files.items()}
        content = {"key": self.key, "seconds": seconds, "result": result, "outputs": digests}
        write_sealed(marker, content)
        console.say(f"{name}: {result['said']} ({seconds:.1f} s)")
        return result

    def _ran_with(self, name: str) -> str:
        """The key in the marker of a stage; empty without one."""
        try:
            return str(read_sealed(self.folder / f"{name}.json").get("key", ""))
        except DataError:  # said when the marker is looked at
            return ""

    def _done(self, name: str, files: Mapping[Path, Digest]) -> dict[str, Any] | None:
        """The result of a stage that ran with the same settings and whose files are whole."""
        marker = self.folder / f"{name}.json"
        if not marker.is_file():
            return None
        try:
            found = read_sealed(marker)
        except DataError as error:
            console.warn(f"{error} The stage '{name}' runs again")
            return None
        if found.get("key") != self.key:
            if self.keep:
                raise ConfigError(
                    f"the data or settings of '{name}' have changed since its model was trained",
                    where=str(self.folder.parent.parent),
                    fix="Choose another --out, or pass --overwrite to train anew",
                )
            return None
        recorded = found.get("outputs", {})
        for path, digest in files.items():
            if not path.is_file():
                return None
            try:
                whole = digest(path) == recorded.get(path.name)
            except (OSError, KeyError, ValueError, RuntimeError):  # no longer opens
                whole = False
            if not whole:
                console.warn(
                    f"{path} is damaged, or was changed since '{name}' wrote it: made again"
                )
                return None
        result: dict[str, Any] = found["result"]
        return result


def _key(before: str, name: str, settings: Mapping[str, Any]) -> str:
    return hash_obj({"before": before, "stage": name, "settings": settings})
