"""Numbers of things in words, for what commands print."""

from __future__ import annotations

import re


def many(count: int, noun: str) -> str:
    """Return a number of things in words: "1 point", "2,000 sketches"; `noun` names one of them."""
    plural = noun + ("es" if noun.endswith(("ch", "ss")) else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def some(count: int, plural: str) -> str:
    """Return the same where the noun names more than one of them, as the names of modalities do."""
    return many(count, re.sub(r"(?<=ch|ss)es$|s$", "", plural)) if count == 1 else f"{count:,} {plural}"
