"""The bibliography is complete and well formed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import samo
from samo import aggregation
from samo._citation import bibtex, source

BIB = (Path(samo.__file__).parent / "references.bib").read_text(encoding="utf-8")
KEYS = re.findall(r"@\w+\{(.*?),", BIB)


def test_keys_are_unique() -> None:
    assert len(KEYS) == BIB.count("@")
    assert len(set(KEYS)) == len(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_entry_is_well_formed(key: str) -> None:
    entry = bibtex([key])
    assert re.match(r"@(article|inproceedings)\{" + key + ",\n", entry)
    depth = 0
    for position, character in enumerate(entry):
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth > 0 or position in (*range(entry.index("{")), len(entry) - 1)
    assert depth == 0
    lines = entry.splitlines()[1:-1]
    matches = [re.fullmatch(r"  (\w+) += \{(.+)\},?", line) for line in lines]
    fields = {match[1]: match[2] for match in matches if match}
    assert len(fields) == len(lines)
    assert all(line.endswith(",") for line in lines[:-1])
    assert {"title", "author", "year"} <= set(fields)
    assert {"journal", "booktitle"} & set(fields)
    assert re.fullmatch(r"(19|20)\d\d", fields["year"])
    assert all(", " in name or name == "others" for name in fields["author"].split(" and "))


@pytest.mark.parametrize("key", KEYS)
def test_sources_are_plain_text(key: str) -> None:
    assert re.fullmatch(r"[\w .-]+ (19|20)\d\d(, \S+)?", source(key))


def test_sources() -> None:
    """One author, two with accents, more; a paper without an address."""
    assert source("desideri2012mgda") == "Désidéri 2012"
    assert source("crawshaw2021slaw") == "Crawshaw and Košecká 2021, arXiv:2109.08218"
    assert source("navon2022nash") == "Navon et al. 2022, arXiv:2202.01017"


@pytest.mark.parametrize("name", aggregation.available())
def test_every_method_but_the_plain_sums_has_its_paper(name: str) -> None:
    references = aggregation.describe(name).references
    assert set(references) <= set(KEYS)
    assert bool(references) == (name not in ("ls", "mean", "constant"))


def test_order_and_repetition() -> None:
    text = bibtex(["kwon2021asam", "foret2021sam", "kwon2021asam"])
    assert re.findall(r"@\w+\{(.*?),", text) == ["kwon2021asam", "foret2021sam"]
    assert bibtex([]) == ""


def test_unknown_key() -> None:
    with pytest.raises(LookupError, match=r"No entry 'a', 'b' in references\.bib"):
        bibtex(["foret2021sam", "a", "b"])
