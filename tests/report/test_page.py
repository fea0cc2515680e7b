"""The page: what it says of directories that are as they should be, and of others."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import final

import pytest
from markupsafe import Markup
from matplotlib.figure import Figure
from typer.testing import CliRunner

from samo.cli._app import app
from samo.records.scan import scan
from samo.report import read, summarize
from samo.report.page import _blocks, html_page
from samo.report.page._groups import groups
from samo.training import RunError
from tests.records.malformed import WRONG
from tests.report import pages
from tests.report.pages import config


@final
class _Reader(HTMLParser):
    """The elements of a page, and the texts of its tables' cells."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._table = ""
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "div" and attributes.get("class") == "table":
            self._table = attributes.get("id") or ""
            self.tables[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in {"th", "td"}:
            self.tables[self._table][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"th", "td"}:
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.tables[self._table][-1][-1] += data


def reader(html: str) -> _Reader:
    found = _Reader()
    found.feed(html)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished comparison, and its page."""
    out = tmp_path_factory.mktemp("whole")
    pages.comparison(out)
    page = html_page(out)
    assert not page.faults
    assert page.runs == "24 finished"
    return out, page.html


def test_the_table_is_that_of_the_terminal(whole: tuple[Path, str]) -> None:
    out, html = whole
    head, *rows = reader(html).tables["c1-results"]
    summary = summarize(read(out))
    assert head[:4] == ["method", "sharpness", "runs", "ρ"]
    assert len(rows) == len(summary.rows) == 7
    for row, cells in zip(summary.rows, rows, strict=True):
        assert cells[0].lower() == row.method
        by_head = dict(zip(head, cells, strict=True))
        assert by_head["left accuracy (%) ↑"] == str(row.metrics["left", "accuracy"])
        if row.method != "stl":
            assert by_head["Δm (%) ↓"] == str(row.delta_m)
            assert by_head["MR ↓"] == f"{row.mean_rank:.2f}"
            assert by_head["ρ"] == ("–" if row.rho is None else f"{row.rho:g}")
            assert by_head["runs"] == ("2/2" if row.rho is None else "4/4")


def test_every_run_is_there_with_what_it_was_made_with(whole: tuple[Path, str]) -> None:
    out, html = whole
    tables = reader(html).tables
    head, *rows = tables["runs-table"]
    assert {row[0] for row in rows} == {item["path"] for item in pages.comparison(out)}
    assert {row[head.index("state")] for row in rows} == {"finished"}
    shared = {row[0]: row[1] for row in tables["settings-table"][1:]}
    assert shared["lr"] == "0.003"
    assert shared["benchmark"] == "digits"
    assert not set(shared) & set(head)  # a setting is in one of the two
    assert "2.13.0" in tables["environments-table"][1]


def test_nothing_leads_elsewhere_and_only_its_own_script_runs(whole: tuple[Path, str]) -> None:
    html = whole[1]
    elements = reader(html).elements
    ids = [a["id"] for _, a in elements if "id" in a]
    assert not [i for i, n in Counter(ids).items() if n > 1]
    for tag, attributes in elements:
        for attribute, value in attributes.items():
            if attribute in {"src", "href", "xlink:href", "action", "srcset", "data"}:
                assert value is not None
                assert value.startswith("data:") or value[1:] in ids, (tag, value)
            if value and "url(" in value:
                assert set(re.findall(r"url\(#([^)]+)\)", value)) <= set(ids)
            assert not attribute.startswith("on")
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for _, a in elements if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_papers_of_what_was_used(whole: tuple[Path, str]) -> None:
    text = reader(whole[1]).text
    for key in ("ban2025samo", "foret2021sam", "spall1992spsa", "desideri2012mgda"):
        assert text.count(f"{{{key},") == 1
    assert "ban2024fairgrad" not in text  # it was not used


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not drawn: that takes the longest, and some tests are of the rest."""

    def inline(figure: Figure, prefix: str, label: str, *, themed: bool = True) -> Markup:
        return Markup("<svg id='{}' aria-label='{}'></svg>").format(prefix, label)

    monkeypatch.setattr(_blocks, "inline", inline)


@pytest.mark.usefixtures("sketched")
def test_published_results_beside(tmp_path: Path) -> None:
    pages.finished(tmp_path / "x", config(benchmark="multimnist"))
    html = html_page(tmp_path, published=True).html
    rows = reader(html).tables["c1-results"]
    assert ["F-MGDA", "published [1]"] in [row[:2] for row in rows]
    assert "phan2022fmtl," in html
    assert "F-MGDA" not in html_page(tmp_path).html


@pytest.mark.usefixtures("sketched")
def test_unfinished_failed_missing_and_torn(tmp_path: Path) -> None:
    plan = pages.comparison(tmp_path)
    paths = {item["path"]: item["config"] for item in plan}
    for file in ("config.json", "results.json", "log.jsonl"):
        for path in ("ls/samo/rho-0.2/seed-0", "mgda/erm/seed-1", "mgda/samo/rho-0.05/seed-1"):
            (tmp_path / path / file).unlink()
    pages.unfinished(tmp_path / "mgda/erm/seed-1", paths["mgda/erm/seed-1"])
    path = "mgda/samo/rho-0.05/seed-1"
    pages.failed(tmp_path / path, paths[path], "NonFiniteError: the loss of task 'left' is nan")
    (tmp_path / "ls/gsam/rho-0.2/seed-1/results.json").write_text('{"config": {"bench')
    page = html_page(tmp_path)
    assert page.faults == ()
    assert page.runs == "20 finished, 1 failed, 1 unreadable, 1 unfinished, 1 missing"
    found = reader(page.html)
    assert f"Not complete: {page.runs}." in found.text
    head, *rows = found.tables["runs-table"]
    states = {row[0]: row[head.index("state")] for row in rows}
    assert states["ls/samo/rho-0.2/seed-0"] == "missing"
    assert states["mgda/erm/seed-1"] == "unfinished"
    assert states["mgda/samo/rho-0.05/seed-1"] == "failed"
    assert states["ls/gsam/rho-0.2/seed-1"] == "unreadable"
    by_path = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert by_path["mgda/erm/seed-1"]["done"] == "2/3"
    assert "the loss of task 'left' is nan" in by_path[path]["error"]
    runs = {tuple(row[:2]): row[2] for row in found.tables["c1-results"][1:]}
    assert runs["mgda", "erm"] == "1/2"
    assert runs["ls", "samo"] == "3/4"


def test_a_run_alone_unfinished_or_finished(tmp_path: Path) -> None:
    pages.unfinished(tmp_path / "a", config("fairgrad", "samo", 0.1))
    html = html_page(tmp_path / "a").html
    assert "Not complete: 1 unfinished." in reader(html).text
    assert "<svg" in html  # its curves so far
    pages.finished(tmp_path / "b", config("fairgrad", "samo", 0.1))
    assert reader(html_page(tmp_path / "b").html).tables["c1-results"][1][:2] == [
        "fairgrad",
        "samo",
    ]


def test_runs_at_two_levels_are_rows_of_one_table(tmp_path: Path) -> None:
    for level in ("parameter", "representation"):
        pages.finished(tmp_path / level, {**config("fairgrad", "erm"), "level": level})
    page = reader(html_page(tmp_path).html)
    assert "conflicts and norms are those of gradients with respect to the" in page.text
    found = page.tables["c1-results"]
    assert [row[:3] for row in found[1:]] == [
        ["fairgrad", "erm", "1/1"],
        ["fairgrad", "erm@representation", "1/1"],
    ]


@pytest.mark.usefixtures("sketched")
def test_several_benchmarks_and_foreign_files(tmp_path: Path) -> None:
    pages.comparison(tmp_path / "one")
    pages.finished(tmp_path / "two", config(benchmark="multimnist"))
    pages.finished(tmp_path / "three", config(benchmark="multimnist", epochs=9))
    pages.write(tmp_path / "project" / "config.json", {"name": "of another program"})
    pages.write(tmp_path / "other" / "results.json", [1, 2])
    (tmp_path / "notes.txt").write_text("by hand")
    page = html_page(tmp_path)
    assert page.faults == ()
    found = reader(page.html)
    titles = [found.tables[f"c{i}-results"][0] for i in (1, 2, 3)]
    assert len(titles) == 3  # runs of other settings are not held against each other
    left_out = {row[0] for row in found.tables["problems-table"][1:]}
    assert left_out == {"project", "other"}


@pytest.mark.usefixtures("sketched")
def test_a_sweep_before_and_after_its_end(tmp_path: Path) -> None:
    pages.write(tmp_path / "sweep.json", {})
    pages.finished(tmp_path / "ls/gsam/trial-000/seed-0", config("ls", "gsam", 0.07))
    text = reader(html_page(tmp_path).html).text
    assert "The search has not finished" in text
    (tmp_path / "trials.csv").write_text(
        "trial,state,score,rho,failure\nls/gsam/trial-000,COMPLETE,73.0,0.07,\n"
        "ls/gsam/trial-001,DIVERGED,,0.9,the loss is nan\n"
    )
    pages.write(tmp_path / "best.json", {"ls/gsam": {"trials": 2, "params": {"rho": 0.07}}})
    plan = [{"path": f"ls/gsam/trial-000/seed-{s}", "baseline": False} for s in (0, 1)]
    for seed, item in enumerate(plan):
        pages.finished(tmp_path / str(item["path"]), config("ls", "gsam", 0.07, seed))
        item["config"] = config("ls", "gsam", 0.07, seed)
    pages.write(tmp_path / "compare.json", {"runs": plan})
    found = reader(html_page(tmp_path).html)
    assert (
        "Chosen on validation data, with other seeds: ls/gsam (2 trials) rho = 0.07." in found.text
    )
    assert found.tables["trials-1"][2] == [
        "ls/gsam/trial-001",
        "DIVERGED",
        "–",
        "0.9",
        "the loss is nan",
    ]


EVIL = [
    "<script>window.hacked = 1</script>",
    "\"'><img src=x onerror=window.hacked=1>",
    "</title></style></svg></script><script>window.hacked=2</script>",
    "\x1b[31mred\x1b[0m\x00\u202e\ud800\x7f",
    "$\\frac{1}{$ {{ 7 * 7 }} {% raw %}",
    "x" * 50_000,
    "]]>--><!-- &lt;b&gt; javascript:alert(1)",
]


def evil(out: Path) -> None:
    """Writes runs whose names and texts are all meant to do harm."""
    for i, text in enumerate(EVIL):
        its = {**config(text, text, 0.1, benchmark=text, note=text), text[:90]: text}
        made = results = pages.results(its)
        made = json.loads(json.dumps(results).replace('"left"', json.dumps(text)))
        made["environment"] = {text: text}
        made["metrics"][text]["accuracy"]["unit"] = text
        pages.write(out / f"run-{i}" / "results.json", made)
        pages.write(out / f"run-{i}" / "config.json", its)
        pages.failed(out / f"failed-{i}", its, text)
        pages.unfinished(out / f"going-{i}", its)
    if sys.platform == "linux":
        pages.finished(out / "<img src=x onerror=alert(1)>" / "\x1b[1m'\"&", config())
    pages.write(out / "compare.json", {"runs": [{"path": t, "baseline": 1} for t in EVIL]})
    pages.write(out / "sweep.json", {})
    (out / "trials.csv").write_text(
        "\n".join(",".join([json.dumps(t)] * 3) for t in EVIL[:3]), encoding="utf-8"
    )
    pages.write(out / "best.json", {t: {"trials": t, "params": {t: t}} for t in EVIL})


def test_harmful_texts_are_escaped(tmp_path: Path) -> None:
    evil(tmp_path)
    page = html_page(tmp_path, published=True)
    assert page.faults == ()
    assert page.html.count("<script") == page.html.count("</script") == 1
    found = reader(page.html)
    allowed = {"html", "head", "meta", "title", "link", "style", "body", "a", "header", "h1", "p"}
    allowed |= {
        "button",
        "nav",
        "ul",
        "li",
        "main",
        "strong",
        "section",
        "h2",
        "h3",
        "div",
        "label",
    }
    allowed |= {"input", "output", "table", "caption", "thead", "tr", "th", "tbody", "td", "figure"}
    allowed |= {"figcaption", "pre", "code", "footer", "script", "svg", "defs", "g", "path", "text"}
    allowed |= {"use", "tspan", "clippath", "rect", "image", "pattern"}
    assert {tag for tag, _ in found.elements} <= allowed
    assert not [a for _, attributes in found.elements for a in attributes if a.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ud800]", page.html)
    assert "\\x1b[31mred" in page.html
    assert "{{ 7 * 7 }}" in page.html
    assert len(page.html) < 3_000_000


@pytest.mark.usefixtures("sketched")
def test_no_code_of_a_run_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code"
    pages.write(code / "trap_module.py", f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.chdir(code)
    pages.finished(tmp_path / "run", config(benchmark="trap_module:Benchmark"))
    assert "trap_module:Benchmark" in html_page(tmp_path / "run", published=True).html
    assert "trap_module" not in sys.modules
    assert not (tmp_path / "sprung").exists()


@pytest.mark.usefixtures("sketched")
def test_nothing_outside_of_the_directory_is_read(tmp_path: Path) -> None:
    secret = config("secret_method")
    pages.finished(tmp_path / "outside", secret)
    inside = tmp_path / "inside"
    pages.finished(inside / "own", config())
    (inside / "link").symlink_to(tmp_path / "outside")
    for path in ("linked-file", "linked-log"):
        pages.unfinished(inside / path, config())
    (inside / "linked-file" / "results.json").symlink_to(tmp_path / "outside/results.json")
    (inside / "linked-log" / "log.jsonl").unlink()
    (inside / "linked-log" / "log.jsonl").symlink_to(tmp_path / "outside/log.jsonl")
    (inside / "own" / "analysis").symlink_to(tmp_path / "outside")
    (inside / "circle").symlink_to(inside / "circle")
    plan = [
        {"path": path, "baseline": False, "config": config()}
        for path in ("../outside", str(tmp_path / "outside"), "link", "a/../../outside", "", "a\0b")
    ]
    pages.write(inside / "compare.json", {"runs": plan})
    os.mkfifo(inside / "own" / "error.txt")  # would be waited for
    page = html_page(inside)
    assert page.faults == ()
    assert "secret_method" not in page.html
    reasons = " ".join(row[1] for row in reader(page.html).tables["problems-table"][1:])
    assert reasons.count("outside the directory") >= 7
    assert "not followed" in reasons


@pytest.mark.parametrize("wrong", range(len(WRONG)))
def test_a_directory_with_a_wrong_file_of_each_kind(wrong: int, tmp_path: Path) -> None:
    pages.finished(tmp_path / "good", config())
    for file in ("compare.json", "best.json", "sweep.json", "trials.csv", "workers.log"):
        pages.write(tmp_path / file, json.dumps(WRONG[wrong]))
    for file in ("config.json", "results.json", "log.jsonl", "error.txt"):
        pages.finished(tmp_path / file, config(seed=1))
        pages.write(tmp_path / file / file, json.dumps(WRONG[wrong]))
        pages.write(tmp_path / f"only-{file}" / file, json.dumps(WRONG[wrong]))
    found = scan(tmp_path)
    (run,) = [run for run in found.runs if run.path == "good"]
    assert run.state == "finished"
    for group in groups(found):
        group.summarized(published=True)


@pytest.mark.usefixtures("sketched")
def test_the_command(tmp_path: Path) -> None:
    pages.finished(tmp_path / "x", config())
    result = CliRunner().invoke(app, ["report", str(tmp_path / "x")])
    assert result.exit_code == 0, result.output
    assert "Runs: 1 finished." in result.output
    assert "<!doctype html>" in (tmp_path / "x" / "report.html").read_text(encoding="utf-8")
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    for file in ("report.html", "report.html.new"):
        (tmp_path / "x" / file).unlink(missing_ok=True)
        (tmp_path / "x" / file).symlink_to(kept)
    assert CliRunner().invoke(app, ["report", str(tmp_path / "x")]).exit_code == 0
    assert kept.read_text() == "kept"
    assert not (tmp_path / "x" / "report.html").is_symlink()
    out = tmp_path / "new" / "page.html"
    assert CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(out)]).exit_code == 0
    assert out.exists()


def test_a_directory_without_runs_is_said_in_one_line(tmp_path: Path) -> None:
    for directory, message in ((tmp_path, "holds no run"), (tmp_path / "no", "is not a directory")):
        result = CliRunner().invoke(app, ["report", str(directory)])
        assert result.exit_code == 2
        assert message in result.output
        with pytest.raises(RunError, match=message):
            html_page(directory)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_are_too_long(tmp_path: Path) -> None:
    for path in ("x" * 5000, "/".join(["x" * 99] * 50)):
        result = CliRunner().invoke(app, ["report", path])
        assert result.exit_code == 2
        assert "cannot be read: File name too long." in result.output
        assert len(result.output) < 400
        pages.finished(tmp_path / "good", config())
        plan = [{"path": p, "baseline": False, "config": config()} for p in (path, "good")]
        pages.write(tmp_path / "compare.json", {"runs": plan})
        found = scan(tmp_path)
        assert [run.path for run in found.runs if run.state != "missing"] == ["good"]


@pytest.mark.parametrize("in_a_plan", [False, True])
def test_many_runs_of_one_configuration(in_a_plan: bool, tmp_path: Path) -> None:
    """Each is a group of its own; no more are drawn than anyone reads."""
    for i in range(30):
        pages.finished(tmp_path / f"run-{i:02}", config())
    if in_a_plan:
        plan = [{"path": f"run-{i:02}", "baseline": False, "config": config()} for i in range(30)]
        pages.write(tmp_path / "compare.json", {"runs": plan})
    found = scan(tmp_path)
    assert len(found.runs) == 30
    assert len(groups(found)) == 20
    (problem,) = found.problems
    assert "10 runs would need 10 more tables" in problem.reason
