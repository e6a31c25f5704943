"""A site is a folder of pages whose links all lead somewhere, from whichever place it is opened."""

import json
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from explorer.catalog import Place
from explorer.site import MARK, Site, write_site
from tests.explorer.browser import FLAGS, chromium
from tests.explorer.small_catalog import CHECKPOINT, LATER, write_small_catalog
from tests.explorer.test_graphs import graph
from tests.explorer.test_security import ATTACK


class Links(HTMLParser):
    """What a page points to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.found += [value for name, value in attrs if name in ("href", "src", "action") and value]


@pytest.fixture(scope="module")
def written(small_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Site]:
    """A site of some features and a graph."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "graphs").mkdir()
    (folder / "graphs" / "small.json").write_text(json.dumps(graph()))
    place = Place(small_catalog.parent, folder / "graphs")
    return folder / "site", write_site(place, CHECKPOINT, "2/1,0/0,0/1", folder / "site")


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_every_link_leads_to_a_file_of_the_site(written: tuple[Path, Site]) -> None:
    folder, _ = written
    assert len(pages(folder)) > 12
    for page in pages(folder):
        for link in Links(page.read_text()).found:
            if link.startswith("#") and link != "#absent":
                continue
            target = (page.parent / unquote(link.split("#")[0].split("?")[0])).resolve()
            if "LAYER" not in link:
                assert target.is_file(), f"{page}: {link}"
            assert target.is_relative_to(folder.resolve())


def test_it_has_the_features_asked_for_and_those_of_its_graphs(written: tuple[Path, Site]) -> None:
    folder, site = written
    found = sorted(str(page.relative_to(folder / "feature")) for page in (folder / "feature").rglob("*.html"))
    assert found == ["0/0.html", "0/1.html", "1/2.html", "2/1.html"]
    assert site.n_features == 4
    assert "1/2" in (folder / "features" / "1-0.html").read_text()


def test_features_follow_one_another_as_the_site_has_them(written: tuple[Path, Site]) -> None:
    text = (written[0] / "feature" / "1" / "2.html").read_text()
    assert '<link rel="prev" href="../../feature/0/1.html">' in text
    assert '<link rel="next" href="../../feature/2/1.html">' in text


def test_a_graph_is_in_its_page(written: tuple[Path, Site]) -> None:
    text = (written[0] / "graph" / "small.html").read_text()
    data = re.search(r'<script type="application/json" id="graph-data">(.*?)</script>', text)
    assert data is not None
    assert len(json.loads(data[1])["nodes"]) == 4


def arguments(script: Path, function: str) -> list:
    """What a script of the index calls its function with."""
    text = script.read_text().removeprefix(f"{function}(").removesuffix(");\n")
    return json.loads(f"[{text}]")


def test_words_lead_to_features_and_how_they_are_described(written: tuple[Path, Site]) -> None:
    folder = written[0] / "words"
    key, own = arguments(folder / "w-63-61.js", "siteWords")
    assert key == "ca"
    start, features = arguments(folder / "features-0.js", "siteFeatures")
    assert start == 0
    assert [features[number][:2] for number in own["cat"]] == [[0, 0], [0, 1], [1, 2], [2, 1]]
    assert features[0][2] == "the token cat by wl+cl"


def test_its_sizes_are_in_it(written: tuple[Path, Site]) -> None:
    folder, site = written
    stated = json.loads((folder / MARK).read_text())
    assert stated == {"checkpoint": CHECKPOINT, **site._asdict()}
    assert site.n_files == sum(path.is_file() for path in folder.rglob("*"))
    assert 0 < site.feature_bytes_compressed < site.feature_bytes


def test_a_comparison_is_a_page_of_it(written: tuple[Path, Site]) -> None:
    assert (written[0] / "drift" / f"{CHECKPOINT}-{LATER}.html").is_file()


def test_texts_of_models_and_corpora_do_nothing(tmp_path: Path) -> None:
    def attacking(text: str) -> str:
        return text + ATTACK

    path = write_small_catalog(tmp_path, attacking)
    write_site(Place(path.parent), CHECKPOINT, "2/1,0/0", tmp_path / "site")
    written_pages, scripts = pages(tmp_path / "site"), list((tmp_path / "site" / "words").glob("*.js"))
    assert len(written_pages) > 2
    assert scripts
    for page in written_pages:
        text = page.read_text()
        assert not re.search(r"<script>|<img|\x1b|\x00|[\u202a-\u202e\u2066-\u2069]", text), page
        assert Links(text).scripts <= 2
    for script in scripts:
        assert re.fullmatch(r"site(Words|Features)\([\x20-\x7e]*\);\n", script.read_text()), script


@pytest.mark.parametrize(
    ("features", "expected"),
    [("2/60", "features 0 to 59"), ("3/0", "layers 0 to 2"), ("best", "'best' is not a feature"), ("1/2,", "'' is no")],
)
def test_other_features_are_refused(small_catalog: Path, tmp_path: Path, features: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        write_site(Place(small_catalog.parent), CHECKPOINT, features, tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_only_an_earlier_site_is_replaced(small_catalog: Path, tmp_path: Path) -> None:
    folder, place = tmp_path / "site", Place(small_catalog.parent)
    write_site(place, CHECKPOINT, "0/0", folder)
    write_site(place, CHECKPOINT, "0/1", folder)
    assert [page.name for page in (folder / "feature").rglob("*.html")] == ["1.html"]
    (folder / MARK).unlink()
    with pytest.raises(ValueError, match="has files that are not part of a site"):
        write_site(place, CHECKPOINT, "0/0", folder)
    assert (folder / "feature" / "0" / "1.html").is_file()


def test_top_has_the_best_of_every_layer(small_catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.site.N_TOP", 2)
    write_site(Place(small_catalog.parent), CHECKPOINT, "top", tmp_path / "site")
    found = sorted(str(page.relative_to(tmp_path / "site" / "feature")) for page in tmp_path.rglob("feature/*/*.html"))
    assert found == [f"{layer}/{feature}.html" for layer in range(3) for feature in (1, 2)]


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed; see `make browser-tests`")
@pytest.mark.parametrize(("query", "n"), [("CAT", 4), ("maxa*", 4), ("zebra", 0), ("2/1", 1), ("cát+nothing", 4)])
def test_a_browser_searches_it_from_the_file_system(written: tuple[Path, Site], query: str, n: int) -> None:
    command = [chromium(), "--headless", *FLAGS, "--virtual-time-budget=5000", "--dump-dom"]
    address = f"{(written[0] / 'search.html').as_uri()}?q={query}"
    text = subprocess.run([*command, address], capture_output=True, text=True, timeout=60, check=True).stdout  # pyright: ignore
    found: Callable[[str], list[str]] = re.compile(r'<li data-row=""><a class="ref" href="feature/').findall
    assert len(found(text)) == n
