"""Methods of description beside one another."""

from pathlib import Path

import pytest

from storage.catalog.database import open_catalog

FIGURES: dict[str, list[float | None]] = {
    "a": [0.9, 0.7, 0.5, 0.1],
    "b": [0.8, 0.4, None, None],
    "control:shuffled:a": [0.1, 0.1, 0.1, 0.1],
}
"""By method, the figures of four features."""


def test_methods_are_compared_on_the_features_that_all_describe(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog.duckdb", write=True) as connection:
        for method, values in FIGURES.items():
            for feature, value in enumerate(values):
                row = ["c", "t", 0, feature, method, "tokens", "rule", "clarity", value, None, None, 9, None]
                connection.execute(f"INSERT INTO scores VALUES ({', '.join('?' * len(row))})", row)
        columns = "method, mean, n_features, coverage, common_mean, n_common, lift"
        found = {row[0]: row[1:] for row in connection.execute(f"SELECT {columns} FROM method_comparison").fetchall()}
    assert found["a"] == pytest.approx((0.55, 4, 1.0, 0.8, 2, 0.45))
    assert found["b"][:-1] == pytest.approx((0.6, 2, 0.5, 0.6, 2))
    assert found["b"][-1] is None
    assert found["control:shuffled:a"][3:5] == pytest.approx((0.1, 2))
