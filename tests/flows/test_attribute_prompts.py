"""Graphs of a file of prompts: in the catalog once, with their tests; what recurs, always holds, and sets apart."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner

from configs.engine import EngineConfig
from flows import attribute_prompts
from flows.attribute_prompts import read_prompts, run_prompts
from flows.cli import app
from flows.one_prompt.graphs import Wanted
from flows.one_prompt.opened import last_config
from interp.circuitlens.graph import GraphSettings
from interp.circuitlens.loadings import LoadingSettings
from interp.circuitlens.supernodes import SupernodeSettings
from interp.interventions.validation import ValidationSettings
from storage.catalog.database import open_catalog
from tests.conftest import ROOT, cli_environment
from tests.flows.contents import contents
from tests.planted_store import planted_store

WANTED = Wanted(GraphSettings(), ValidationSettings(), SupernodeSettings(draws=1), LoadingSettings())


def write(file: Path, *lines: object) -> Path:
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


@pytest.fixture(scope="module")
def attributed(tmp_path_factory: pytest.TempPathFactory, prefect_here: None) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp("prompts")
    root = planted_store(folder).store.root
    file = write(
        folder / "some.jsonl",
        {"prompt": "word3 word5", "set": "fires", "targets": ["word9|word11"]},
        {"prompt": "word4 word7", "set": "fires", "targets": ["word9|word11"]},
        {"prompt": "word3 word12", "set": "silent", "targets": ["word9|word11"]},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_prompts, "PROMPTS_A_TASK", 2)
        return root, file, run_prompts(root, None, file, read_prompts(file), WANTED)


def rows(root: Path, query: str) -> list[tuple[object, ...]]:
    with open_catalog(root / "catalog.duckdb") as connection:
        return connection.execute(query).fetchall()


@pytest.mark.whole
def test_graphs_are_in_the_catalog_once(attributed: tuple[Path, Path, str]) -> None:
    root, file, batch = attributed
    with mock.patch.object(attribute_prompts, "attribution", side_effect=AssertionError("computed again")):
        assert run_prompts(root, "planted", file, read_prompts(file), WANTED) == batch
    found = rows(root, "SELECT number, prompt_set, prompt, targets, n_tokens FROM graphs ORDER BY number")
    target = ["' word9' − ' word11'"]
    assert found == [
        (0, "fires", "word3 word5", target, 3), (1, "fires", "word4 word7", target, 3),
        (2, "silent", "word3 word12", target, 3),
    ]  # fmt: skip
    nodes = rows(
        root, "SELECT node_id, kind, layer, feature, token_id, position, label FROM graph_nodes WHERE number = 0"
    )
    assert ("0_3_2", "feature", 0, 3, None, 2, "word5 or <b>word7</b>") in nodes
    assert ("E_5_2", "token", None, None, 5, 2, 'Emb: " word5"') in nodes
    assert [row for row in nodes if row[1] == "target"] == [("3_32_2", "target", None, None, None, 2, target[0])]
    assert rows(root, "SELECT * FROM graph_heads") == []  # nothing here comes from another token
    [(status,)] = rows(root, "SELECT status FROM runs WHERE stage = 'attribute_prompts'")
    assert status == "completed"


def test_their_tests_are_there_too(attributed: tuple[Path, Path, str]) -> None:
    root, _, _ = attributed
    [(weight, predicted, measured)] = rows(
        root,
        "SELECT weight, predicted, measured FROM graph_edges "
        "WHERE number = 0 AND source = '0_3_2' AND target = '1_2_2'",
    )
    assert predicted == pytest.approx(-weight, rel=1e-4)
    assert measured == pytest.approx(predicted, rel=0.3)
    effects = dict(rows(root, "SELECT node_id, measured FROM graph_nodes WHERE number = 0 AND measured IS NOT NULL"))
    assert set(effects) == {"0_3_2", "1_2_2"}
    assert all(effect < -1 for effect in effects.values())
    found = rows(root, "SELECT explained, edges_held FROM graphs ORDER BY number")
    assert found[0][0] > 0.5
    assert found[0][1] == 1
    assert found[2] == (None, None) or found[2][1] is None


def test_views_say_what_recurs_what_always_holds_and_what_differs(attributed: tuple[Path, Path, str]) -> None:
    root, _, batch = attributed
    recurring = rows(
        root,
        "SELECT prompt_set, layer, feature, n_graphs, n_prompts, share, label FROM graph_features "
        "ORDER BY layer, feature",
    )
    assert recurring == [
        ("fires", 0, 3, 2, 2, 1.0, "word5 or <b>word7</b>"), ("fires", 1, 2, 2, 2, 1.0, "after word5 or word7"),
    ]  # fmt: skip
    held = rows(root, "SELECT source, target FROM recurring_edges WHERE holds_in_all AND prompt_set = 'fires'")
    assert {("0/3", "1/2"), ("1/2", "target")} <= set(held)
    once = rows(root, "SELECT n_graphs, holds_in_all FROM recurring_edges WHERE source = 'token 5' AND target = '0/3'")
    assert once == [(1, False)]
    contrast = rows(
        root, "SELECT batch_a, set_a, set_b, layer, feature, share_a, share_b, influence_difference < 0 "
        "FROM graph_contrasts ORDER BY layer"
    )  # fmt: skip
    assert contrast == [
        (batch, "fires", "silent", layer, feature, 1.0, 0.0, True) for layer, feature in ((0, 3), (1, 2))
    ]


def test_supernodes_of_a_catalog_by_hand_have_a_row_each() -> None:
    """The tables take what a graph with groups brings; the planted one has too few features for any."""
    from storage.catalog.tables import TABLES
    from storage.exchange.graph_rows import graph_rows

    shares = {"necessity": 0.5, "sufficiency": 0.25}
    tested = dict.fromkeys(("group", "random", "layer", "top", "effect"), shares)
    groups = {
        "groups": [{"name": "nine", "node_ids": ["0_3_2", "0_4_2"], "share": 0.5, "effect": 2.0, "tested": tested},
                   {"name": "rest", "node_ids": ["0_5_2", "0_6_2"], "share": 0.1, "effect": -1.0, "tested": None}],
        "together": tested, "nothing": 0.1, "target": 3.0, "counterfactual": -3.0, "counterfactual_prompt": "b",
    }  # fmt: skip
    metadata = {"prompt": "a", "prompt_tokens": ["a"], "targets": [], "scores": {"replacement": 1, "completeness": 1}}
    file = {"metadata": {**metadata, "supernodes": groups}, "qParams": {}, "nodes": [], "links": []}
    found = graph_rows(file, {}, 10)  # pyright: ignore[reportArgumentType]
    assert [(row["supernode"], row["name"], row["necessity_top"]) for row in found.graph_supernodes] == [
        (0, "nine", 0.5), (1, "rest", None), (-1, None, 0.5)
    ]  # fmt: skip
    names = {column.name for column in TABLES["graph_supernodes"].columns}
    assert {"checkpoint_id", "batch", "number", *found.graph_supernodes[0]} == names
    assert [row["effect"] for row in found.graph_supernodes] == [2.0, -1.0, 2.0]
    named = {name: found.graphs[name] for name in ("nothing", "target_value", "counterfactual", "counterfactual_value")}
    assert named == {"nothing": 0.1, "target_value": 3.0, "counterfactual": "b", "counterfactual_value": -3.0}


KILLED_AFTER_SOME = """
import os, signal, sys
from pathlib import Path
from flows import attribute_prompts
from tests.flows.test_attribute_prompts import WANTED

write, paths = attribute_prompts.write_part, []
def killed(path, *arguments):
    paths.append(path)
    if len(paths) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, *arguments)
attribute_prompts.write_part = killed
root, file = map(Path, sys.argv[1:3])
attribute_prompts.run_prompts(root, None, file, attribute_prompts.read_prompts(file), WANTED)
"""


@pytest.mark.whole
def test_killed_and_started_again_it_leaves_the_same_tables(
    attributed: tuple[Path, Path, str], prefect_home: Path, prefect_api: str, tmp_path: Path
) -> None:
    """It is killed between the tables of a graph, then between graphs, and ends on the workers of a Dask cluster."""
    undisturbed, file, batch = attributed
    root = planted_store(tmp_path).store.root
    for n_written in (2, len(attribute_prompts.TABLES) + 1):
        command = [sys.executable, "-c", KILLED_AFTER_SOME, str(root), str(file), str(n_written)]
        environment = cli_environment(prefect_home, prefect_api)
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    kept = {path: path.stat().st_mtime_ns for path in (root / "parts" / "graphs").rglob("*.parquet")}
    assert len(kept) == 1
    config = last_config(root, None)
    on_dask = config.model_copy(update={"engine": EngineConfig(runner="dask", workers=2)})
    with mock.patch.object(attribute_prompts, "last_config", return_value=on_dask):
        assert run_prompts(root, None, file, read_prompts(file), WANTED) == batch
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found, expected = (contents(store / "catalog.duckdb") for store in (root, undisturbed))
    for table in attribute_prompts.TABLES:
        assert found[table] == expected[table], table
        assert found[table] or table in ("graph_supernodes", "graph_heads", "graph_head_pairs")
    assert rows(root, "SELECT status FROM runs WHERE stage = 'attribute_prompts' ORDER BY started_at") == [
        ("killed",), ("killed",), ("completed",)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": " "}, "line 1: the prompt is empty"),
        ({"prompt": 3}, "the prompt is 3; expected a text"),
        ({"prompt": "a", "set": 1}, "set is 1; expected a text"),
        ({"prompt": "a", "targets": "b"}, "targets are 'b'; expected a list of texts"),
        ({"prompt": "a", "target": ["b"]}, 'expected {"prompt"'),
        ({"prompt": "a", "counterfactual": 4}, "counterfactual is 4; expected a text"),
        ([1], 'expected {"prompt"'),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(ValueError, match=r"some\.jsonl, line 1") as error:
        read_prompts(write(tmp_path / "some.jsonl", line))
    assert said in str(error.value)


def test_other_files_have_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "singular.txt").write_text("the key\n\n{the} keys\n")
    found = read_prompts(tmp_path / "singular.txt", [" is| are"])
    assert [(line.asked.prompt, line.prompt_set, line.asked.targets) for line in found] == [
        ("the key", "singular", (" is| are",)), ("{the} keys", "singular", (" is| are",))
    ]  # fmt: skip
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompts", "a.txt", "a"), "PROMPT has no effect with --prompts"),
        (("--prompts", "a.txt", "--output", "b.json"), "--output has no effect with --prompts"),
        (("a",), "--output: name a file"),
        (("--prompts", "none.txt"), "none.txt"),
        (("--prompts", "a.txt", "--counterfactual", "a"), "--counterfactual has no effect with --prompts"),
        (("a", "--output", "b.json", "--counterfactual", "b"), "a counterfactual prompt is for the test of supernodes"),
        (("a", "--output", "b.json", "--supernodes", "--counterfactual", " "), "the counterfactual prompt is empty"),
    ],
)
def test_what_makes_no_sense_together_is_refused(planted_root: Path, arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, ["attribute", *arguments, "--store", str(planted_root)])
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
