"""The one exception type that means: the user can mend this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClisonixError(Exception):
    """Bad input, a missing file, a damaged file: something a user can put right.

    The message is one sentence that says what was given, what was expected and what to do. The command
    line prints it without a traceback and exits with code 2.
    """


# Above so many, a list of valid words hides the sentence that it ends.
MOST_NAMED, FEW_NAMED = 40, 5


def nearest(given: str, valid: Iterable[str]) -> str:
    """A hint that names the valid word closest to `given`.

    Returns:
        `"; did you mean 'x'?"` when some valid word is close, else `"; valid are a, b, c"` (of very many the first).
    """
    words = sorted(valid)
    close = difflib.get_close_matches(given, words, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(words) > MOST_NAMED:
        return f"; {len(words)} are valid, such as " + ", ".join(words[:FEW_NAMED])
    return "; valid are " + ", ".join(words)
