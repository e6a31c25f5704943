"""`import circuit_insights`: what it gives is what the catalog and the command line give."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch

import circuit_insights as ci
from configs.load import load_config
from interp.capture import HookedModel, capture
from interp.circuitlens.graph import GraphSettings
from interp.training.settings import TrainingSettings
from storage.checkpoints import open_checkpoint
from tests.conftest import planted_overrides
from tests.explorer.small_catalog import CHECKPOINT, write_small_catalog
from tests.planted_store import planted_store

PROMPT = "word3 word5 word9 word12"


@pytest.fixture(scope="module")
def planted_ci(planted_root: Path) -> Iterator[ci.Store]:
    with ci.open_store(planted_root) as store:
        yield store


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ci.Store]:
    catalog = write_small_catalog(tmp_path_factory.mktemp("small"), lambda text: f"<i>{text}</i>")
    with ci.open_store(catalog.parent, checkpoint=CHECKPOINT) as store:
        yield store


def test_a_feature_has_what_the_catalog_says_of_it(small: ci.Store) -> None:
    feature = small.feature(2, 1)
    assert feature.description == "<i>the token cat by wl+cl</i>"
    assert {one.method for one in feature.descriptions()} == {"weightlens", "maxact", "wl+cl"}
    assert [(one.text, one.validated) for one in feature.tokens_in] == [("<i> cat</i>", True), ("<i> dog</i>", False)]
    assert [(one.text, one.sign) for one in feature.tokens_out] == [("<i> sat</i>", 1), ("<i> on</i>", -1)]
    assert [(one.layer, one.feature, one.twera) for one in feature.upstream()] == [
        (0, 0, pytest.approx(0.4)), (1, 0, pytest.approx(0.4))
    ]  # fmt: skip
    assert [(one.layer, one.feature) for one in small.feature(0, 0).downstream()][:2] == [(1, 0), (1, 1)]
    assert [one.activation for one in feature.contexts()] == [4, 3.5, 3, 2.5, 2, 1.5]
    assert feature.contexts()[0].token == "<i> cat</i>"
    assert [one.signature for one in feature.clusters()] == [["L1 H2 −1", "L0 #0"], []]
    assert "clarity" in {one.metric for one in feature.scores()}


def test_its_card_escapes_every_text(small: ci.Store) -> None:
    card = small.feature(2, 1)._repr_html_()
    assert "&lt;i&gt;the token cat by wl+cl&lt;/i&gt;" in card
    assert "<i>" not in card
    assert "<script" not in card
    assert "No description" in small.feature(0, 50)._repr_html_()


def test_queries_and_searches_answer_as_the_commands_do(small: ci.Store) -> None:
    assert small.sql("SELECT count(*) FROM checkpoints").fetchall() == [(2,)]
    assert {hit.layer for hit in small.search("cat", layer=1).descriptions} == {1}
    with pytest.raises(ValueError, match="no words"):
        small.search("  ")
    for query in ("DELETE FROM checkpoints", "SELECT * FROM 'tests/conftest.py'", "SELEC", ""):
        with pytest.raises(ValueError, match=r"^sql: "):
            small.sql(query)
    assert [row.name for row in small.checkpoints()] == ["<i>small</i>", "<i>later</i>"]


def test_wrong_names_are_told(small: ci.Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="features 0 to 59"):
        small.feature(2, 60)
    with pytest.raises(ValueError, match="counted from 0"):
        small.feature(2, -1)
    with ci.open_store(small.root) as several, several.at("<i>later</i>") as later:
        with pytest.raises(ValueError, match=r"name one: open_store\(PLACE, checkpoint=…\)"):
            several.feature(0, 0)
        assert later.checkpoint not in (None, CHECKPOINT)
    with pytest.raises(ValueError, match="no catalog"):
        ci.open_store(tmp_path)
    with pytest.raises(AttributeError, match="open_store"):
        _ = ci.no_such_name


def test_nothing_in_the_store_is_changed_by_reading(planted_ci: ci.Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in planted_ci.root.rglob("*") if path.is_file()}
    planted_ci.feature(0, 3)._repr_html_()
    planted_ci.activations(PROMPT)
    ci.attribute(planted_ci, PROMPT)
    assert {path: path.stat().st_mtime_ns for path in planted_ci.root.rglob("*") if path.is_file()} == before


def test_activations_of_a_prompt_are_the_planted_ones(planted_ci: ci.Store) -> None:
    found = planted_ci.activations(PROMPT)
    assert found.tokens == ["<s>", " word3", " word5", " word9", " word12"]
    assert [(one.position, one.layer, one.feature) for one in found.firings] == [(2, 0, 3), (4, 0, 1), (2, 1, 2)]
    assert [one.feature for one in found.at(-1)] == [1]
    assert "word5 or &lt;b&gt;word7" in found._repr_html_()
    assert [one.layer for one in planted_ci.activations(PROMPT, layers=[1]).firings] == [1]
    with pytest.raises(ValueError, match="layers 0-1"):
        planted_ci.activations(PROMPT, layers=[2])
    with pytest.raises(ValueError, match="the prompt is empty"):
        planted_ci.activations("\n")


def test_a_prompt_has_exactly_one_bos(planted_ci: ci.Store) -> None:
    for prompt, said in (("word3", 0), ("<s> word3", 1), ("<s> <s> word3", 1)):
        found = planted_ci.activations(prompt)
        assert found.tokens == ["<s>", " word3"]
        assert len(found.said) == said
    with pytest.raises(ValueError, match="has 71 tokens; the model reads 64"):
        planted_ci.activations("word3 " * 70)
    with pytest.raises(ValueError, match="no chat template"):
        planted_ci.activations("word3", chat=True)


def test_transcoders_are_modules_that_compute_what_the_store_holds(planted_ci: ci.Store) -> None:
    module, opened = planted_ci.transcoder(0), planted_ci.opened()
    x = torch.randn(2, 3, module.W_enc.shape[1], generator=torch.Generator().manual_seed(0))
    expected = open_checkpoint(opened.store, opened.checkpoint.checkpoint_id).transcoder(0)
    a = expected.encode(x.flatten(0, 1))
    torch.testing.assert_close(module(x), expected.decode(a, x.flatten(0, 1)).view_as(x))
    assert set(module.state_dict()) == {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert module.to(torch.float64)(x.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="layers 0-1"):
        planted_ci.transcoder(2)


def test_the_model_is_the_one_that_activations_are_of(planted_ci: ci.Store) -> None:
    opened = planted_ci.opened()
    tokens = opened.read(PROMPT).tokens[None]
    hooked = HookedModel(planted_ci.model(), opened.folder.family, opened.checkpoint.hooks)
    x = capture(hooked, tokens, [0])[0].x[0]
    a = planted_ci.transcoder(0).encode(x)
    assert [tuple(at) for at in a.nonzero().tolist()] == [(2, 3), (4, 1)]


def test_another_model_in_its_place_is_refused(tmp_path: Path) -> None:
    plan = planted_store(tmp_path)
    model = planted_store(tmp_path / "other").inputs.model
    weights = plan.inputs.model.path / "model.safetensors"
    from safetensors.torch import load_file, save_file

    changed = load_file(model.path / "model.safetensors")
    changed["lm_head.weight"][0, 0] += 1
    save_file(changed, weights, metadata={"format": "pt"})
    from tasks.loaded_models import forget_model

    forget_model()
    with (
        ci.open_store(plan.store.root) as planted,
        pytest.raises(ValueError, match=r"is another model than that of checkpoint .*: W_U differs"),
    ):
        planted.model()


def test_a_graph_is_tested_as_asked(planted_ci: ci.Store) -> None:
    tested = ci.attribute(planted_ci, "word3 word5", tests=["validate"])
    assert set(tested.validation) >= {"nodes"}
    with pytest.raises(ValueError, match="nodes were not grouped"):
        tested.supernodes  # noqa: B018
    with pytest.raises(ValueError, match="tests: 'ablate'; expected 'validate' or 'supernodes'"):
        ci.attribute(planted_ci, "word3 word5", tests=["ablate"])  # pyright: ignore[reportArgumentType]


def test_a_graph_is_what_the_command_writes(planted_ci: ci.Store, tmp_path: Path) -> None:
    graph = ci.attribute(planted_ci, "word3 word5")
    network = graph.to_networkx()
    assert isinstance(network, networkx.DiGraph)
    assert network.number_of_nodes() == len(graph.nodes)
    assert {(a, b): weight for a, b, weight in network.edges(data="weight")} == {
        (link["source"], link["target"]): link["weight"] for link in graph.links
    }
    assert network.nodes["0_3_2"]["clerp"] == "word5 or <b>word7</b>"
    assert "word5 or &lt;b&gt;word7&lt;/b&gt;" in graph._repr_html_()
    graph.save(tmp_path / "mine.json")
    written = json.loads((tmp_path / "mine.json").read_text())
    assert written == {**graph.data, "metadata": {**graph.data["metadata"], "slug": "mine"}}
    with pytest.raises(ValueError, match=r"expected NAME\.json"):
        graph.save(tmp_path / "mine.txt")


def ends_of(graph: ci.Graph) -> dict[str, tuple[int, float]]:
    ends = [node for node in graph.nodes if node["feature_type"] == "logit"]
    return {node["clerp"]: (node["ctx_idx"], node["token_prob"] or 0.0) for node in ends}


def into(graph: ci.Graph, clerp: str) -> dict[str, float]:
    [end] = [node["node_id"] for node in graph.nodes if node["clerp"].startswith(clerp)]
    return {link["source"]: link["weight"] for link in graph.links if link["target"] == end}


def test_a_graph_explains_what_it_is_asked_to(planted_ci: ci.Store, tmp_path: Path) -> None:
    prompt = "word3 word5 word4"
    assert [*ends_of(ci.attribute(planted_ci, prompt))] == ['Output " word4" (p=0.971)']
    token = ci.attribute(planted_ci, prompt, targets="word9")
    assert token.data["metadata"]["targets"] == [{"node_id": "3_9_3", "name": "' word9'", "weight": 1.0}]
    assert [*ends_of(token)] == ['Output " word9" (p=0.001)']
    at_five = ci.attribute(planted_ci, prompt, targets=["word9@2", "word11@2", "word9|word11@2"])
    nine, eleven = (into(at_five, f'Output " {word}"')["1_2_2"] for word in ("word9", "word11"))
    assert nine > 0 > eleven
    assert into(at_five, "' word9' − ' word11' @2")["1_2_2"] == pytest.approx(nine - eleven, rel=1e-4)
    feature = ci.attribute(planted_ci, prompt, targets="feature:1/2@2")
    assert ends_of(feature) == {"feature 1/2 @2": (2, 1.0)}
    assert "1_2_2" not in {node["node_id"] for node in feature.nodes}
    links = {(link["source"], link["target"]): link["weight"] for link in at_five.links}
    assert into(feature, "feature 1/2")["0_3_2"] == pytest.approx(links["0_3_2", "1_2_2"], rel=1e-4)
    np.save(tmp_path / "nine.npy", np.eye(48)[9])
    direction = ci.attribute(planted_ci, prompt, targets=f"direction:{tmp_path / 'nine.npy'}@2")
    assert into(direction, "direction:")["1_2_2"] == pytest.approx(nine, rel=0.1)
    several = ci.attribute(planted_ci, prompt, targets=["feature:1/2@1:3", "feature:1/2@2,-1"])
    assert [at for at, _ in ends_of(several).values()] == [1, 2, 3]
    likeliest = ci.attribute(planted_ci, prompt, targets="@2", settings=GraphSettings(max_logits=1))
    [(_, (position, probability))] = ends_of(likeliest).items()
    assert position == 2
    assert 0 < probability < 1


def test_a_graph_is_tested_on_the_model_if_wanted(planted_ci: ci.Store) -> None:
    graph = ci.attribute(planted_ci, "word3 word5", targets="word9|word11", tests=["validate", "supernodes"])
    tested = {(one["source"], one["target"]): one for one in graph.validation["edges"]}
    assert tested["0_3_2", "1_2_2"]["measured"] < -1
    assert graph.validation["edges_held"] == 1
    assert graph.supernodes["groups"] == []
    assert "1_2_2" in graph._repr_html_()
    untested = ci.attribute(planted_ci, "word3 word5")
    for name in ("validation", "supernodes"):
        with pytest.raises(ValueError, match="attribute with"):
            getattr(untested, name)


def test_ids_of_nodes_are_unique_and_circuit_tracers(planted_ci: ci.Store) -> None:
    settings = GraphSettings(node_threshold=1.0, edge_threshold=1.0)
    graph = ci.attribute(planted_ci, "word5 word7 word5", settings=settings)
    for name in ("node_id", "jsNodeId"):
        assert len({node[name] for node in graph.nodes}) == len(graph.nodes)
    errors = [node for node in graph.nodes if node["feature_type"] == "mlp reconstruction error"]
    assert errors
    for node in errors:
        assert node["node_id"] == f"{node['layer']}_-1_{node['ctx_idx']}"
        assert node["jsNodeId"] == f"{node['layer']}_-1-{node['reverse_ctx_idx']}"
    assert {"0_3_1", "0_3_2", "0_3_3"} <= {node["node_id"] for node in graph.nodes}


def test_steering_and_interventions_are_those_of_the_commands(planted_ci: ci.Store) -> None:
    how = ci.Generation(new_tokens=3)
    [steered] = ci.steer(planted_ci, "word3 word4", ["1/2=20"], how=how)
    assert [one.token for one in steered.steered.tokens] == [" word9"] * 3
    assert ci.generate(planted_ci, ["word3 word4"], ["1/2=20"], how=how) == ["word9 word9 word9"]
    assert ci.generate(planted_ci, "word3 word4", how=how) == [steered.original.text]
    assert "nats" in steered._repr_html_()
    found = ci.intervene(planted_ci, "word3 word5", [["0/3=off"], ["0/1=off"], ["0.1=off"]], targets=["feature:1/2"])
    assert [one.interventions for one in found] == [["0/3=off"], ["0/1=off"], ["0.1=off"]]
    assert found[0].effects[0].measured < -1
    assert [one.effects[0].measured for one in found[1:]] == [0, 0]
    assert "0/1 is not active there" in found[1]._repr_html_()
    with pytest.raises(ValueError, match=r"feature '3=off': expected LAYER/FEATURE"):
        ci.intervene(planted_ci, "word3", ["3=off"])


def test_explain_takes_what_a_configuration_takes(tmp_path: Path) -> None:
    from circuit_insights.explaining import _configuration

    overrides = planted_overrides(tmp_path)
    expected = load_config(Path("configs/demo.yaml"), overrides)
    given = {"model": expected.model.path, "transcoder": str(expected.transcoder.path), "corpus": None}
    found = _configuration("demo", given, {"name": "mine", "stages": ["weightlens"], "corpus": {"source": "a.txt"}})
    assert (found.name, found.stages, found.model.path) == ("mine", ("weightlens",), expected.model.path)
    assert found.transcoder.path == expected.transcoder.path
    training = TrainingSettings()
    found = _configuration(None, {"model": "owner/gpt", "transcoder": training, "corpus": "a.txt"}, {})
    assert (found.model.repo, found.name, found.transcoder.train) == ("owner/gpt", "gpt", training)
    with pytest.raises(ValueError, match=r"explain:\n  engine\.wrong"):
        _configuration("demo", dict.fromkeys(given), {"engine": {"wrong": 1}})


@pytest.mark.whole
@pytest.mark.usefixtures("prefect_here")
def test_explain_runs_the_pipeline(tmp_path: Path) -> None:
    config = load_config(Path("configs/demo.yaml"), planted_overrides(tmp_path))
    with ci.explain(config) as store, ci.explain(config) as again:
        assert "word5" in (store.feature(0, 3).description or "")
        assert again.checkpoint == store.checkpoint


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, circuit_insights; print([m for m in ('torch', 'duckdb', 'flows', 'tasks') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
