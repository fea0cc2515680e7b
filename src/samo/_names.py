"""Error messages for unknown names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, found: str, allowed: Iterable[str]) -> str:
    """Formats the error message for an unknown name.

    Args:
        what: The kind of the name, for instance ``"benchmark"``.
        found: The unknown name.
        allowed: The known names.

    Returns:
        One line with the closest known name, if one is close, and all known names.

    Example:
        >>> unknown("benchmark", "digit", ["digits", "qm9"])
        "unknown benchmark 'digit', did you mean 'digits'? Known: digits, qm9."
    """
    names = list(allowed)
    by_lower = {name.lower(): name for name in names}
    near = get_close_matches(found.lower(), by_lower, n=1, cutoff=0.4)
    hint = f", did you mean {by_lower[near[0]]!r}?" if near else "."
    known = f"Known: {', '.join(names)}." if names else "None is available."
    return f"unknown {what} {found!r}{hint} {known}"
