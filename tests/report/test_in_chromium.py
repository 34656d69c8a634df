"""Pages opened from disk in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from harness.report.render import render_report
from harness.store import open_store
from results_for_pages import table_one

pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium: install it, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    with open_store(str(folder / "benchmark.db")) as store:
        table_one(store)
        return render_report(store, folder / "pages").parent


@pytest.mark.parametrize(
    "name", ["index.html", "leaderboard.html", "runs/1.html", "runs/2.html", "runs/4.html", "runs/5.html"]
)
@pytest.mark.parametrize(
    ("width", "scheme", "scripts"), [(1280, "light", True), (390, "dark", True), (390, "light", False)]
)
def test_a_page(browser: Browser, pages: Path, name: str, width: int, scheme: str, scripts: bool) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
    )
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((pages / name).as_uri())
    assert page.locator("h1").count() == 1
    assert page.locator("h2").count() >= (1 if name == "leaderboard.html" else 2)
    if scripts:
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, "the page itself does not scroll sideways; tables do, in their own frames"
    assert said == []
    assert asked == [(pages / name).as_uri()]
    context.close()


def test_links_lead_somewhere(browser: Browser, pages: Path) -> None:
    page = browser.new_page()
    page.goto((pages / "index.html").as_uri())
    page.get_by_role("link", name="efficientnet_lite0").first.click()
    assert page.url.endswith("runs/3.html")
    assert "efficientnet_lite0" in page.locator("h1").inner_text()
    page.close()
