"""The whole pipeline on the planted model, in processes of its own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from storage.catalog.database import open_catalog
from storage.catalog.tables import TABLES
from tests.conftest import ROOT, cli_environment, planted_overrides
from tests.flows.contents import contents
from tests.planted import D_TRANSCODER, WORDS

pytestmark = pytest.mark.whole

CONFIG = "configs/demo.yaml"
STAGES = "[weightlens, activations, coactivation, circuitlens]"
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> tuple[Path, list[str], str]:
    """An undisturbed run: its store, its overrides, what it printed."""
    folder = tmp_path_factory.mktemp("planted")
    overrides = planted_overrides(folder, STAGES)
    result = cli("run", CONFIG, *overrides)
    assert result.returncode == 0, result.stderr
    return folder / "store", overrides, result.stdout


FROM_WEIGHTS = (
    "layer, feature, method, text FROM descriptions",
    "* EXCLUDE (checkpoint_id) FROM token_candidates",
    "* EXCLUDE (checkpoint_id) FROM feature_edges WHERE corpus_id IS NULL",
)
"""What WeightLens finds, whatever else the catalog holds."""


def rows(store: Path, query: str) -> list[tuple]:
    with open_catalog(store / "catalog.duckdb") as connection:
        return connection.execute(query).fetchall()


def test_exactly_the_planted_tokens_are_found(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    found = rows(
        store, "SELECT layer, feature, token_id, source_layer, source_feature FROM token_candidates WHERE validated"
    )
    assert sorted(found, key=str) == sorted(
        [(0, 1, 12, None, None), (0, 3, 5, None, None), (0, 3, 7, None, None), (1, 2, 5, 0, 3), (1, 2, 7, 0, 3)],
        key=str,
    )


def test_exactly_the_planted_edge_is_found(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    query = "SELECT source_layer, source_feature, target_layer, target_feature FROM feature_edges WHERE corpus_id IS {}"
    assert rows(store, query.format("NULL")) == [(0, 3, 1, 2)]
    assert rows(store, query.format("NOT NULL")) == [(0, 3, 1, 2)]


def test_exactly_the_planted_output_tokens_are_found(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    found = rows(
        store, "SELECT layer, feature, sign, token_id FROM token_candidates WHERE side = 'output' ORDER BY ALL"
    )
    assert found == [(1, 2, -1, 11), (1, 2, 1, 9)]


def test_descriptions_and_reasons(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    found = dict(rows(store, "SELECT (layer, feature, method), text FROM descriptions"))
    assert found == {
        (0, 1, "weightlens"): f"‘{WORDS[12]}’",
        (0, 1, "weightlens+out"): f"‘{WORDS[12]}’",
        (0, 3, "weightlens"): f"‘{WORDS[5]}’, ‘{WORDS[7]}’",
        (0, 3, "weightlens+out"): f"‘{WORDS[5]}’, ‘{WORDS[7]}’",
        (1, 2, "weightlens"): f"‘{WORDS[5]}’, ‘{WORDS[7]}’",
        (1, 2, "weightlens+out"): f"‘{WORDS[5]}’, ‘{WORDS[7]}’; promotes ‘{WORDS[9]}’",
    }
    reasons = rows(store, "SELECT count(*), any_value(reason) FROM failures WHERE stage = 'weightlens'")
    assert reasons == [(32 - 3, "no_candidates")]


def test_the_transcoders_are_measured(done: tuple[Path, list[str], str]) -> None:
    store, _, _ = done
    measured = rows(store, "SELECT explained_variance, loss_increase FROM layer_summary")
    assert len(measured) == 2
    for variance, increase in measured:
        assert variance > 0.9
        assert abs(increase) < 0.01


def test_show_prints_the_feature(done: tuple[Path, list[str], str], cli: Cli) -> None:
    store, _, _ = done
    shown = cli("show", 1, 2, "--store", store).stdout
    for expected in (WORDS[5], WORDS[7], "promotes", WORDS[9], "suppresses", WORDS[11], "L0 #3"):
        assert expected in shown
    assert "no weightlens description" in cli("show", 1, 3, "--store", store).stdout
    assert cli("show", 5, 2, "--store", store).returncode == 2


def test_sql_reads_in_every_format_and_writes_nothing(
    done: tuple[Path, list[str], str], cli: Cli, tmp_path: Path
) -> None:
    store, _, _ = done
    query = "SELECT source_feature, target_feature FROM feature_edges WHERE corpus_id IS NULL"
    assert cli("sql", query, "--store", store, "--format", "csv").stdout.split() == [
        "source_feature,target_feature",
        "3,2",
    ]
    assert '"source_feature": 3' in cli("sql", query, "--store", store, "--format", "json").stdout
    output = tmp_path / "edges.parquet"
    assert cli("sql", query, "--store", store, "--format", "parquet", "--output", output).returncode == 0
    assert output.exists()
    refused = cli("sql", "DELETE FROM feature_edges", "--store", store)
    assert refused.returncode == 2
    assert "read-only" in refused.stderr


def test_a_second_run_does_nothing_and_says_so(done: tuple[Path, list[str], str], cli: Cli) -> None:
    store, overrides, _ = done
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    again = cli("run", CONFIG, *overrides)
    assert again.returncode == 0
    assert "Nothing to do" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    assert "to do" in cli("plan", CONFIG, *overrides).stdout


def test_other_settings_replace_what_the_catalog_holds(
    done: tuple[Path, list[str], str], cli: Cli, tmp_path: Path
) -> None:
    overrides = planted_overrides(tmp_path)
    assert cli("run", CONFIG, *overrides, "weightlens.z_tokens=100", "weightlens.z_features=100").returncode == 0
    assert rows(tmp_path / "store", "SELECT * FROM descriptions") == []
    replaced = {path.name for path in (tmp_path / "store" / "parts" / "descriptions").iterdir()}
    assert cli("run", CONFIG, *overrides, "shard_size=7").returncode == 0
    for query in FROM_WEIGHTS:
        found, expected = (rows(store, f"SELECT {query} ORDER BY ALL") for store in (tmp_path / "store", done[0]))
        assert found == expected
    assert CliRunner().invoke(app, ["vacuum", "--store", str(tmp_path / "store")], input="n\n").exit_code == 0
    assert replaced < {path.name for path in (tmp_path / "store" / "parts" / "descriptions").iterdir()}
    assert CliRunner().invoke(app, ["vacuum", "--yes", "--store", str(tmp_path / "store")]).exit_code == 0
    assert not replaced & {path.name for path in (tmp_path / "store" / "parts" / "descriptions").iterdir()}
    assert "Nothing to do" in cli("run", CONFIG, *overrides, "shard_size=7").stderr


def test_killed_anywhere_it_resumes_to_the_same_catalog(
    done: tuple[Path, list[str], str], prefect_home: Path, prefect_api: str, cli: Cli, tmp_path: Path
) -> None:
    store, overrides, _ = done
    disturbed = [*overrides, f"store={tmp_path / 'store'}"]
    chance = random.Random(0)
    [(duration,)] = rows(store, "SELECT epoch(max(finished_at) - min(started_at)) FROM runs")
    kills = 0
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        command = [sys.executable, "-m", "flows.cli", "run", CONFIG, *disturbed]
        process = subprocess.Popen(
            command, cwd=ROOT, env=cli_environment(prefect_home, prefect_api), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(timeout=5 + share * duration + chance.uniform(-0.5, 0.5))
        except subprocess.TimeoutExpired:
            kills += 1
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert kills > 0
    last = cli("run", CONFIG, *disturbed)
    assert last.returncode == 0, last.stderr
    assert contents(tmp_path / "store" / "catalog.duckdb") == contents(store / "catalog.duckdb")
    assert list((tmp_path / "store").rglob("*.partial")) == []
    statuses = rows(tmp_path / "store", "SELECT DISTINCT status FROM runs")
    assert set(statuses) <= {("completed",), ("killed",), ("failed",)}


def test_of_two_runs_at_once_both_end_right_or_one_says_who_holds_the_store(
    done: tuple[Path, list[str], str], prefect_home: Path, prefect_api: str, tmp_path: Path
) -> None:
    store, overrides, _ = done
    environment = cli_environment(prefect_home, prefect_api)
    command = [sys.executable, "-m", "flows.cli", "run", CONFIG, *overrides, f"store={tmp_path / 'store'}"]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate(timeout=300)[1], process.returncode) for process in both]
    assert 0 in [code for _, code in ends]
    for message, code in ends:
        assert code == 0 or (code == 2 and "is in use by 'run planted', process" in message), message
    assert contents(tmp_path / "store" / "catalog.duckdb") == contents(store / "catalog.duckdb")


def test_dask_gives_the_same_catalog(done: tuple[Path, list[str], str], cli: Cli, tmp_path: Path) -> None:
    store, overrides, _ = done
    result = cli("run", CONFIG, *overrides, f"store={tmp_path / 'store'}", "engine.runner=dask", "engine.workers=2")
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "store" / "catalog.duckdb") == contents(store / "catalog.duckdb")


def test_exported_contributions_are_shares_of_all_that_a_feature_could_read(
    done: tuple[Path, list[str], str], cli: Cli, tmp_path: Path
) -> None:
    store, _, _ = done
    result = cli("export", tmp_path, "--format", "weightlens-json", "--store", store)
    assert result.returncode == 0, result.stderr
    features = json.loads((tmp_path / "feature_analysis_layer_1.json").read_text())
    assert [entry["feature"]["feature_idx"] for entry in features] == list(range(D_TRANSCODER))
    entry = features[2]
    [edge] = entry["feature_to_feature_contributions"]
    assert (edge["from_layer"], edge["from_feature_idx"]) == (0, 3)
    # The encoder reads one direction, into which only that feature writes and no token points.
    assert edge["contribution"] == pytest.approx(entry["total_input_invariant_contribution"])
    assert edge["relative_contribution"] == pytest.approx(1)
    assert entry["total_input_invariant_detected_contribution"] == pytest.approx(1)
    assert entry["description"] == entry["description_soft"] == [" word5", " word7"]
    assert (entry["validation"], entry["validation_soft"]) == (True, 1.0)
    silent = features[0]
    assert (silent["description"], silent["description_soft"]) == (None, None)
    assert (silent["validation"], silent["validation_soft"]) == (False, 0.0)


def test_every_table_is_exported_and_nothing_is_left_to_vacuum(
    done: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    store, _, _ = done
    result = CliRunner().invoke(app, ["export", str(tmp_path), "--format", "parquet", "--store", str(store)])
    assert result.exit_code == 0, result.output
    for table in TABLES:
        n_rows = pq.read_table(tmp_path / f"{table}.parquet").num_rows
        assert rows(store, f"SELECT count(*) FROM {table}") == [(n_rows,)], table
    assert pq.read_table(tmp_path / "feature_edges.parquet").num_rows == 2
    assert "Nothing to remove" in CliRunner().invoke(app, ["vacuum", "--store", str(store)]).output


def test_the_authors_validation_reads_descriptions_as_sequences(tmp_path: Path, cli: Cli) -> None:
    result = cli("run", CONFIG, *planted_overrides(tmp_path), "weightlens.compat=authors")
    assert result.returncode == 0, result.stderr
    store = tmp_path / "store"
    # Attention does nothing in the planted model, so a token does in a sequence what it does alone.
    assert sorted(rows(store, "SELECT layer, feature, tokens FROM descriptions WHERE method = 'weightlens'")) == [
        (0, 1, [" word12"]),
        (0, 3, [" word5", " word7"]),
        (1, 2, [" word5", " word7"]),
    ]
    query = "SELECT layer, feature, validation_soft FROM sequence_validation WHERE validation ORDER BY ALL"
    assert rows(store, query) == [(0, 1, 1.0), (0, 3, 1.0), (1, 2, 1.0)]
    query = "SELECT token_id, source_feature FROM token_candidates WHERE source_layer = 0 ORDER BY ALL"
    assert rows(store, query) == [(5, 3), (7, 3)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_in_the_middle_ends_the_run_and_all_that_it_started(
    prefect_home: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "flows.cli", "run", CONFIG, *planted_overrides(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env=cli_environment(prefect_home), stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 120
    while not (tmp_path / "store" / "checkpoints").exists():  # the first task has written
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    assert started, "Prefect's server"
    process.send_signal(number)
    message = process.communicate(timeout=20)[1]
    assert process.returncode == code
    assert ("run the same command again" in message) == (number != signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


def test_the_graph_of_a_prompt(done: tuple[Path, list[str], str], tmp_path: Path) -> None:
    store, _, _ = done
    output = tmp_path / "graphs" / "five.json"

    def attribute(prompt: str, output: Path) -> Result:
        return CliRunner().invoke(app, ["attribute", prompt, "--output", str(output), "--store", str(store)])

    result = attribute(f"{WORDS[3]} {WORDS[5]}", output)
    assert result.exit_code == 0, result.output
    graph = json.loads(output.read_text())
    assert graph["metadata"]["prompt_tokens"] == ["<s>", f" {WORDS[3]}", f" {WORDS[5]}"]
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    feature, later = nodes["0_3_2"], nodes["1_2_2"]
    for node, layer, number in ((feature, "0", 3), (later, "1", 2)):
        assert (node["layer"], node["ctx_idx"], node["feature_type"]) == (layer, 2, "cross layer transcoder")
        assert node["feature"] == (int(layer) + number) * (int(layer) + number + 1) // 2 + number
        assert WORDS[5] in node["clerp"]
        assert node["activation"] > 0
    [target] = [node for node in graph["nodes"] if node["is_target_logit"]]
    assert (target["layer"], target["feature"]) == ("3", 9)
    assert WORDS[9] in target["clerp"]
    links = {(link["source"], link["target"]): link["weight"] for link in graph["links"]}
    assert {end for link in links for end in link} <= set(nodes)
    pre_activation = later["activation"] + 0.1  # the encoder's bias
    assert links["0_3_2", "1_2_2"] == pytest.approx(pre_activation, rel=0.05)  # and the error below
    assert links["E_5_2", "0_3_2"] == pytest.approx(feature["activation"] + 0.1, rel=1e-4)
    assert links["1_2_2", target["node_id"]] > 0

    assert attribute(WORDS[12], tmp_path / "graphs" / "other.json").exit_code == 0
    index = json.loads((tmp_path / "graphs" / "graph-metadata.json").read_text())
    assert [entry["slug"] for entry in index["graphs"]] == ["five", "other"]
    for prompt, output, message in (
        ("", tmp_path / "empty.json", "the prompt is empty"),
        (WORDS[1], tmp_path / "graph.txt", "expected NAME.json"),
        (" ".join(WORDS[1:] * 3), tmp_path / "long.json", "the model reads 64 at most"),
    ):
        result = attribute(prompt, output)
        assert (result.exit_code, output.exists()) == (2, False)
        assert message in result.output.replace("\n", " ")
