"""The results of judging as a report: tables by metric, layer and method, plots, examples, and the quality of the
judge."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from flows.reports.summary import markdown_cell
from interp.fade.judging import METRICS
from storage.catalog.database import open_catalog
from storage.store import Store, whole_file

N_EXAMPLES = 2
"""Features of each layer that are shown with all their descriptions."""

MEANINGS = {
    "clarity": "texts written from the description activate the feature, natural ones do not (0 to 1)",
    "responsiveness": "the activation separates texts that show the description from those that do not (0 to 1)",
    "purity": "the texts that activate the feature are those that show the description (average precision)",
    "faithfulness": "with the feature held high, the model's text shows the description (0: as without, 1: always)",
    "faithfulness_paper": "faithfulness as published: the factor is chosen on the same prompts, so chance is above 0",
    "simulation": "activity predicted token by token (AUROC; 0.5 is chance)",
    "detection": "the judge recognises texts in which the feature is active (balanced accuracy; 0.5 is chance)",
    "detection_hard": "the judge tells its texts from those of similar ones (balanced accuracy; 0.5 is chance)",
    "fuzzing_hard": "the judge tells its marked tokens from those of similar ones (balanced accuracy; 0.5 is chance)",
    "intruder": "the judge finds the one of five texts that does not fit the description (0.2 is chance)",
    "embedding": "texts in which it is active have embeddings closer to the description's (AUROC; 0.5 is chance)",
    "surprisal": "the description raises the likelihood of texts in which it is active (AUROC; 0.5 is chance)",
    "stability": "share of the firing tokens named in either half of the documents that both halves name",
    "fuzzing": "the judge tells correct marks from wrong ones (balanced accuracy; 0.5 is chance)",
}

Key = list[str]
"""checkpoint_id, corpus_id, explainer, judge."""

WHERE = "checkpoint_id = ? AND corpus_id = ? AND explainer = ? AND judge = ?"


def write_report(store: Store, recipe: str, key: Key) -> str:
    """Write `report.md` and its plots into the store's reports; returns the Markdown."""
    folder = store.reports(recipe)
    with open_catalog(store.catalog) as connection:
        rows = connection.execute(
            f"""SELECT metric, method, layer, mean, low, high, n_features, lift, lift_low, common_mean, n_common,
                       coverage
                FROM method_comparison WHERE {WHERE} ORDER BY ALL""",
            key,
        ).fetchall()
        text = "\n".join(_lines(connection, key, rows)) + "\n"
    for metric in METRICS:
        _plot(folder / f"{metric}.png", metric, [row[1:] for row in rows if row[0] == metric])
    with whole_file(folder / "report.md") as partial:
        partial.write_text(text, encoding="utf-8")
    return text


def _lines(connection: duckdb.DuckDBPyConnection, key: Key, rows: list[tuple[Any, ...]]) -> Iterator[str]:
    yield f"# Descriptions worded by {markdown_cell(key[2])}, judged by {markdown_cell(key[3])}"
    yield ""
    yield "Means over the features that every method in the table describes, on text that no description was made from;"
    yield "compare methods by these. `own`: over all features that the method describes, ± half of the 95% interval,"
    yield "with their share of the features that any method describes. `lift`: the difference to the method's own texts"
    yield "shuffled among the features of the layer."
    yield from _usefulness(connection, key)
    for metric in METRICS:
        yield from _table(metric, [row[1:] for row in rows if row[0] == metric])
    yield from _examples(connection, key)


def _usefulness(connection: duckdb.DuckDBPyConnection, key: Key) -> Iterator[str]:
    query = (
        f"SELECT metric, list(layer ORDER BY layer) FROM judge_usefulness WHERE {WHERE} AND NOT is_useful GROUP BY 1"
    )
    useless = dict(connection.execute(query, key).fetchall())
    yield ""
    if not useless:
        yield "The judge tells real descriptions from shuffled ones in every layer, by every metric."
        return
    yield "**The judge is useless** by these metrics: it cannot tell any method's descriptions from shuffled ones:"
    for metric in (metric for metric in METRICS if metric in useless):
        yield f"- {metric} in layer {', '.join(map(str, useless[metric]))}"


def _table(metric: str, rows: list[tuple[Any, ...]]) -> Iterator[str]:
    if all(row[2] is None for row in rows):
        return
    layers = sorted({row[1] for row in rows})
    yield from ("", f"## {metric}", "", f"{MEANINGS[metric].capitalize()}.", "")
    yield "| method | " + " | ".join(f"layer {layer}" for layer in layers) + " |"
    yield "|---" * (len(layers) + 1) + "|"
    for method in sorted({row[0] for row in rows}, key=lambda name: (name.startswith("control"), name)):
        by_layer = {row[1]: row[2:] for row in rows if row[0] == method}
        yield f"| {markdown_cell(method)} | " + " | ".join(_cell(by_layer.get(layer)) for layer in layers) + " |"


def _cell(figures: tuple[Any, ...] | None) -> str:
    if figures is None or figures[0] is None:
        return ""
    mean, low, _, n, lift, lift_low, common, n_common, coverage = figures
    spread = "" if low is None else f" ± {mean - low:.2f}"
    over = "" if lift is None else f"<br>lift {lift:+.2f}" + ("" if (lift_low or 0) > 0 else " (n.s.)")
    beside = "–" if common is None else f"{common:.2f} ({n_common})"
    share = "" if coverage is None else f", {coverage:.0%}"
    return f"{beside}<br>own {mean:.2f}{spread} ({n}{share}){over}"


def _examples(connection: duckdb.DuckDBPyConnection, key: Key) -> Iterator[str]:
    """The features with the greatest clarity, with all their descriptions."""
    query = f"""
        WITH best AS (
            SELECT layer, feature FROM scores
            WHERE {WHERE} AND metric = 'clarity' AND method NOT LIKE 'control:%' AND value IS NOT NULL
            GROUP BY layer, feature
            QUALIFY {N_EXAMPLES} >=
                row_number() OVER (PARTITION BY layer ORDER BY count(*) DESC, avg(value) DESC, feature)
        )
        SELECT d.layer, d.feature, d.method, d.text, s.value FROM descriptions d JOIN best USING (layer, feature)
        LEFT JOIN scores s ON s.checkpoint_id = d.checkpoint_id AND s.layer = d.layer AND s.feature = d.feature
             AND s.method = d.method AND s.metric = 'clarity' AND s.corpus_id = ? AND s.explainer = ? AND s.judge = ?
        WHERE d.checkpoint_id = ? AND d.cluster = -1
          AND ((d.explainer = ? AND d.corpus_id = ?) OR d.corpus_id IS NULL)
        ORDER BY ALL"""
    rows = connection.execute(query, [*key, *key[1:], key[0], key[2], key[1]]).fetchall()
    yield from (
        "",
        "## The features with the greatest clarity",
        "",
        "| layer | feature | method | description | clarity |",
        "|---" * 5 + "|",
    )
    for layer, feature, method, text, value in rows:
        shown = "" if value is None else f"{value:.2f}"
        yield f"| {layer} | {feature} | {markdown_cell(method)} | {markdown_cell(text)} | {shown} |"


def _plot(path: Path, metric: str, rows: list[tuple[Any, ...]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = sorted(
        {row[0] for row in rows if row[2] is not None}, key=lambda name: (name.startswith("control"), name)
    )
    shown = [method for method in methods if not method.startswith("control:shuffled:")]
    if not shown:
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for at, method in enumerate(shown):
        for name, style in ((method, "-"), (f"control:shuffled:{method}", ":")):
            points = [row for row in rows if row[0] == name and row[2] is not None]
            layers = [row[1] + 0.04 * (at - len(shown) / 2) for row in points]
            reach = [0.0 if row[3] is None else row[2] - row[3] for row in points]
            label = name if style == "-" else None
            axes.errorbar(
                layers, [row[2] for row in points], reach, fmt=f"o{style}", ms=3, lw=1, color=f"C{at % 10}", label=label
            )
    axes.set_xlabel("layer; dotted: the same descriptions shuffled")
    axes.set_ylabel(metric)
    axes.set_xticks(sorted({row[1] for row in rows}))
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
