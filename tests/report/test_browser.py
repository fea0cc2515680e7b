"""The page in a browser: Chromium, without a window (`make browser` installs it)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from samo.report.page import html_page
from tests.report import pages
from tests.report.test_page import evil

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
AXE = Path(__file__).parents[1] / "browser/node_modules/axe-core/axe.min.js"
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 300_000  # milliseconds: no test is to fail because a machine is slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    missing = [] if CHROMIUM else ["Chromium"]
    missing += [] if AXE.exists() else ["axe-core"]
    if missing:
        reason = f"there is no {' and no '.join(missing)}: `make browser` installs it"
        if os.environ.get("SAMO_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=OPTIONS, timeout=PATIENCE
        )
        yield browser
        browser.close()


@dataclass
class Shown:
    """A page that is shown, and what it did that it should not."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Open = Callable[..., Shown]


@pytest.fixture
def show(browser: Browser) -> Iterator[Open]:
    """Opens a file; at the end it must have made no request and no complaint."""
    opened: list[Shown] = []

    def show(file: Path, theme: Literal["light", "dark"] = "light", width: int = 1280) -> Shown:
        context = browser.new_context(
            color_scheme=theme, viewport={"width": width, "height": 900}, offline=True
        )
        context.set_default_timeout(PATIENCE)
        shown = Shown(context.new_page())
        opened.append(shown)
        shown.page.on("request", lambda request: shown.requests.append(request.url))
        shown.page.on("console", lambda message: shown.complaints.append(message.text))
        shown.page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        shown.page.on("dialog", lambda dialog: shown.complaints.append(dialog.message))
        shown.page.goto(file.as_uri())
        return shown

    yield show
    for shown in opened:
        shown.page.wait_for_load_state("networkidle")
        url = shown.page.url.partition("#")[0]
        assert shown.requests == [url]
        assert shown.complaints == []
        shown.page.context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a comparison of which a run failed and another is missing."""
    out = tmp_path_factory.mktemp("report")
    plan = pages.comparison(out)
    shutil.rmtree(out / plan[-1]["path"])
    shutil.rmtree(out / plan[-2]["path"])
    pages.failed(out / plan[-1]["path"], plan[-1]["config"], "ValueError: <b>no</b>")
    file = out / "report.html"
    file.write_text(html_page(out).html, encoding="utf-8")
    return file


def cells(page: Page, table: str, column: int) -> list[str]:
    """The texts of a column that are shown."""
    rows = page.locator(f"#{table} tbody:first-of-type tr:not([hidden])")
    found: list[str] = rows.locator(f":nth-child({column + 1})").all_text_contents()
    return found


def violations(page: Page) -> list[str]:
    """What axe finds fault with."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{v['id']}: {n['target']} {n.get('failureSummary')}" for v in found for n in v["nodes"]
    ]


def test_it_is_drawn_sorted_and_filtered(show: Open, report: Path) -> None:
    page = show(report).page
    assert page.locator("figure svg").count() >= 5
    for figure in page.locator("figure svg").all():
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 100
    first = cells(page, "c1-results", 7)
    head = page.locator("#c1-results thead th").nth(7)
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    up = cells(page, "c1-results", 7)
    numbers = [float(text) for text in up if text != "–"]
    assert numbers == sorted(numbers)
    assert sorted(up) == sorted(first)
    assert up[-1] == "–"  # STL has no rank
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    down = [float(text) for text in cells(page, "c1-results", 7) if text != "–"]
    assert down == numbers[::-1]
    assert cells(page, "c1-results", 7)[-1] == "–"
    other = page.locator("#c1-results thead th").nth(0)
    other.locator("button").focus()
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "none"
    assert other.get_attribute("aria-sort") == "ascending"
    names = cells(page, "c1-results", 0)
    assert names == sorted(names, key=str.lower)
    search = page.locator("#runs-table input")
    search.fill("gsam 0.2")
    shown = cells(page, "runs-table", 0)
    assert shown
    assert all("gsam/rho-0.2" in path for path in shown)
    told = page.locator("#runs-table output").text_content()
    assert told == f"{len(shown)} of 24 rows"
    search.fill("")
    assert len(cells(page, "runs-table", 0)) == 24


def test_the_heads_of_long_tables_stay_in_sight(show: Open, report: Path) -> None:
    page = show(report).page
    page.evaluate("document.querySelector('#runs-table .scroll').style.maxHeight = '200px'")
    page.locator("#runs-table .scroll").evaluate("box => box.scrollTo(300, 400)")
    top = page.locator("#runs-table .scroll").bounding_box()
    head = page.locator("#runs-table thead th").first.bounding_box()
    assert top is not None
    assert head is not None
    assert abs(head["y"] - top["y"]) < 3
    assert abs(head["x"] - top["x"]) < 3  # the first column as well


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible_in_both_themes(
    show: Open, report: Path, theme: Literal["light", "dark"]
) -> None:
    page = show(report, theme).page
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    assert violations(page) == []
    switch = page.locator("#theme")
    assert switch.get_attribute("aria-pressed") == str(theme == "dark").lower()
    switch.click()
    assert switch.get_attribute("aria-pressed") == str(theme == "light").lower()
    other = show(report, "light" if theme == "dark" else "dark").page
    assert page.evaluate(ground) == other.evaluate(ground) != before


def test_it_fits_a_narrow_screen_and_paper(show: Open, report: Path) -> None:
    page = show(report, width=320).page
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert violations(page) == []
    page.emulate_media(media="print")
    assert page.locator("#theme").is_hidden()
    boxes = page.locator(".scroll").evaluate_all(
        "all => all.map(e => getComputedStyle(e).overflow)"
    )
    assert set(boxes) == {"visible"}
    assert page.pdf().startswith(b"%PDF")


def test_harmful_texts_do_nothing(show: Open, tmp_path: Path) -> None:
    evil(tmp_path)
    file = tmp_path / "report.html"
    file.write_text(html_page(tmp_path).html, encoding="utf-8")
    page = show(file, width=360).page
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, object, embed, form, style").count() == 1  # its own style
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert violations(page) == []
