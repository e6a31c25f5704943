"""The comparison of two checkpoints as a page with plots."""

from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flows.reports.summary import markdown_cell
from storage.catalog.published import open_published
from storage.store import Store, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FATES = {"kept": "#4c78a8", "moved": "#f2a13b", "died": "#b0b0b0", "born": "#59a14f"}

N_SHOWN = 20

COUNTS = """
    SELECT layer, count(*) FILTER (fate = 'kept'), count(*) FILTER (fate = 'moved'), count(*) FILTER (fate = 'died'),
           count(*) FILTER (fate = 'born'), median(cosine_enc), median(cosine_dec), median(activation_correlation)
    FROM feature_matches WHERE checkpoint_a = ? AND checkpoint_b = ? GROUP BY layer ORDER BY layer
"""

SURPRISES = """
    SELECT layer, feature_a, feature_b, least(cosine_enc, cosine_dec), activation_correlation, text_a, text_b
    FROM drift WHERE checkpoint_a = ? AND checkpoint_b = ? AND surprise = ?
    ORDER BY abs(agreement - 0.5) DESC, layer, feature_a LIMIT ?
"""

COSINES = """
    SELECT least(cosine_enc, cosine_dec), activation_correlation FROM feature_matches
    WHERE checkpoint_a = ? AND checkpoint_b = ? AND cosine_enc IS NOT NULL
    USING SAMPLE reservoir(20000 ROWS) REPEATABLE (0)
"""


class _Surprise(NamedTuple):
    """A matched feature whose description changed although its weights did not, or the other way round."""

    layer: int
    before: int
    after: int
    cosine: float
    correlation: float | None
    text_before: str | None
    text_after: str | None


def write_report(store: Store, a: str, b: str) -> Path:
    """Write reports/drift-A-B/index.md and its plots from the catalog; returns the page."""
    folder = store.reports(f"drift-{a}-{b}")
    with open_published(store.catalog) as connection:
        query = "SELECT name, step FROM checkpoints WHERE checkpoint_id = ?"
        names = [_name(*connection.execute(query, [checkpoint_id]).fetchall()[0]) for checkpoint_id in (a, b)]
        counts = connection.execute(COUNTS, [a, b]).fetchall()
        pairs = np.array(connection.execute(COSINES, [a, b]).fetchall(), float).reshape(-1, 2)
        surprises = {
            what: list(starmap(_Surprise, connection.execute(SURPRISES, [a, b, what, N_SHOWN]).fetchall()))
            for what in ("description changed", "description stayed")
        }
    _plot_fates(folder / "fates.png", counts)
    _plot_cosines(folder / "cosines.png", pairs)
    with whole_file(folder / "index.md") as partial:
        partial.write_text("\n".join(_page(names, (a, b), counts, surprises)) + "\n", encoding="utf-8")
    return folder / "index.md"


def _name(name: str, step: int | None) -> str:
    return markdown_cell(name if step is None else f"{name}, step {step}")


def _page(
    names: list[str], ids: tuple[str, str], counts: list[tuple], surprises: dict[str, list[_Surprise]]
) -> list[str]:
    lines = [f"# From {names[0]} ({ids[0]}) to {names[1]} ({ids[1]})", ""]
    lines += ["| layer | kept | moved | died | born | encoder cosine | decoder cosine | activations correlate |"]
    lines += ["|---" * 8 + "|"]
    lines += [f"| {' | '.join([*map(str, row[:5]), *map(_figure, row[5:])])} |" for row in counts]
    lines += ["", "Medians over the features that were kept or moved.", ""]
    lines += ["![What became of the features](fates.png)", "", "![How far they moved](cosines.png)"]
    titles = ("The description changed, though the weights hardly did", "The weights moved, the description stayed")
    for title, rows in zip(titles, surprises.values(), strict=True):
        lines += ["", f"## {title}", ""]
        if not rows:
            lines.append("None.")
            continue
        lines += ["| layer | before | after | cosine | correlation | description before | after |", "|---" * 7 + "|"]
        for layer, first, second, cosine, correlation, before, after in rows:
            texts = f"{markdown_cell(before or '')} | {markdown_cell(after or '')}"
            lines.append(f"| {layer} | {first} | {second} | {_figure(cosine)} | {_figure(correlation)} | {texts} |")
    return lines


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _plot_fates(path: Path, counts: list[tuple]) -> None:
    figure = _figure_of(7, 3.5)
    axes = figure.subplots()
    layers, below = [row[0] for row in counts], np.zeros(len(counts))
    for at, (fate, colour) in enumerate(FATES.items()):
        n = np.array([row[1 + at] for row in counts])
        axes.bar(layers, n, bottom=below, color=colour, label=fate)
        below += n
    axes.set(xlabel="layer", ylabel="features", title="What became of the features")
    axes.set_xticks(layers)
    axes.legend(ncols=4, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    _save(figure, path)


def _plot_cosines(path: Path, pairs: np.ndarray) -> None:
    figure = _figure_of(9, 3.5)
    left, right = figure.subplots(1, 2)
    left.hist(pairs[:, 0], bins=np.linspace(0, 1, 101).tolist(), color=FATES["kept"])
    left.set(xlabel="lower of encoder and decoder cosine", ylabel="matched features", yscale="log")
    known = pairs[~np.isnan(pairs[:, 1])]
    right.scatter(known[:, 0], known[:, 1], s=4, alpha=0.3, color=FATES["kept"], linewidths=0)
    right.set(xlabel="lower of encoder and decoder cosine", ylabel="correlation of activations")
    if len(known) == 0:
        right.text(0.5, 0.5, "activations were not compared", ha="center", va="center", transform=right.transAxes)
    _save(figure, path)


def _figure_of(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # half a second to import

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
