"""What all features would cost, from what a sample cost."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.reports.extrapolation import extrapolated
from storage.catalog.database import open_catalog
from storage.store import Store


def test_all_features_cost_in_proportion_to_the_sample(tmp_path: Path) -> None:
    store, now = Store(tmp_path), datetime.now(UTC)
    with open_catalog(store.catalog, write=True) as connection:
        for at, (run, recipe) in enumerate((("old", "r0"), ("first", "r1"), ("second", "r1"))):
            connection.execute(
                "INSERT INTO runs BY NAME SELECT ? AS run_id, 'c' AS checkpoint_id, 'text' AS corpus_id, "
                "'describe' AS stage, ? AS recipe, 'completed' AS status, ?::TIMESTAMPTZ AS started_at",
                [run, recipe, now + timedelta(seconds=at)],
            )
            connection.execute(
                "INSERT INTO llm_calls BY NAME SELECT ? || i AS call_id, ? AS run_id, 'explain' AS purpose, "
                "0.01 AS cost_usd FROM range(5) t(i)",
                [run, run],
            )
        connection.execute(
            "INSERT INTO descriptions BY NAME SELECT 'c' AS checkpoint_id, 'text' AS corpus_id, 0 AS layer, "
            "i AS feature, 'maxact' AS method, 'openai' AS explainer, -1 AS cluster, 'x' AS text FROM range(4) t(i)"
        )
        connection.execute(
            "INSERT INTO features BY NAME SELECT 'c' AS checkpoint_id, 'text' AS corpus_id, 0 AS layer, i AS feature, "
            "i >= 90 AS is_dead FROM range(100) t(i)"
        )
    found = extrapolated(store, "c", "describe")
    assert found is not None
    assert found == (pytest.approx(0.1), 4, 90)
    assert found.usd_for_all == pytest.approx(0.1 / 4 * 90)
    assert "all 90 that fire" in found.sentence("described")
    assert extrapolated(store, "c", "evaluate") is None
