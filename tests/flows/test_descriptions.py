"""Descriptions and their judgement over the command line, on the planted model: by rule, and by a language model that a
local server plays."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from storage.catalog import open_catalog
from tests.conftest import ROOT, cli_environment, files_with, planted_overrides
from tests.planted import WORDS
from tests.tasks.api_server import KEY, Api, message

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


def test_a_report_is_written_and_a_second_run_does_nothing(done: tuple[Path, list[str], str], cli: Cli) -> None:
    store, overrides, _ = done
    (report,) = store.glob("reports/*/report.md")
    text = report.read_text()
    assert "## clarity" in text
    assert "weightlens" in text
    assert "<script" not in text
    assert (report.parent / "clarity.png").is_file()
    again = cli("run", CONFIG, *overrides)
    assert "Nothing to do" in again.stderr


def answer(params: dict[str, Any]) -> dict[str, Any]:
    """A language model that says something that fits every question."""
    wanted = params["output_config"]["format"]["schema"]["properties"]
    material = json.loads(params["messages"][0]["content"].removeprefix("<data>\n").removesuffix("\n</data>"))
    numbers = [text["id"] for text in material.get("texts", [])]
    if "description" in wanted:
        value: dict[str, Any] = {"description": f"the token ‘{WORDS[5]}’"}
    elif "ratings" in wanted:
        value = {"ratings": [{"id": at, "rating": at % 2} for at in numbers]}
    elif "firing" in wanted:
        value = {"firing": [{"id": at, "tokens": [0]} for at in numbers]}
    else:
        value = {"texts": [f"{WORDS[5]} {WORDS[at]}" for at in range(1, 8)]}
    return message(json.dumps(value))


def test_a_language_model_explains_and_judges_within_its_budget(
    done: tuple[Path, list[str], str], httpserver: HTTPServer, prefect_home: Path
) -> None:
    store, overrides, _ = done
    api = Api(httpserver, answer)
    model = [
        "describe.explainer=anthropic", "evaluate.judge=anthropic", "anthropic.model=some-model",
        "anthropic.prices={input: 3, output: 15, cache_write: 3.75, cache_read: 0.3}", "anthropic.poll_s=0.1",
        "evaluate.how.faithfulness.features_per_layer=0", "evaluate.how.n_fuzzed=4", "evaluate.how.n_simulated=4",
        "evaluate.how.n_synthetic=10",
    ]  # fmt: skip
    environment = {
        **cli_environment(prefect_home),
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": httpserver.url_for("").rstrip("/"),
    }

    def run(*settings: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", "run", CONFIG, *overrides, *model, *settings]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)  # pyright: ignore

    refused = run("anthropic.budget_usd=0.001")
    assert refused.returncode == 2
    assert "Nothing was sent" in refused.stderr
    assert not api.direct
    assert not api.batches
    result = run("anthropic.budget_usd=20")
    assert result.returncode == 0, result.stderr
    n_asked = len(api.direct) + sum(map(len, api.batches.values()))
    n_calls, usd = rows(store, "SELECT count(*), sum(cost_usd) FROM llm_calls WHERE NOT cached")[0]
    assert n_calls == n_asked > 20
    batched = sum(map(len, api.batches.values()))
    assert usd == pytest.approx((len(api.direct) + batched / 2) * (100 * 3 + 20 * 15) / 1e6)
    assert rows(store, "SELECT sum(cost_usd) FROM llm_spend")[0][0] == pytest.approx(usd)
    texts = rows(store, "SELECT DISTINCT text FROM descriptions WHERE explainer = 'anthropic'")
    assert texts == [(f"the token ‘{WORDS[5]}’",)]
    assert rows(store, "SELECT count(*) FROM descriptions WHERE explainer = 'tokens' AND method = 'maxact'")[0][0] > 0
    judges = rows(store, "SELECT DISTINCT explainer, judge FROM scores ORDER BY ALL")
    assert judges == [("anthropic", "anthropic"), ("tokens", "rule")]
    assert "Nothing to do" in run("anthropic.budget_usd=20").stderr
    assert KEY not in result.stdout + result.stderr
    assert files_with(KEY, store, prefect_home) == []
    assert files_with("describe planted", prefect_home)  # Prefect's database is there, and was searched
    assert os.environ.get("ANTHROPIC_API_KEY") != KEY
