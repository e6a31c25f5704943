"""Pages without a server: a folder that can be opened from a file system or any web host, with the same views and
templates."""

import gzip
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from explorer.catalog import Catalog, Limits, Place, Reader, Row
from explorer.errors import ExplorerError
from explorer.graphs import described, listed, read_graph
from explorer.page import STATIC, Page, environment, render, shell
from explorer.site_words import write_words
from explorer.views import compare, drift, feature, graph, overview
from explorer.views.common import LABELS, corpora_of, ingested_layers
from interp.descriptions.preference import PREFERRED

ROWS_A_PAGE = 250
"""Features on one page of the index."""

N_TOP = 100
"""Features of each layer in `top`."""

MARK = "site.json"
"""The file that identifies a site."""

ABSENT = "#absent"
"""Address of pages that the site does not have: such links become plain text, and such forms are removed."""

SERVED = {"overview", "features", "search", "compare", "graphs", "drifts"}

LIMITS = Limits(memory="1GB")

WRITING_S = 7 * 86_400.0
"""Limits for all queries of a site together; a core writes a dozen features a second."""

CHOSEN = """
    WITH scored AS (
        SELECT layer, feature, max(value) AS score FROM scores
        WHERE checkpoint_id = $checkpoint AND metric = 'clarity' AND judge <> 'none' AND method NOT LIKE 'control:%'
        GROUP BY ALL
    ), every AS (
        SELECT l.range::SMALLINT AS layer, f.range::INTEGER AS feature 
        FROM (SELECT unnest($layers) AS range) l, range($n_features) f
    ), known AS (
        SELECT every.*, density, max_activation, score FROM every
        LEFT JOIN (SELECT * FROM features WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus)
            USING (layer, feature)
        LEFT JOIN scored USING (layer, feature)
    ), found AS (
        SELECT * FROM known QUALIFY row_number() OVER (
            PARTITION BY layer ORDER BY score DESC NULLS LAST, max_activation DESC NULLS LAST, feature
        ) <= $n_top
    )
    SELECT found.*, d.text AS description FROM found LEFT JOIN {labels} d USING (layer, feature)
    ORDER BY layer, feature
""".replace("{labels}", LABELS)


@dataclass
class Addresses:
    """Makes the links of the page that is being written, as relative paths."""

    checkpoint: str
    features: set[tuple[int, int]] = field(default_factory=set)
    drifts: set[tuple[str, str]] = field(default_factory=set)
    depth: int = 0
    """Number of folders between the page and the site's top."""

    def __call__(self, page: str, /, **shown: object) -> str:
        path = self.path(page, shown)
        return ABSENT if path is None else "../" * self.depth + quote(path)

    def path(self, page: str, shown: Mapping[str, object]) -> str | None:
        """The path of a page in the site; None if the site does not have it."""
        if page == "static":
            return f"static/{shown['file']}"
        if page == "drift":
            is_there = (shown["a"], shown["b"]) in self.drifts and not shown.get("page")
            return f"drift/{shown['a']}-{shown['b']}.html" if is_there else None
        if shown.get("checkpoint", self.checkpoint) != self.checkpoint:
            return None
        if page == "feature":
            layer, number = shown["layer"], shown["feature"]
            there = layer == "LAYER" or (layer, number) in self.features
            return f"feature/{layer}/{number}.html" if there else None
        if page == "features":
            layer = shown.get("layer")
            return index_path(layer, 0) if isinstance(layer, int) else "features/index.html"
        if page == "graph":
            return f"graph/{shown['name']}.html"
        pages = {"home": "index.html", "overview": "index.html", "search": "search.html", "graphs": "graphs.html"}
        pages |= {"compare": "compare.html", "drifts": "drift/index.html"}
        return pages.get(page)


def index_path(layer: int, page: int) -> str:
    """A page of a layer's index of features."""
    return f"features/{layer}-{page}.html"


class Site(NamedTuple):
    """Size of the site."""

    n_features: int
    n_files: int
    n_bytes: int
    feature_bytes: int
    """Mean size of a feature's page."""
    feature_bytes_compressed: int
    """Mean size of a feature's page after gzip, as a web host sends it."""


class _Writer:
    """Writes pages into a folder and counts them."""

    def __init__(self, folder: Path, addresses: Addresses, around: Mapping[str, object]) -> None:
        self._folder, self._addresses, self._around = folder, addresses, around
        self._templates = environment(addresses)
        self.feature_bytes: list[tuple[int, int]] = []

    def page(self, path: str, page: Page, template: str, **more: object) -> None:
        self._addresses.depth = path.count("/")
        text = _without_absent(render(self._templates, page, template, {**self._around, **more}))
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        target.write_bytes(data)
        if template == "feature":
            self.feature_bytes.append((len(data), len(gzip.compress(data, 6))))


_ABSENT_LINK = re.compile(rf'<a\b([^<>]*?) href="{ABSENT}"([^<>]*)>(.*?)</a>', re.S)
_ABSENT_RELATION = re.compile(rf'<link\b[^<>]* href="{ABSENT}"[^<>]*>\n?')
_ABSENT_FORM = re.compile(rf'<form\b[^<>]* action="{ABSENT}"[^<>]*>.*?</form>', re.S)


def _without_absent(text: str) -> str:
    """A page's HTML without links to missing pages. Texts in it are escaped, so that none looks like a tag."""
    text = _ABSENT_FORM.sub("", _ABSENT_RELATION.sub("", text))
    return _ABSENT_LINK.sub(r"<span\1\2>\3</span>", text)


def write_site(
    place: Place,
    checkpoint: str,
    features: str,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Site:
    """Write a checkpoint's pages. `features` is `all`, `top` (the best described), or `2/899,2/902`.

    Features of the graphs are always included. An earlier site in the folder is replaced.

    Raises:
        ValueError: the folder has other content, or there is no such checkpoint or feature.
    """
    _check_folder(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    catalog = Catalog(place.store / "catalog.duckdb", LIMITS, place)
    try:
        with catalog.reading(WRITING_S) as reader:
            site = _write(reader, place, checkpoint, features, partial, progress)
    except ExplorerError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(str(error)) from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return site


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise ValueError(f"{folder} has files that are not part of a site; name a new folder")


def _write(
    reader: Reader, place: Place, checkpoint: str, features: str, folder: Path, progress: Callable[[int, int], None]
) -> Site:
    row = reader.checkpoint(checkpoint)
    checkpoint_id, graphs = row["checkpoint_id"], [one["name"] for one in listed(place.graphs)]
    of_graphs = _features_of(place, row, graphs)
    rows = _chosen(reader, row, features, of_graphs)
    addresses = Addresses(checkpoint_id, {(one["layer"], one["feature"]) for one in rows})
    addresses.drifts = {
        (one["checkpoint_a"], one["checkpoint_b"]) for one in _compared(reader) if checkpoint_id in one.values()
    }
    missing = {name for name, there in (("graphs", graphs), ("drifts", addresses.drifts)) if not there}
    around = shell(place.store.name, [row], SERVED - missing)
    writer = _Writer(folder, addresses, around)
    shutil.copytree(STATIC, folder / "static")
    writer.page("index.html", overview.overview(reader, checkpoint_id), "overview")
    writer.page("compare.html", compare.compare_page(reader, checkpoint_id), "compare")
    if graphs:
        writer.page("graphs.html", graph.graphs_page(reader, checkpoint_id), "graphs")
    for name in graphs:
        shown = graph.graph_page(reader, checkpoint_id, name)
        writer.page(f"graph/{name}.html", shown, "graph", graph_data=read_graph(place.graphs, name))
    if addresses.drifts:
        writer.page("drift/index.html", drift.drifts_page(reader), "drifts")
    for a, b in sorted(addresses.drifts):
        writer.page(f"drift/{a}-{b}.html", drift.drift_page(reader, a, b), "drift")
    _indexes(writer, row, rows)
    writer.page("search.html", Page("Search", row, {"n": len(rows)}), "site_search")
    write_words(folder / "words", _described(reader, checkpoint_id, addresses.features))
    order = [(one["layer"], one["feature"]) for one in rows]
    for at, (layer, number) in enumerate(order):
        page = feature.feature_page(reader, checkpoint_id, layer, number)
        page.facts["previous"] = order[at - 1] if at else None
        page.facts["next"] = order[at + 1] if at + 1 < len(order) else None
        writer.page(f"feature/{layer}/{number}.html", page, "feature")
        progress(at + 1, len(order))
    return _summed(folder, row, writer)


def _summed(folder: Path, row: Row, writer: _Writer) -> Site:
    """The size of a site, which is also stored in it."""
    n = len(writer.feature_bytes)
    mean = [round(sum(column) / max(1, n)) for column in zip(*writer.feature_bytes, strict=True)] or [0, 0]
    files = [path for path in folder.rglob("*") if path.is_file()]
    site = Site(n, len(files) + 1, sum(path.stat().st_size for path in files), *mean)
    text = json.dumps({"checkpoint": row["checkpoint_id"], **site._asdict()}, indent=1)
    (folder / MARK).write_text(text + "\n", encoding="utf-8")
    return site


def _chosen(reader: Reader, row: Row, features: str, more: Iterable[tuple[int, int]]) -> list[Row]:
    """The features of a site, with their columns of the index."""
    named = set(more) | (set() if features in ("all", "top") else set(_named(features, row)))
    corpus_id, _ = corpora_of(reader, row["checkpoint_id"], None)
    values = {
        "checkpoint": row["checkpoint_id"], "corpus": corpus_id, "preferred": list(PREFERRED),
        "layers": ingested_layers(row), "n_features": row["d_transcoder"], "n_top": row["d_transcoder"],
    }  # fmt: skip
    rows = reader.panel("", CHOSEN, values, row["n_layers"] * row["d_transcoder"]).rows
    if features == "all":
        return rows
    if features == "top":
        best: dict[int, list[Row]] = defaultdict(list)
        for one in sorted(
            rows, key=lambda one: (one["score"] is None, -(one["score"] or 0), one["description"] is None)
        ):
            best[one["layer"]].append(one)
        named |= {(one["layer"], one["feature"]) for some in best.values() for one in some[:N_TOP]}
    return [one for one in rows if (one["layer"], one["feature"]) in named]


def _named(features: str, row: Row) -> Iterable[tuple[int, int]]:
    for text in features.split(","):
        found = re.fullmatch(r"\s*(\d{1,5})/(\d{1,9})\s*", text)
        place = (int(found[1]), int(found[2])) if found else None
        if place is None or place[0] not in ingested_layers(row) or place[1] >= row["d_transcoder"]:
            raise ValueError(
                f"--features: {text[:40]!r} is not a feature of it; expected all, top, or LAYER/FEATURE,… with "
                f"layers 0 to {row['n_layers'] - 1} and features 0 to {row['d_transcoder'] - 1}"
            )
        yield place


def _features_of(place: Place, row: Row, graphs: Sequence[str]) -> set[tuple[int, int]]:
    """The checkpoint's features in some graphs."""
    found = set()
    for name in graphs:
        read = read_graph(place.graphs, name)
        if graph.is_own(read, row):
            nodes = [node for node in map(described, read["nodes"]) if node["kind"] == "feature"]
            found |= {(node["layer"], node["index"]) for node in nodes if node["index"] is not None}
    return {(a, b) for a, b in found if a in ingested_layers(row) and 0 <= b < row["d_transcoder"]}


def _compared(reader: Reader) -> list[Row]:
    query = "SELECT DISTINCT checkpoint_a, checkpoint_b FROM feature_matches ORDER BY ALL"
    return reader.panel("", query, {}).rows


def _indexes(writer: _Writer, row: Row, rows: Sequence[Row]) -> None:
    """Pages of the index, with some hundred features each, and one that links to them."""
    layers: dict[int, list[list[Row]]] = {}
    for layer in ingested_layers(row):
        own = [one for one in rows if one["layer"] == layer]
        layers[layer] = [own[at : at + ROWS_A_PAGE] for at in range(0, len(own), ROWS_A_PAGE)] or [[]]
    facts = {"layers": layers, "index_path": index_path}
    writer.page("features/index.html", Page("Features", row, facts), "site_features", shown=None)
    for layer, pages in layers.items():
        for number, some in enumerate(pages):
            shown = {"layer": layer, "page": number, "rows": some}
            writer.page(
                index_path(layer, number), Page(f"Features of layer {layer}", row, facts), "site_features", shown=shown
            )


def _described(
    reader: Reader, checkpoint_id: str, features: set[tuple[int, int]]
) -> Iterable[tuple[int, int, list[str]]]:
    """(layer, feature, descriptions) of the features of a site, the preferred description first."""
    query = """
        SELECT layer, feature, list(text ORDER BY coalesce(list_position($preferred, method), 99), method) AS texts
        FROM descriptions WHERE checkpoint_id = $checkpoint AND cluster = -1 AND text IS NOT NULL
        GROUP BY ALL ORDER BY ALL"""
    for batch in reader.batches(query, {"checkpoint": checkpoint_id, "preferred": list(PREFERRED)}):
        for layer, number, texts in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if (layer, number) in features:
                yield layer, number, texts
