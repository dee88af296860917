"""Names of samples, patients and cases that are kept back, but can still be compared.

A model that is passed on says what trained it, so that nobody tests it on the same patients. Where
the names themselves must stay at home, a salted, slow hash stands in the place of each:
``withheld:1:SALT:DIGEST``. Whoever has a name can ask whether it is among them; nobody can read
them off. This hides names from a reader, not from an attacker: who holds a list of candidates, such
as all numbers of a hospital, can try each at the cost of one hash. Where even that is too much, the
single entry ``withheld`` stands for all of them, and nothing can be compared.

The hash is PBKDF2-HMAC-SHA256 (RFC 8018) of the name without surrounding spaces and case.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["WITHHELD", "KnownNames", "is_hidden", "new_salt", "withheld"]

WITHHELD = "withheld"
"""Stands for any number of names of which not even hashes are passed on."""
_ROUNDS = 10_000  # some milliseconds per name and salt
_BYTES = 16
_HIDDEN = re.compile(r"withheld:1:(?P<salt>[0-9a-f]{32}):(?P<digest>[0-9a-f]{32})")


def new_salt() -> str:
    """Return a salt, 32 hex digits; names hidden with different salts cannot be linked."""
    return secrets.token_hex(_BYTES)


def withheld(name: str, salt: str) -> str:
    """Return what stands in the place of a name.

    Args:
        name: The name.
        salt: What :func:`new_salt` returned; one for all names that are passed on together.
    """
    return f"{WITHHELD}:1:{salt}:{_digest(name.strip().casefold(), salt)}"


def is_hidden(name: str) -> bool:
    """Whether a name was kept back."""
    return name == WITHHELD or _HIDDEN.fullmatch(name) is not None


class KnownNames:
    """Names, some of which may be hidden, that others are looked up in.

    Args:
        names: Plain names, what `withheld` made of others, or `WITHHELD`.

    Attributes:
        incomplete: Whether names were kept back without a hash, so that a name that is not found
            may be among them nevertheless.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.incomplete = False
        self._plain: dict[str, str] = {}
        self._hidden: dict[str, dict[str, str]] = {}
        for name in names:
            if name == WITHHELD:
                self.incomplete = True
            elif found := _HIDDEN.fullmatch(name):
                self._hidden.setdefault(found["salt"], {})[found["digest"]] = name
            else:
                self._plain[name.casefold()] = name

    def find(self, name: str) -> str | None:
        """Return the entry that stands for a name, whatever its case; None where none does."""
        plain = self._plain.get(name.casefold())
        if plain is not None:
            return plain
        bare = name.strip().casefold()
        entries = (kept.get(_digest(bare, salt)) for salt, kept in self._hidden.items())
        return next((entry for entry in entries if entry is not None), None)

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None


@lru_cache(maxsize=200_000)
def _digest(bare: str, salt: str) -> str:
    made = hashlib.pbkdf2_hmac(
        "sha256", bare.encode("utf-8", "surrogatepass"), bytes.fromhex(salt), _ROUNDS, _BYTES
    )
    return made.hex()
