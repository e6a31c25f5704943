"""One token: the features it fires, and those that promote it."""

from typing import Annotated

from fastapi import Path, Query

from explorer.catalog import Reader
from explorer.errors import NotFoundError
from explorer.page import Page
from explorer.views.common import LABELS
from explorer.views.parameters import Checkpoint
from interp.descriptions.preference import PREFERRED

N_SHOWN = 60

TOKEN = "SELECT token_id, text FROM tokens WHERE checkpoint_id = $checkpoint AND token_id = $token"

FEATURES = """
    WITH found AS (
        SELECT layer, feature, side, sign, rank, score, z_score, activation, validated, source_layer, source_feature
        FROM token_candidates WHERE checkpoint_id = $checkpoint AND token_id = $token
        QUALIFY row_number() OVER (
            PARTITION BY side, sign
            ORDER BY validated DESC NULLS LAST, activation DESC NULLS LAST, abs(z_score) DESC NULLS LAST, layer, feature
        ) <= $n_shown
    )
    SELECT found.*, d.text AS description FROM found LEFT JOIN {labels} d USING (layer, feature)
    ORDER BY side, sign DESC, validated DESC NULLS LAST, activation DESC NULLS LAST, abs(z_score) DESC NULLS LAST,
             layer, feature
"""

ALIKE = """
    SELECT token_id, text FROM tokens
    WHERE checkpoint_id = $checkpoint AND lower(trim(text)) = lower(trim($text)) ORDER BY token_id LIMIT 20
"""

NAMED = """
    SELECT token_id, text FROM tokens WHERE checkpoint_id = $checkpoint AND contains(lower(text), lower($words))
    ORDER BY lower(trim(text)) <> lower(trim($words)), length(text), token_id LIMIT 200
"""


def token_page(
    reader: Reader,
    checkpoint: Checkpoint,
    token: Annotated[int, Path(ge=-100_000_000, le=100_000_000, description="Token id.")],
) -> Page:
    """The features that a token fires, and those that promote it."""
    row = reader.checkpoint(checkpoint)
    values = {
        "checkpoint": row["checkpoint_id"], "token": token, "n_shown": N_SHOWN, "preferred": list(PREFERRED)
    }  # fmt: skip
    found = reader.panel("Token", TOKEN, values)
    if not found.rows:
        raise NotFoundError(f"the vocabulary of {row['name']} has no token {token}")
    text = found.rows[0]["text"]
    panels = {
        "token": found,
        "alike": reader.panel("Tokens like it", ALIKE, values | {"text": text}),
        "features": reader.panel("Features", FEATURES.format(labels=LABELS), values),
    }
    return Page(f"Token ‘{text[:60]}’", row, {"token": token, "text": text}, panels)


def tokens_named(reader: Reader, checkpoint: Checkpoint, words: Annotated[str, Query(max_length=200)] = "") -> Page:
    """Tokens of the vocabulary that have some letters."""
    row = reader.checkpoint(checkpoint)
    found = reader.panel("Tokens", NAMED, {"checkpoint": row["checkpoint_id"], "words": words})
    return Page("Tokens", row, {"words": words}, {"tokens": found})
