"""Descriptions and their judgement over the command line, on the planted model: by rule, and by a language model that a
local server plays."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.catalog import open_catalog
from tests.conftest import planted_overrides
from tests.planted import WORDS

CONFIG = "configs/demo.yaml"
STAGES = "[weightlens, activations, describe, evaluate]"
FEW = [
    "corpus.n_pos=16",
    "corpus.held_out=0.4",
    "evaluate.how.n_texts=20",
    "evaluate.how.text_tokens=10",
    "evaluate.how.faithfulness.n_prompts=4",
    "evaluate.how.faithfulness.new_tokens=3",
    "evaluate.how.faithfulness.prompt_tokens=3",
]
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> tuple[Path, list[str], str]:
    """A run by rule: its store, its overrides, what it printed."""
    folder = tmp_path_factory.mktemp("planted")
    overrides = [*planted_overrides(folder, STAGES), *FEW]
    result = cli("run", CONFIG, *overrides)
    assert result.returncode == 0, result.stderr
    return folder / "store", overrides, result.stderr


def rows(store: Path, query: str) -> list[tuple]:
    with open_catalog(store / "catalog.duckdb") as connection:
        return connection.execute(query).fetchall()


def test_every_method_says_what_was_planted(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    found = dict(rows(store, "SELECT (method, feature), text FROM descriptions WHERE layer = 1 AND cluster = -1"))
    tokens = f"‘-{WORDS[5]}’, ‘-{WORDS[7]}’"
    assert found["weightlens", 2] == tokens
    assert found["weightlens+out+llm", 2] == f"the tokens {tokens}; promotes ‘-{WORDS[9]}’"
    for method in ("maxact", "maxact*"):
        assert f"‘-{WORDS[5]}’" in found[method, 2]
        assert f"‘-{WORDS[7]}’" in found[method, 2]


def test_true_descriptions_are_told_from_false_ones(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    found = dict(rows(store, "SELECT (layer, feature, method, metric), value FROM scores WHERE value IS NOT NULL"))
    for metric in ("responsiveness", "purity", "detection", "simulation", "fuzzing"):
        assert found[0, 3, "weightlens", metric] == 1
        assert found[0, 3, "control:shuffled:weightlens", metric] < 0.9
    assert found[1, 2, "weightlens+out", "faithfulness"] == 1
    comparison = rows(
        store, "SELECT mean, low, high, lift FROM method_comparison WHERE metric = 'purity' AND method = 'weightlens'"
    )
    assert all(mean == 1 for mean, *_ in comparison)


def test_every_figure_has_an_interval_and_n_or_a_reason(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    for value, low, high, n, reason in rows(store, "SELECT value, low, high, n, reason FROM scores"):
        assert (value is None) == (reason is not None)
        assert n is not None
        if value is not None:
            assert low - 1e-9 <= value <= high + 1e-9


def test_held_out_rows_were_never_sampled(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    query = "SELECT max(s.sequence), any_value(c.n_sequences) FROM samples s JOIN corpora c USING (corpus_id)"
    ((greatest, n_sequences),) = rows(store, query)
    assert greatest < 0.6 * n_sequences


def test_a_report_is_written(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    (report,) = store.glob("reports/*/report.md")
    text = report.read_text()
    assert "## clarity" in text
    assert "weightlens" in text
    assert "<script" not in text
    assert (report.parent / "clarity.png").is_file()
