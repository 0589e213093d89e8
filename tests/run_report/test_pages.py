"""The report's pages in a real browser, without a network: nothing fails, nothing foreign runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detengine.config.load import load_config
from detengine.run_report.reporting import write_comparison, write_report
from detengine.showing import Choice
from detengine.showing import show as show_samples
from fault_record import Record
from faults.hostile_data import CLASSES, FILES, write_hostile_data
from report_runs import EVIL, SECTIONS, make_config, write_evil_run, write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no Chromium with its driver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


def show(browser: Any, page: Path, *, width: int, theme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")  # of the page before
    browser.get(page.as_uri())


def assert_whole(browser: Any, *, width: int) -> None:
    """No error, no request, no picture missing, nothing wider than the window, nothing foreign."""
    assert browser.get_log("browser") == []
    requests = browser.execute_script(
        "return performance.getEntriesByType('resource').map((each) => each.name)"
    )
    assert [each for each in requests if not each.startswith("data:")] == []
    assert browser.execute_script(
        "return [...document.images].every((each) => each.complete && each.naturalWidth > 0)"
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.execute_script(
        "return document.querySelectorAll('[onerror], [onload], main script, main iframe').length"
    ) in (0, None)


@pytest.fixture(scope="module")
def pages(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    good = write_run(make_config(tiny_config, folder / "good"), every=2)
    other = write_run(make_config(tiny_config, folder / "other", {"SEED": 3}))
    empty = write_run(make_config(tiny_config, folder / "empty"), scored=False, iterations=())
    evil = write_evil_run(tiny_config, folder / "evil")
    return {
        "good": write_report(good),
        "empty": write_report(empty),
        "evil": write_report(evil),
        "compared": write_comparison([good, other], folder / "compared.html", samples=20),
        "evil compared": write_comparison([evil, good], folder / "evil.html", samples=20),
    }


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["good", "empty", "evil", "compared", "evil compared"])
def test_a_page_is_whole_at_the_width_of_a_phone_and_of_a_desk(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    show(browser, pages[name], width=width, theme="dark" if width == 390 else "light")
    assert_whole(browser, width=width)
    sections = browser.execute_script(
        "return [...document.querySelectorAll('main > section')].map((each) => each.id)"
    )
    if "compared" not in name:
        assert sections == SECTIONS
    linked = browser.execute_script(
        "return [...document.querySelectorAll('nav a')].map((each) => each.hash.slice(1))"
    )
    assert linked == sections


@pytest.mark.faults
def test_names_that_are_markup_are_text_in_the_browser(
    browser: Any, pages: dict[str, Path], tiny_config: Path, tmp_path: Path, record_fault: Record
) -> None:
    show(browser, pages["evil"], width=1280)
    assert EVIL in browser.execute_script("return document.body.innerText")
    assert browser.execute_script("return document.title") == "<i>run"
    assert_whole(browser, width=1280)
    show(browser, pages["evil compared"], width=1280)
    assert "<i>run" in browser.execute_script("return document.body.innerText")
    assert_whole(browser, width=1280)
    config = write_hostile_data(tmp_path / "data")
    samples = show_samples(load_config(config), "hostile", Choice(), tmp_path / "out")
    show(browser, samples, width=1280)
    seen = browser.execute_script("return document.body.innerText")
    assert [name for name in (*CLASSES, *FILES) if name not in seen] == []
    assert browser.execute_script("return document.scripts.length") == 0
    assert browser.execute_script("return document.title") == "hostile"
    # the second line: what gets into a page nevertheless does not run
    broken = tmp_path / "broken.html"
    scripts = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title='ran'\">"
    page = pages["evil"].read_text()
    broken.write_text(page.replace("<main>", f"<main>{scripts}"))
    browser.get(broken.as_uri())
    assert browser.execute_script("return document.title") == "<i>run"
    record_fault(
        "Security",
        "names that are markup, in pages",
        made="scripts, handlers, closing tags and templates as the names of classes, files, data "
        "sets, losses and runs, in log lines, errors and commands; Chromium, without a network",
        promised="they are text; what gets into a page nevertheless does not run",
        tried="a report, a comparison, a page of samples; one with a script put into it",
        happened="all text; 0 scripts but the page's own, 0 requests",
    )


def test_a_chart_that_is_pointed_at_shows_its_values(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["good"], width=1280)
    shown = browser.execute_script(
        """
        const svg = document.querySelector("#losses svg.chart");
        const frame = svg.getBoundingClientRect();
        const at = { clientX: frame.right - 5, clientY: frame.top + 20, bubbles: true };
        svg.dispatchEvent(new PointerEvent("pointermove", at));
        const tip = svg.closest("figure").querySelector(".tip");
        return [tip.innerText, getComputedStyle(tip).visibility];
        """
    )
    assert shown == ["iteration 4\ntraining 0.75", "visible"]


def test_the_page_follows_the_readers_theme(browser: Any, pages: dict[str, Path]) -> None:
    grounds = set()
    for theme in ("light", "dark"):
        show(browser, pages["good"], width=1280, theme=theme)
        script = "return getComputedStyle(document.body).backgroundColor"
        grounds.add(browser.execute_script(script))
    assert len(grounds) == 2


def test_a_printed_page_has_everything_unfolded(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["good"], width=1280)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(
        "return [...document.querySelectorAll('details')].every((each) => each.open)"
    )
