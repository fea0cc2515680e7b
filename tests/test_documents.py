"""The Python examples of the README and the documentation run; links lead somewhere."""

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
INCLUDED = re.compile(r"^```\{(?:literalinclude|include)\} (\S+)$", re.MULTILINE)


def test_the_readme_has_examples() -> None:
    assert FENCE.search(DOCUMENTS["README.md"])


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if FENCE.search(text)])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, as one program."""
    text = DOCUMENTS[name]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in FENCE.finditer(text):
        # The blank lines make a traceback name the document's own line.
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
