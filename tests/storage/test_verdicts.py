"""The views that say which descriptions pass, and how often wrong ones do."""

from collections.abc import Iterator

import duckdb
import pytest

from storage.catalog.database import open_catalog
from storage.catalog.verdict_views import DECIDING

INTERVALS = {"pass": (0.6, 0.9), "fail": (0.4, 0.55), "open": (0.45, 0.7), "none": (None, None)}


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_catalog(tmp_path_factory.mktemp("verdicts") / "catalog.duckdb", write=True) as connection:
        judged = [("c", 0, "m", ("pass", "pass", "pass")), ("c", 1, "m", ("pass", "fail", "pass")),
                  ("c", 2, "m", ("pass", "open", "pass")), ("c", 3, "m", ("pass", "pass", "none")),
                  ("c", 0, "control:shuffled:m", ("fail", "fail", "fail")),
                  ("c", 1, "control:shuffled:m", ("pass", "pass", "pass")),
                  ("c", 0, "control:swapped:m", ("open", "open", "open")),
                  ("c", 0, "control:constant", ("open", "open", "open")),
                  ("d", 0, "m", ("pass", "pass", "pass")), ("d", 1, "m", ("fail", "open", "open")),
                  ("d", 0, "control:shuffled:m", ("pass", "pass", "pass"))]  # fmt: skip
        for checkpoint, feature, method, found in judged:
            for metric, name in zip(DECIDING, found, strict=True):
                low, high = INTERVALS[name]
                value = None if low is None else 0.5
                reason = None if value else "never_active"
                connection.execute(
                    "INSERT INTO scores VALUES (?, 't', 0, ?, ?, 'tokens', 'rule', ?, ?, ?, ?, 9, ?)",
                    [checkpoint, feature, method, metric, value, low, high, reason],
                )
        connection.execute(
            "INSERT INTO scores SELECT 'c', 't', 0, 0, 'added', 'tokens', 'rule', unnest(?), NULL, NULL, NULL, 9, "
            "'as_of_m'",
            [list(DECIDING)],
        )
        for feature, kind in ((0, "recombined"), (1, "random")):
            connection.execute("INSERT INTO decoys VALUES ('c', 'd', 0, ?, ?, 5, NULL, 0.1)", [feature, kind])
        yield connection


def test_a_description_passes_by_all_three_scores_and_fails_by_one(connection: duckdb.DuckDBPyConnection) -> None:
    query = """SELECT verdict, weakest, reason FROM verdicts WHERE checkpoint_id = 'c' AND method = 'm'
               ORDER BY feature"""
    assert connection.execute(query).fetchall() == [
        ("pass", DECIDING[0], None),
        ("fail", DECIDING[1], None),
        ("undecided", DECIDING[1], None),
        ("undecided", None, "fuzzing_hard: never_active"),
    ]


def test_the_false_positive_rate_is_that_of_wrong_descriptions_of_the_method(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    query = """SELECT DISTINCT false_positive_rate, n_wrong, wrong_kinds, false_positive_low, false_positive_high
               FROM verdicts WHERE checkpoint_id = 'c' AND method = 'm' AND n_wrong > 0"""
    [(rate, n, kinds, low, high)] = connection.execute(query).fetchall()
    assert (rate, n, kinds) == (0.25, 4, "decoy: random, shuffled, swapped")
    assert (round(low, 3), round(high, 3)) == (0.046, 0.699)


def test_pass_rates_are_by_kind_and_decoys_are_those_of_the_real_checkpoint(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    query = "SELECT kind, method, n_judged, n_pass, n_fail, n_undecided FROM pass_rates ORDER BY kind"
    assert connection.execute(query).fetchall() == [
        ("constant", None, 1, 0, 0, 1),
        ("decoy: random", "m", 1, 0, 1, 0),
        ("decoy: recombined", "m", 1, 1, 0, 0),
        ("real", "m", 4, 1, 1, 2),
        ("shuffled", "m", 2, 1, 1, 0),
        ("swapped", "m", 1, 0, 0, 1),
    ]
    assert connection.execute("SELECT count(*) FROM pass_rates WHERE checkpoint_id = 'd'").fetchall() == [(0,)]


def test_a_method_without_figures_of_its_own_is_undecided_and_has_no_rate(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    query = "SELECT verdict, reason FROM verdicts WHERE method = 'added'"
    reason = ", ".join(f"{metric}: as_of_m" for metric in sorted(DECIDING))
    assert connection.execute(query).fetchall() == [("undecided", reason)]
    assert connection.execute("SELECT count(*) FROM pass_rates WHERE method = 'added'").fetchall() == [(0,)]
