"""A setting that another one leaves without effect is refused, and both are named."""

from pathlib import Path

import pytest

from configs.load import load_config
from configs.run import RunConfig
from configs.unused import CONDITIONS
from tests.conftest import ROOT

TRAIN = ("transcoder.path=null", "corpus.source=t.txt")
CASES = {
    "engine.dask_address=tcp://127.0.0.1:1": ("engine.runner=dask", ()),
    "engine.devices=all": ("engine.runner=dask, engine.device", ("engine.runner=dask", "engine.workers=2")),
    "engine.bfloat16=true": ("engine.device=cpu", ("engine.device=cuda",)),
    "corpus.text_field=body": ("corpus.source", ()),
    "corpus.token_field=ids": ("corpus.source", ()),
    "corpus.tokenizer_sha256=abc": ("corpus.token_field", ()),
    "corpus.special_tokens=as_text": ("no corpus.token_field", ("corpus.source=t.jsonl", "corpus.token_field=ids")),
    "transcoder.train.k=8": ("transcoder.train.activation=topk", (*TRAIN, "transcoder.train.activation=relu")),
    "transcoder.train.sparsity=0.1": ("transcoder.train.activation=relu", (*TRAIN, "transcoder.train.activation=topk")),
    "circuitlens.max_cut=0.3": ("circuitlens.clustering=ncut", ("circuitlens.clustering=dbscan",)),
    "circuitlens.max_token_cut=0.7": ("circuitlens.clustering=ncut", ("circuitlens.clustering=hdbscan",)),
    "circuitlens.eps=0.3": ("circuitlens.clustering=dbscan", ("circuitlens.clustering=hdbscan",)),
    "circuitlens.continued_samples=9": ("circuitlens.continuation_tokens", ()),
    "circuitlens.qk_heads=2": ("circuitlens.qk_samples", ("circuitlens.qk_samples=0",)),
    "circuitlens.qk_keys=8": ("circuitlens.qk_samples", ("circuitlens.qk_samples=0",)),
    "circuitlens.qk_pairs=9": ("circuitlens.qk_samples", ("circuitlens.qk_samples=0",)),
    "describe.seed=4": ("describe.features_per_layer", ()),
    "evaluate.how.texts_per_question=3": ("evaluate.judge=anthropic, openai or local", ()),
    "evaluate.how.n_surprisal=3": ("evaluate.surprisal", ()),
    "evaluate.embedding_model=m": ("evaluate.embeddings", ("evaluate.embeddings=folder",)),
    "prompts.explain=p.md": ("describe.explainer=anthropic", ()),
    "prompts.join=p.md": ("describe.explainer=anthropic", ()),
    **{f"prompts.{name}=p.md": ("evaluate.judge=anthropic", ())
       for name in ("synthesise", "rate", "mark", "intruder", "simulate")},
    "local_model.path=chat": ("describe.explainer=local", ()),
    "anthropic.model=m": ("describe.explainer=anthropic", ()),
    "openai.model=m": ("describe.explainer=openai", ()),
    "llm.budget_usd=5": ("describe.explainer or evaluate.judge being anthropic or openai", ()),
    "llm.max_tokens=100": ("describe.explainer=anthropic, openai or local", ()),
}  # fmt: skip


def load(*changes: str) -> RunConfig:
    return load_config(ROOT / "configs" / "demo.yaml", list(changes))


@pytest.mark.parametrize("setting", CASES)
def test_what_is_set_and_has_no_effect_is_refused_with_both_names(setting: str) -> None:
    other, also = CASES[setting]
    with pytest.raises(ValueError, match=r"demo\.yaml") as error:
        load(*also, setting)
    message = next(line for line in str(error.value).splitlines() if setting.split("=")[0] in line)
    assert "has an effect only with" in message
    assert other in message


def test_every_condition_is_tried_here() -> None:
    names = {name for condition in CONDITIONS for name in condition.names}
    tried = {setting.split("=")[0] for setting in CASES}
    assert all(any(one == name or one.startswith(f"{name}.") for one in tried) for name in names)


def test_the_same_settings_are_taken_where_they_have_an_effect() -> None:
    assert load("engine.dask_address=tcp://127.0.0.1:1", "engine.runner=dask").engine.dask_address
    assert load("local_model.path=chat", "evaluate.judge=local").local_model.path == Path("chat")
    assert load("llm.max_tokens=100", "describe.explainer=local", "local_model.path=chat")
    assert load("describe.seed=4", "describe.features_per_layer=3").describe.seed == 4
    assert load("corpus.source=[python-docs, t.jsonl]", "corpus.text_field=body").corpus.text_field == "body"


def test_what_the_message_says_drops_the_setting() -> None:
    with pytest.raises(ValueError, match="circuitlens") as error:
        load("circuitlens.clustering=hdbscan", "circuitlens.eps=0.3")
    assert load("circuitlens.clustering=hdbscan", "circuitlens.eps=0.3", str(error.value).split(" or ")[-1])
    with pytest.raises(ValueError, match="dask_address") as error:
        load("engine.dask_address=tcp://127.0.0.1:1")
    assert load("engine.dask_address=tcp://127.0.0.1:1", str(error.value).split(" or ")[-1])


def test_a_stage_or_step_that_is_left_out_may_keep_its_settings() -> None:
    config = load("stages=[weightlens]")
    assert config.circuitlens.features_per_layer == 40
    assert load("evaluate.how.faithfulness.features_per_layer=0").evaluate.how.faithfulness.n_prompts == 20
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_a_setting_that_a_file_has_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: a\nmodel: {path: m}\nshard_size: 3\nmodel: {path: n}\n")
    with pytest.raises(ValueError, match=r"run\.yaml: .*model occurs twice.*line 4"):
        load_config(path, [])
