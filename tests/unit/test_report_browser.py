"""The report in headless Chromium: charts are there, nothing is complained about, axe-core finds no violation.

Needs Debian's chromium, playwright, and axe-core's axe.min.js at the path in TERSENET_AXE; skipped without them.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tersenet.api import compress_file
from tersenet.cli import main
from tersenet.methods import get

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
AXE = os.environ.get("TERSENET_AXE", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None or not Path(AXE).is_file():
        pytest.skip("there is no chromium, or no axe.min.js at TERSENET_AXE")
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    compress_file(checkpoint, folder / "d.terse", get("rtn")(bits=4))
    peers = folder / "peers.csv"
    peers.write_text("tool,bytes,accuracy,drop\nzip,30000,0.9,1.5\nxz,20000,0.8,2.5\n")
    judged = ["--model", "digits", "--task", "digits", "--against", str(checkpoint), "--peers", str(peers)]
    with pytest.raises(SystemExit):
        main(["report", str(folder / "d.terse"), *judged])
    return folder / "d.terse.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_charts_are_shown_without_errors_or_violations(
    browser: Any, page: Path, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    view, said = context.new_page(), []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    view.goto(page.as_uri())
    charts = view.locator("svg").all()
    sizes = [chart.bounding_box() for chart in charts if chart.is_visible()]
    assert len(charts) == 10 and all(box["width"] > 250 and box["height"] > 40 for box in sizes)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    view.evaluate("document.querySelectorAll('details:not([name])').forEach(each => each.open = true)")
    view.add_script_tag(path=AXE)
    found = view.evaluate("axe.run(document)")
    assert [(each["id"], each["nodes"][0]["html"][:100]) for each in found["violations"]] == []
    assert len(found["passes"]) > 20 and said == [], json.dumps(said)
    context.close()


def test_the_keyboard_opens_tables_and_layers(browser: Any, page: Path) -> None:
    view = browser.new_page()
    view.goto(page.as_uri())
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.tagName") == "SUMMARY"
    view.keyboard.press("Enter")
    assert view.evaluate("document.activeElement.parentElement.open") is True
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.getAttribute('role')") == "region"


def test_following_loads_the_page_again_only_while_it_is_asked_for(
    browser: Any, page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", stop)
    live = tmp_path / "live.html"
    with pytest.raises(SystemExit):
        main(["report", str(page.with_name("d.terse")), "-o", str(live), "--watch", "--every", "1"])
    view, loads = browser.new_page(), []
    view.goto(live.as_uri())
    view.on("load", lambda: loads.append(1))
    view.wait_for_timeout(1500)
    assert not loads
    view.get_by_role("button").press("Enter")
    view.wait_for_timeout(2500)
    assert loads and view.get_by_role("button").get_attribute("aria-pressed") == "true"
