"""Methods side by side, and two features side by side."""

import re
from typing import Annotated

from fastapi import Query

from explorer.catalog import Panel, Reader, Row
from explorer.errors import BadRequestError
from explorer.page import Facts, Page
from explorer.views.common import corpora_of
from explorer.views.feature import feature_page
from explorer.views.features import SCORED
from explorer.views.parameters import Checkpoint, Corpus

N_EXAMPLES = 3

METHODS = """
    SELECT method, explainer, judge, sum(n_features)::BIGINT AS n_judged,
           sum(mean * n_features) / sum(n_features) AS mean_score,
           sum(common_mean * n_common) / nullif(sum(n_common), 0) AS common_score, sum(n_common)::BIGINT AS n_common,
           sum(lift * n_paired) / nullif(sum(n_paired), 0) AS mean_lift
    FROM method_comparison
    WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND metric = $metric AND judge <> 'none'
      AND method NOT LIKE 'control:%' AND n_features > 0
    GROUP BY ALL ORDER BY mean_lift DESC NULLS LAST, method
"""

LAYERS = """
    SELECT layer, method, explainer, judge, n_features, mean, low, high, lift, lift_low, lift_high
    FROM method_comparison
    WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND metric = $metric AND judge <> 'none'
      AND method NOT LIKE 'control:%' AND n_features > 0 ORDER BY method, explainer, judge, layer
"""

DIFFERENCES = """
    SELECT method, against, explainer, judge, sum(n_features)::BIGINT AS n_compared,
           sum(difference * n_features) / sum(n_features) AS mean_difference,
           count(*) FILTER (low > 0) AS n_layers_better, count(*) FILTER (high < 0) AS n_layers_worse,
           count(*) AS n_layers
    FROM method_differences
    WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND metric = $metric AND method < against
      AND judge <> 'none'
    GROUP BY ALL ORDER BY abs(mean_difference) DESC, method, against
"""

EXAMPLES = """
    WITH judged AS (
        SELECT s.method, s.explainer, s.judge, s.layer, s.feature, s.value, s.low, s.high,
               row_number() OVER (PARTITION BY s.method, s.explainer, s.judge ORDER BY s.value DESC, s.layer, s.feature)
                   AS from_best,
               row_number() OVER (PARTITION BY s.method, s.explainer, s.judge ORDER BY s.value, s.layer, s.feature)
                   AS from_worst
        FROM scores s
        WHERE s.checkpoint_id = $checkpoint AND s.corpus_id = $corpus AND s.metric = $metric AND s.value IS NOT NULL
          AND s.judge <> 'none' AND s.method NOT LIKE 'control:%'
    )
    SELECT j.*, d.text AS description FROM judged j
    JOIN descriptions d ON d.checkpoint_id = $checkpoint AND d.cluster = -1
         AND (d.layer, d.feature, d.method, d.explainer) = (j.layer, j.feature, j.method, j.explainer)
    WHERE from_best <= $n_examples OR from_worst <= $n_examples
    ORDER BY method, explainer, judge, value DESC, layer, feature
"""


def compare_page(
    reader: Reader,
    checkpoint: Checkpoint,
    metric: Annotated[str, Query(max_length=50, description="By which metric.")] = "clarity",
    corpus: Corpus = None,
) -> Page:
    """Methods of description by one metric: how much each is above chance, and examples of each."""
    row = reader.checkpoint(checkpoint)
    corpus_id, corpora = corpora_of(reader, row["checkpoint_id"], corpus)
    values = {
        "checkpoint": row["checkpoint_id"], "corpus": corpus_id, "metric": metric, "n_examples": N_EXAMPLES
    }  # fmt: skip
    metrics = [one["metric"] for one in reader.kept_panel("Metrics", SCORED, values).rows]
    if metrics and metric not in metrics:
        raise BadRequestError(f"metric is {metric!r}; this checkpoint has scores by {', '.join(metrics)}")
    panels = {
        "methods": reader.kept_panel("Methods", METHODS, values),
        "layers": reader.kept_panel("By layer", LAYERS, values),
        "differences": reader.kept_panel("Method against method", DIFFERENCES, values),
        "examples": reader.kept_panel("Examples", EXAMPLES, values),
    }
    facts = {
        "metric": metric, "metrics": metrics, "corpus": corpus_id, "corpora": corpora,
        "methods": [_method(one, panels) for one in panels["methods"].rows],
    }  # fmt: skip
    return Page("Methods", row, facts, panels)


def _method(method: Row, panels: dict[str, Panel]) -> dict[str, object]:
    """A method's scores with its layers and examples."""

    def of(panel: str) -> list[Row]:
        names = ("method", "explainer", "judge")
        return [row for row in panels[panel].rows if all(row[name] == method[name] for name in names)]

    return {**method, "layers": {row["layer"]: row for row in of("layers")}, "examples": of("examples")}


def pair_page(
    reader: Reader,
    checkpoint: Checkpoint,
    a: Annotated[str, Query(max_length=30, description="A feature, as LAYER/FEATURE.")],
    b: Annotated[str, Query(max_length=30, description="Another.")],
    corpus: Corpus = None,
) -> Page:
    """Two features of a checkpoint side by side."""
    pages = [feature_page(reader, checkpoint, *place_of(text), corpus) for text in (a, b)]
    panels = {
        f"{side}_{name}": page.panels[name]
        for side, page in zip("ab", pages, strict=True)
        for name in ("activity", "descriptions", "contexts", "tokens", "upstream", "downstream")
    }
    facts: Facts = {side: page.facts for side, page in zip("ab", pages, strict=True)}
    facts["shared"] = {name: _shared(pages, name) for name in ("upstream", "downstream")}
    facts["shared_tokens"] = _shared_tokens(pages)
    return Page(f"{a} and {b}", pages[0].checkpoint, facts, panels)


def _shared(pages: list[Page], name: str) -> list[list[int]]:
    """Features that have edges with both."""
    places = [{(row["layer"], row["feature"]) for row in page.panels[name].rows} for page in pages]
    return [list(place) for place in sorted(places[0] & places[1])]


def _shared_tokens(pages: list[Page]) -> list[str]:
    """Tokens that both fire on or promote."""
    texts = [{row["text"] for row in page.panels["tokens"].rows if row["sign"] == 1} for page in pages]
    return sorted(text for text in texts[0] & texts[1] if text is not None)


def place_of(text: str) -> tuple[int, int]:
    """(layer, feature) of `2/899`, also written `2.899`, `L2 #899` or `2 899`.

    Raises:
        BadRequestError: it has another form.
    """
    found = re.fullmatch(r"\s*L?(\d{1,4})\s*[/.:,#\s]\s*#?(\d{1,9})\s*", text, re.IGNORECASE | re.ASCII)
    if not found:
        raise BadRequestError(f"{text!r} names no feature; expected LAYER/FEATURE, like 2/899")
    return int(found[1]), int(found[2])
