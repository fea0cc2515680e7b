"""Tests README and documentation: Python examples run, commands can be pasted, links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GENERATED = {"_generated", "_build"}
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))
    if GENERATED.isdisjoint(path.parts)
}
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CONSOLE = re.compile(r"^```(?:console|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDED = re.compile(r"^```\{(?:literalinclude|include)\} (\S+)$", re.MULTILINE)


def test_the_readme_has_examples() -> None:
    assert FENCE.search(DOCUMENTS["README.md"])


def test_the_readme_is_short() -> None:
    assert len(DOCUMENTS["README.md"].split()) <= 1500


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if CONSOLE.search(text)])
def test_commands_can_be_pasted(name: str) -> None:
    """No typographic dash or quote, which a shell would not understand."""
    assert not re.findall("[‐-―‘-‟−]", "".join(CONSOLE.findall(DOCUMENTS[name])))


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if FENCE.search(text)])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a document run in order, as one program."""
    text = DOCUMENTS[name]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in FENCE.finditer(text):
        # Blank lines give tracebacks the line numbers of the document.
        above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], name, "exec"), namespace)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name: str) -> None:
    prose = ANY_FENCE.sub("", DOCUMENTS[name])
    links = [link.partition("#")[0] for link in LINK.findall(prose) if "://" not in link]
    included = [at for at in INCLUDED.findall(DOCUMENTS[name]) if not at.startswith("_generated/")]
    folder = (ROOT / name).parent
    missing = [at for at in (*links, *included) if at and not (folder / at).exists()]
    assert not missing
