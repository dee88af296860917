"""Which data sets of the contamination ledger an encoder saw, as one letter for each."""

from __future__ import annotations

__all__ = ["LEDGER", "ledger", "ledger_notes"]

LEDGER = ("TCGA", "CPTAC", "PANDA", "CAMELYON16", "HEST-1k")


def ledger(flags: str) -> tuple[str, ...]:
    """Return the data sets of `LEDGER` whose flag is `?`: those of which nobody says anything.

    Args:
        flags: One letter for each data set of `LEDGER`: `Y` seen in pretraining, `n` stated or
            enumerated as absent, `p` a private corpus that names none of them, `?` unknown, `-`
            natural images.
    """
    return tuple(name for name, flag in zip(LEDGER, flags, strict=True) if flag == "?")


def ledger_notes(flags: str) -> tuple[str, ...]:
    """Return the flags as sentences for a card's notes. See `ledger`."""
    words = {
        "n": "Stated or enumerated as absent from pretraining",
        "p": "Private corpus that names none of (weaker than absent)",
        "?": "Unknown whether seen in pretraining",
    }
    by_flag = {
        flag: [name for name, seen in zip(LEDGER, flags, strict=True) if seen == flag]
        for flag in words
    }
    return tuple(f"{words[flag]}: {', '.join(names)}." for flag, names in by_flag.items() if names)
