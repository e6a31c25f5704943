"""The results of a run: by layer, and a few of the most convincing features."""

import re
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from interp.display import visible
from interp.quality import Quality
from storage.catalog.published import open_published
from storage.store import Store

N_SHOWN = 10

MAX_DENSITY = 0.05
"""A feature that fires at a larger share of the tokens says little about any of them, and is not shown."""

MAX_CHARACTERS = 160
"""Longer descriptions are not shown."""


class Shown(NamedTuple):
    """A feature that the summary shows."""

    layer: int
    feature: int
    text: str
    """One of its descriptions."""
    clarity: float | None
    """Scores of that description by one judge; None if it has not both."""
    detection: float | None


class Summary(NamedTuple):
    """Rows of the summary."""

    layers: list[tuple[int, int, int, float, float, float]]
    """(layer, features, described, share, explained variance, L0)"""
    features: list[Shown]
    """The most convincing features of each layer: those with clarity and detection if there are any, else those that
    WeightLens describes best."""
    n_shards: int
    """Shards of the last run that could be copied from another checkpoint."""
    n_reused: int
    """Shards of these that were copied from another checkpoint."""
    example: tuple[int, int, str] | None
    """(layer, feature, description) of the feature to look at first: described by whole words, and with good scores if
    there are any."""
    report: Path | None
    """The report of the latest evaluation."""

    @property
    def reuse(self) -> str | None:
        """What the run copied from other checkpoints, in words."""
        share = f"{self.n_reused} of {self.n_shards} shards" if self.n_reused else None
        return share and f"{share} copied from other checkpoints of the store, since they are equal"


LAYERS = """
    SELECT layer, n_features, n_described, share_described, explained_variance, l0
    FROM layer_summary WHERE checkpoint_id = ? ORDER BY layer
"""

# A convincing feature is described by a few whole words, which have high z-scores and activate the feature strongly
# compared with the others of its layer. The best of every layer are shown, so that the list covers the whole model.
FEATURES = """
    WITH validated AS (
        SELECT layer, feature, count(*) AS n_tokens, max(z_score) AS z, max(activation) AS activation
        FROM token_candidates WHERE checkpoint_id = $id AND validated GROUP BY ALL
    ), scored AS (
        SELECT v.*, d.text,
               percent_rank() OVER (PARTITION BY v.layer ORDER BY z)
               + percent_rank() OVER (PARTITION BY v.layer ORDER BY activation) AS strength,
               len(list_filter(d.tokens, lambda token: regexp_matches(token, '^ ?\\pL{3,}$'))) / n_tokens AS wordiness
        FROM validated v
        JOIN descriptions d ON d.checkpoint_id = $id AND d.method = 'weightlens'
             AND d.layer = v.layer AND d.feature = v.feature
        WHERE v.n_tokens BETWEEN 3 AND 12
    )
    SELECT layer, feature, text, NULL, NULL FROM scored
    QUALIFY row_number() OVER (PARTITION BY layer ORDER BY strength + 2 * wordiness DESC, feature) <= $each
    ORDER BY layer, strength + 2 * wordiness DESC LIMIT $n
"""

# Of scored features, those are the most convincing whose description is short, says whole words or kinds of tokens
# rather than pieces of words and signs, above all where it begins, and holds on texts that were written from it
# (clarity) as well as on texts of the corpus (detection, which is 0.5 by chance). A context that the words need says
# more than the words alone. What the feature promotes is not scored, so descriptions that end with it are left out. A
# word is shown once.
SCORED_FEATURES = """
    WITH described AS (
        SELECT d.layer, d.feature, d.text, d.method, d.explainer, s.judge, s.corpus_id,
               max(value) FILTER (metric = 'clarity') AS clarity, max(value) FILTER (metric = 'detection') AS detection,
               regexp_extract_all(d.text, '‘([^’]*)’', 1) AS named
        FROM descriptions d JOIN scores s USING (checkpoint_id, layer, feature, method, explainer)
        JOIN features f ON f.checkpoint_id = $id AND f.corpus_id = s.corpus_id
             AND f.layer = d.layer AND f.feature = d.feature AND f.density <= $density
        WHERE d.checkpoint_id = $id AND (d.corpus_id IS NULL OR d.corpus_id = s.corpus_id) AND d.cluster = -1
              AND metric IN ('clarity', 'detection') AND value IS NOT NULL
              AND NOT contains(d.text, 'romotes') AND NOT contains(d.text, 'upstream') AND length(d.text) <= $length
        GROUP BY ALL
    ), rated AS (
        SELECT *, clarity + 2 * (detection - 0.5)
               + len(list_filter(named, lambda word: regexp_matches(word, '^\\pL{3,}$'))) / greatest(len(named), 1)
               + (NOT starts_with(text, '‘') OR regexp_matches(text, '^‘\\pL{2,}’'))::INT
               + 0.2 * regexp_matches(text, 'right (after|before)|at the start|words that|in texts with')::INT AS rating
        FROM described WHERE clarity IS NOT NULL AND detection IS NOT NULL
    ), best AS (
        SELECT * FROM rated QUALIFY row_number() OVER (PARTITION BY layer, feature ORDER BY rating DESC, text) = 1
    ), distinct_words AS (
        SELECT * FROM best QUALIFY row_number() OVER (
            PARTITION BY coalesce(lower(named[1]), text) ORDER BY rating DESC, layer, feature) = 1
    ), of_layers AS (
        SELECT *, row_number() OVER (PARTITION BY layer ORDER BY rating DESC, feature) AS place FROM distinct_words
    ), chosen AS (SELECT * FROM of_layers ORDER BY place, rating DESC, layer, feature LIMIT $n)
    SELECT layer, feature, text, clarity, detection FROM chosen ORDER BY layer, place
"""


REUSED = """
    SELECT coalesce(sum(n_shards), 0), coalesce(sum(n_reused), 0) FROM runs WHERE run_id =
    (SELECT run_id FROM runs WHERE checkpoint_id = $id ORDER BY started_at DESC LIMIT 1)
"""


EXAMPLE = """
    SELECT layer, feature, d.text FROM scores JOIN descriptions d USING (checkpoint_id, layer, feature)
    WHERE checkpoint_id = $id AND metric IN ('clarity', 'detection') AND value IS NOT NULL
          AND scores.method NOT LIKE 'control:%' AND d.method = 'weightlens'
          AND len(list_filter(d.tokens, lambda token: regexp_matches(token, '^ \\pL{4,}$')))
              >= greatest(2, len(d.tokens) / 2)
    GROUP BY ALL ORDER BY avg(value) DESC, layer, feature LIMIT 1
"""

EVALUATED = (
    "SELECT recipe FROM loaded WHERE starts_with(subject, $id) AND starts_with(stage, 'evaluate') ORDER BY stage"
)


def layer_quality(store: Store, checkpoint_id: str) -> list[Quality]:
    """The quality with which a checkpoint was ingested."""
    names = [field.name for field in fields(Quality)]
    query = f"SELECT {', '.join(names)} FROM transcoder_quality WHERE checkpoint_id = ? ORDER BY layer"
    with open_published(store.catalog) as connection:
        return [Quality(*row) for row in connection.execute(query, [checkpoint_id]).fetchall()]


def summarise(store: Store, checkpoint_id: str) -> Summary:
    """Read the summary of a checkpoint from the catalog."""
    with open_published(store.catalog) as connection:
        layers = connection.execute(LAYERS, [checkpoint_id]).fetchall()
        each = -(-N_SHOWN // max(1, len(layers)))
        limits = {"id": checkpoint_id, "n": N_SHOWN, "density": MAX_DENSITY, "length": MAX_CHARACTERS}
        rows = connection.execute(SCORED_FEATURES, limits).fetchall()
        rows = rows or connection.execute(FEATURES, {"id": checkpoint_id, "each": each, "n": N_SHOWN}).fetchall()
        features = [Shown(*row) for row in rows]
        n_shards, n_reused = connection.execute(REUSED, {"id": checkpoint_id}).fetchall()[0]
        best = connection.execute(EXAMPLE, {"id": checkpoint_id}).fetchall()
        evaluated = [recipe for (recipe,) in connection.execute(EVALUATED, {"id": checkpoint_id}).fetchall()]
    example = next(iter([*best, *(one[:3] for one in features)]), None)
    reports = (store.root / "reports" / recipe / "report.md" for recipe in evaluated)
    return Summary(
        layers, features, n_shards, n_reused, example, next((path for path in reports if path.is_file()), None)
    )


def score(value: float | None) -> str:
    """A score with two decimals; a dash if there is none."""
    return "–" if value is None else f"{value:.2f}"


def quoted_words(description: str) -> list[str]:
    """The whole words that a description names."""
    return re.findall(r"‘([^\W\d_]{4,})’", description)


def markdown_summary(store: Store, checkpoint_id: str) -> str:
    """The summary for Prefect's UI."""
    summary = summarise(store, checkpoint_id)
    lines = ["| layer | features | described | share | explained variance | L0 |", "|---|---|---|---|---|---|"]
    lines += [f"| {a} | {b} | {c} | {d:.0%} | {e:.3f} | {f:.1f} |" for a, b, c, d, e, f in summary.layers]
    lines += ["", summary.reuse] if summary.reuse else []
    lines += ["", "| layer | feature | description | clarity | detection |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.layer} | {one.feature} | {markdown_cell(one.text)} | {score(one.clarity)} | {score(one.detection)} |"
        for one in summary.features
    ]
    return "\n".join(lines)


def markdown_cell(text: str) -> str:
    """Text from a vocabulary, corpus or file, harmless in Markdown, as plain text: at most one cell of a table.

    Characters with a meaning are escaped. Renderers also turn bare addresses into links, some of them even when
    escaped; a zero-width joiner breaks the patterns that they look for. Prefect's pages show HTML entities literally,
    so none is used.
    """
    escaped = visible(text).translate({ord(character): f"\\{character}" for character in "\\`*_{}[]()#+!|<>~$&@"})
    escaped = _ADDRESS.sub(rf"\g<0>{_JOINER}", escaped)
    return re.sub(r"(?<=\w)\.(?=\w)", r"\\.", escaped)


_JOINER = "\u2060"

_ADDRESS = re.compile(r"(?i)[a-z]:(?=//)|www(?=\.)|\\@")
"""Ends of text after which an address must not continue: `http:`, `www`, and @."""
