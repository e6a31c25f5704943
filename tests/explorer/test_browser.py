"""The explorer as a person uses it: with a mouse, with keys alone, on a phone, without JavaScript, in the dark.

On the small catalog of the tests, or on the store that `CIRCUIT_INSIGHTS_BROWSER_STORE` names.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from explorer.app import Settings
from tests.explorer.browser import browser, chromium, served
from tests.explorer.small_catalog import CHECKPOINT, LATER
from tests.explorer.test_graphs import graph
from tests.explorer.test_security import ATTACK

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed; see `make browser-tests`"),
]

STORE = os.environ.get("CIRCUIT_INSIGHTS_BROWSER_STORE")
PHONE = {"width": 390, "height": 844}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def address(small_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    graphs = tmp_path_factory.mktemp("graphs")
    (graphs / "cat.json").write_text(json.dumps(graph()))
    catalog = Path(STORE) / "catalog.duckdb" if STORE else small_catalog
    if STORE:
        for path in (Path(STORE).parent / "graphs").glob("*.json"):
            shutil.copy(path, graphs)
    with served(Settings(catalog, graphs=graphs)) as served_at:
        yield served_at


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def open_page(chrome: Any, address: str) -> Iterator[Open]:
    """Opens a page of the explorer. Whatever a page says on the console, or loads from elsewhere, is an error."""
    wrong: list[str] = []
    contexts = []

    def opened(path: str = "/", **options: Any) -> Any:
        context = chrome.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: None if page.url.endswith("/nothing") else wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: None if request.url.startswith((address, "blob:")) else wrong.append(request.url)
        )
        page.goto(address + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def checkpoint(chrome: Any, address: str) -> str:
    """Path of the checkpoint that is looked at."""
    if not STORE:
        return f"/c/{CHECKPOINT}"
    page = chrome.new_page()
    page.goto(address)
    path = page.url.removeprefix(address)
    page.close()
    return path


def feature_of(checkpoint: str) -> str:
    """A feature with upstream features, samples and mechanisms."""
    return f"{checkpoint}/feature/{'3/283' if STORE else '2/1'}"


def test_from_the_overview_to_a_feature_upstream_to_a_graph_and_back(open_page: Open, checkpoint: str) -> None:
    page = open_page(checkpoint)
    page.locator(".features a.ref").first.click()
    page.wait_for_url(re.compile(r"/feature/"))
    page.goto(page.url.split("/c/")[0] + feature_of(checkpoint))
    upstream = page.locator("section", has=page.locator("h2", has_text="Upstream features")).locator("a.ref").first
    target = upstream.inner_text()
    upstream.click()
    page.wait_for_url(re.compile("/feature/" + target))
    assert page.locator("h1 .id").inner_text() == target
    page.get_by_role("link", name="Graphs").click()
    page.get_by_role("link", name="cat", exact=True).click()
    page.wait_for_selector(".g-node")
    page.locator('.g-node[data-id="1_2_1"] circle').click()
    assert "about 1_2_1" in page.locator(".graph-side").inner_text()
    page.go_back()
    page.go_back()
    assert page.locator("h1 .id").inner_text() == target


def test_the_table_is_filtered_and_sorted(open_page: Open, checkpoint: str) -> None:
    page = open_page(f"{checkpoint}/features")
    page.get_by_label("Layer").fill("1")
    page.get_by_label("Judged").select_option("judged")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="clarity").click()
    scores = [float(cell) for cell in page.locator("tbody tr td:nth-of-type(5)").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 2
    assert {name.partition("/")[0] for name in page.locator("tbody th").all_inner_texts()} == {"1"}
    assert "sort=score" in page.url
    assert "layer=1" in page.url


def pages(checkpoint: str) -> list[str]:
    """Addresses of every kind of page."""
    drift = [] if STORE else [f"/drift/{CHECKPOINT}/{LATER}"]
    of_checkpoint = (
        "", "/features", "/token/1", "/tokens?words=a", "/head/1/2", "/compare", "/pair?a=2/1&b=1/0", "/graphs",
        "/graph/cat", "/search?q=cat",
    )  # fmt: skip
    of_store = ["/", "/drift", "/runs", "/nothing", *drift]
    return [feature_of(checkpoint), *(checkpoint + path for path in of_checkpoint), *of_store]


def test_nothing_is_wider_than_a_phone(open_page: Open, checkpoint: str) -> None:
    page = open_page(viewport=PHONE)
    for path in pages(checkpoint):
        page.goto(page.url.split("/c/")[0].rstrip("/") + path) if "/c/" in page.url else page.goto(
            page.url.split("/", 3)[0] + "//" + page.url.split("/", 3)[2] + path
        )
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, path


def test_contexts_are_read_and_opened_without_javascript(open_page: Open, checkpoint: str) -> None:
    page = open_page(feature_of(checkpoint), java_script_enabled=False)
    first = page.locator(".contexts details").first
    assert not first.locator(".note").is_visible()
    first.locator("summary").click()
    assert first.locator(".note").is_visible()
    page.locator("details.sql summary").first.click()
    assert "SELECT" in page.locator("details.sql pre").first.inner_text()
    page.get_by_role("link", name=re.compile("Next feature")).click()
    page.wait_for_url(re.compile(r"/feature/"))
    page.get_by_role("link", name="Features", exact=True).click()
    page.get_by_label("Words in a description").fill("the")
    page.get_by_role("button", name="Show").click()
    assert "words=the" in page.url
    page.goto(page.url.split("/c/")[0] + f"{checkpoint}/graph/cat")
    page.get_by_text("The graph as tables").click()
    assert page.get_by_text("about 1_2_1").first.is_visible()


def test_colours_follow_the_system_and_the_button(open_page: Open, checkpoint: str) -> None:
    def brightness(page: Any) -> int:
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    dark, light = (open_page(checkpoint, color_scheme=scheme) for scheme in ("dark", "light"))
    assert brightness(dark) < 150
    assert brightness(light) > 600
    light.get_by_role("button", name="Light or dark").click()
    assert brightness(light) < 150
    light.reload()
    assert brightness(light) < 150


def test_keys_alone_lead_everywhere(open_page: Open, checkpoint: str) -> None:
    page = open_page(checkpoint)
    page.keyboard.press("/")
    page.keyboard.type("2/1")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/feature/2/1$"))
    page.keyboard.press("j")
    page.wait_for_url(re.compile(r"/feature/2/2$"))
    page.keyboard.press("k")
    page.wait_for_url(re.compile(r"/feature/2/1$"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    page.goto(page.url.split("/c/")[0] + f"{checkpoint}/features?layer=1")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/feature/1/1$"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page: Open, checkpoint: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(checkpoint, color_scheme=scheme, bypass_csp=True)
    start = page.url.split("/c/")[0]
    found = []
    for path in pages(checkpoint):
        page.goto(start + path)
        if "/graph/" in path:
            page.wait_for_selector(".g-node")
        results = Axe().run(page).response
        found += [
            (path, one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"][:300])
            for one in results["violations"] if one["impact"] in ("serious", "critical")
        ]  # fmt: skip
    assert found == []


def test_a_graph_is_pruned_pinned_and_grouped_and_its_address_keeps_it(open_page: Open, checkpoint: str) -> None:
    page = open_page(f"{checkpoint}/graph/cat")
    page.wait_for_selector(".g-node")
    before = page.locator(".g-node").count()
    page.locator("#prune").fill("0.3")
    assert page.locator(".g-node").count() < before
    page.locator("#prune").fill("1")
    for node in ("4_3_1", "E_1_1"):
        page.locator(f'.g-node[data-id="{node}"] rect').click()
        page.get_by_role("button", name="pin", exact=True).click()
    page.get_by_role("button", name="group pinned").click()
    page.get_by_label("Name of the group").fill("ends")
    page.get_by_role("button", name="group 2").click()
    page.reload()
    page.wait_for_selector(".g-node.group")
    assert page.locator(".g-node.group text").all_text_contents() == ["animals", "ends"]


def test_a_hostile_file_opened_in_the_browser_does_nothing(open_page: Open, checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(graph(lambda text: text + ATTACK)))
    page = open_page(f"{checkpoint}/graphs")
    page.locator("[data-open-graph]").set_input_files(str(path))
    page.wait_for_selector(".g-node")
    page.locator('.g-node[data-id="1_2_1"] circle').click()
    assert "<img src=x" in page.locator(".graph-side").inner_text()
    assert page.locator("#graph script, #graph img").count() == 0
    assert not re.search("[\x1b\u202e]", page.locator("#graph").inner_text())


def test_causes_are_coloured_when_a_line_is_pointed_at(open_page: Open, checkpoint: str) -> None:
    page = open_page(feature_of(checkpoint))
    cause = page.locator('.contexts .kwic span[class*="c"]:not(.before):not(.rest):not(.line)').first
    colour = "getComputedStyle(arguments[0]).backgroundColor"
    before = cause.evaluate(f"(node) => {colour.replace('arguments[0]', 'node')}")
    cause.locator("xpath=ancestor::summary").hover()
    assert cause.evaluate(f"(node) => {colour.replace('arguments[0]', 'node')}") != before
