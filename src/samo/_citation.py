"""References of methods, as BibTeX and in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from unicodedata import normalize

# LaTeX accents that occur in names, and the combining characters for them.
_ACCENTS = {"'": "\u0301", "v": "\u030c"}


def bibtex(keys: Iterable[str]) -> str:
    """Returns the entries of ``references.bib`` with the given keys.

    Args:
        keys: The keys, in the order of the result; duplicates are ignored.

    Returns:
        The entries, separated by empty lines.

    Raises:
        LookupError: If a key is unknown.

    Example:
        >>> from samo._citation import bibtex
        >>> print(bibtex(["foret2021sam"]).splitlines()[0])
        @inproceedings{foret2021sam,
    """
    entries = _entries()
    wanted = dict.fromkeys(keys)
    if unknown := [key for key in wanted if key not in entries]:
        raise LookupError(f"No entry {', '.join(map(repr, unknown))} in references.bib.")
    return "\n\n".join(entries[key] for key in wanted)


def source(key: str) -> str:
    """Returns authors, year and URL of a paper in one line.

    Args:
        key: The key in ``references.bib``.

    Returns:
        Authors, year and URL.

    Raises:
        LookupError: If a key is unknown.

    Example:
        >>> from samo._citation import source
        >>> source("kwon2021asam")
        'Kwon et al. 2021, arXiv:2102.11600'
    """
    entry = bibtex([key])
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", entry, re.MULTILINE))
    surnames = [_plain(name.split(",")[0]) for name in fields["author"].split(" and ")]
    who = " and ".join(surnames) if len(surnames) <= 2 else f"{surnames[0]} et al."
    where = fields.get("url", "").removeprefix("https://").replace("arxiv.org/abs/", "arXiv:")
    return f"{who} {fields['year']}" + (f", {where}" if where else "")


def _plain(latex: str) -> str:
    """Removes braces, and replaces LaTeX accents by characters."""
    accented = re.sub(
        r"\\(['v])\s*\{?(\w)\}?", lambda m: normalize("NFC", m[2] + _ACCENTS[m[1]]), latex
    )
    return re.sub(r"[{}]", "", accented)


@cache
def _entries() -> dict[str, str]:
    text = files("samo").joinpath("references.bib").read_text(encoding="utf-8")
    found = re.finditer(r"^@\w+\{([^,\s]+),\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    return {entry[1]: entry[0] for entry in found}
