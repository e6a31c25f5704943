"""What names an output: every setting changes the recipes of what follows from it, and of nothing else."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from configs.load import load_config
from configs.run import RunConfig
from configs.stages import DescribeConfig
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from flows.recipes import describe as describe_recipes
from flows.recipes import evaluate as evaluate_recipes
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.checkpoint import measured_text
from flows.recipes.circuitlens import CircuitLensRecipe
from flows.recipes.coactivation import CoactivationRecipe
from flows.recipes.describe import DescribeRecipe
from flows.recipes.evaluate import EvaluateRecipe
from flows.recipes.weightlens import WeightLensRecipe
from interp.circuitlens.settings import ADDED, CircuitLensSettings
from interp.descriptions.settings import EvidenceSettings
from storage.hashing import short_hash

WORDS = {"words"}
FIGURES = {"figures"}
JUDGED = {"judged", *FIGURES}
MATERIAL = {"material", *JUDGED}
DESCRIBED = {"descriptions", *MATERIAL}
ATTRIBUTED = {"attributions", *DESCRIBED}
SAMPLED = {"samples", "texts", *ATTRIBUTED}
PASSED = {"passes", "sums", "edges", *SAMPLED}
PROJECTED = {"projections", "edges", *WORDS, *DESCRIBED}
READ = {"corpus", "measured", *PASSED}
EVERYTHING = {"checkpoint", *PASSED, *PROJECTED}

SECTIONS: dict[str, set[str]] = {
    "weightlens": PROJECTED,
    "wording": {*WORDS, *DESCRIBED},
    "activations": SAMPLED,
    "circuitlens": ATTRIBUTED,
    "coactivation": {"edges", *DESCRIBED},
    "describe": DESCRIBED,
    "evaluate.how": MATERIAL,
    "corpus": READ,
}
"""What changes with any setting of a section, but for those of `SETTINGS`."""

SETTINGS: dict[str, set[str]] = {
    "model.bos": {*EVERYTHING, *READ},
    "model.dtype": EVERYTHING,
    "quality_tokens": {"measured"},
    "shard_size": {"sums"},
    "corpus.keep_text": {"texts"},
    "weightlens.fold_norms": {"edges", *PROJECTED},
    "activations.special_tokens": {"measured", *PASSED},
    "activations.skip_row_start": {"measured", *PASSED},
    "activations.skip_document_start": {"measured", *PASSED},
    "activations.keep": {"texts"},
    "evaluate.judge": JUDGED,
    "evaluate.controls": JUDGED,
    "evaluate.explainer": MATERIAL,
    "evaluate.methods": MATERIAL,
    "evaluate.sample": MATERIAL,
    "evaluate.decoys": set(),
    "evaluate.surprisal": JUDGED,
    "llm.max_tokens": DESCRIBED,
    "name": set(),
    "model.step": set(),
    "transcoder.accept_poor_quality": set(),
    "transcoder.only_features": ATTRIBUTED,
    "engine.workers": set(),
    "engine.device": set(),
    "engine.bfloat16": set(),
    "llm.budget_usd": set(),
    "llm.concurrency": set(),
    "llm.retries": set(),
}
"""What changes with single settings."""

VALUES: dict[str, object] = {
    "model.bos": "none", "corpus.layout": "padded", "weightlens.mode": "paper", "weightlens.upstream": [0],
    "model.dtype": "bfloat16",
    "weightlens.compat": "authors", "wording.languages": ("en", "de"), "activations.special_tokens": "count",
    "circuitlens.heads": "jacobian", "circuitlens.sources": "direct", "circuitlens.precision": "bfloat16",
    "circuitlens.clustering": "hdbscan", "coactivation.pairs": [(0, 1)],
    "describe.methods": ("maxact",), "evaluate.controls": ("constant",), "evaluate.methods": ("maxact",),
    "evaluate.how.faithfulness.factors": (0.0, 3.0), "name": "other", "engine.device": "cpu", "corpus.max_tokens": 9000,
    "corpus.held_out": 0.2, "corpus.text_field": "body", "corpus.n_pos": 64, "activations.keep": "all",
    "activations.alpha": 0.3, "engine.bfloat16": False, "model.step": 7, "describe.features_per_layer": 9,
    "describe.sample": 3, "transcoder.only_features": {1: (3, 8)}, "corpus.special_tokens": "as_text",
    "evaluate.sample": 3, "evaluate.surprisal": "subject", "engine.workers": 3, "llm.max_tokens": 900,
}  # fmt: skip
"""What a setting is changed to, where one more, or the other of two, is not it."""

ELSEWHERE = {
    "store", "stages", "corpus.source", "describe.explainer", "evaluate.judge", "evaluate.explainer", "engine.runner",
    "engine.dask_address", "engine.devices", "corpus.token_field", "corpus.tokenizer_sha256",
}  # fmt: skip
"""Settings that need other files, a language model or a cluster to be changed; tests of their own have them."""


def settings(kind: type, prefix: str = "") -> dict[str, object]:
    """The names of all settings of a section, with their types."""
    if issubclass(kind, BaseModel):
        types = {name: field.annotation for name, field in kind.model_fields.items()}
    else:
        hints = typing.get_type_hints(kind)
        types = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    found: dict[str, object] = {}
    for name, of_type in types.items():
        inner = [one for one in (of_type, *typing.get_args(of_type)) if isinstance(one, type)]
        sections = [one for one in inner if dataclasses.is_dataclass(one) or issubclass(one, BaseModel)]
        found |= settings(sections[0], f"{prefix}{name}.") if sections else {prefix + name: of_type}
    return found


def checked() -> list[str]:
    """Settings that are changed here."""
    found = []
    for name in settings(RunConfig):
        section = any(name.startswith(f"{section}.") for section in SECTIONS)
        if name not in ELSEWHERE and (section or name in SETTINGS):
            found.append(name)
    return found


def names(plan: CheckpointPlan) -> dict[str, object]:
    """Every recipe of a configuration, as if the catalog held all that it asks for."""
    passes, words = ActivationsRecipe(plan), WeightLensRecipe(plan)
    attributed, corpora = CircuitLensRecipe(plan), plan.inputs.corpora
    recipes = {"weightlens": words.recipe, "activations": passes.recipe, "circuitlens": attributed.recipe}
    recipes["coactivation"] = CoactivationRecipe(plan).recipe

    def loaded(_catalog: Path, _subject: str, stage: str) -> str:
        return recipes[stage]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describe_recipes, "loaded_recipe", loaded)
        patch.setattr(evaluate_recipes, "loaded_recipe", loaded)
        described = DescribeRecipe(plan).recipe
        recipes["describe tokens"] = described
        judged = EvaluateRecipe(plan)
        later = {"material": judged.material, "judged": judged.judged, "figures": judged.recipe}
    return {
        "checkpoint": plan.checkpoint_id,
        "corpus": [corpus.corpus_id for corpus in corpora],
        "measured": measured_text(corpora[0].corpus_id, plan.config.quality_tokens, plan.config.activations),
        "projections": words.projections,
        "words": words.recipe,
        "passes": [one.recipe for one in passes.passes],
        "samples": passes.recipe,
        "texts": passes.texts,
        "sums": [one.recipe for one in CoactivationRecipe(plan).summed],
        "edges": CoactivationRecipe(plan).recipe,
        "attributions": attributed.recipe,
        "descriptions": described,
        **later,
    }


def changed(name: str, config: RunConfig) -> object:
    """Another value of a setting."""
    if name in VALUES:
        return VALUES[name]
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9
    assert value is None, f"{name}: say in VALUES what it may be changed to from {value!r}"
    return 3


def opened(config: RunConfig) -> CheckpointPlan:
    return identify(open_inputs(config))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> CheckpointPlan:
    return opened(load_config(Path("configs/demo.yaml"), [f"store={tmp_path_factory.mktemp('store')}"]))


def expected(name: str) -> set[str]:
    if name in SETTINGS:
        return SETTINGS[name]
    return next(recipes for section, recipes in SECTIONS.items() if name.startswith(f"{section}."))


def with_setting(section: Any, name: str, value: object) -> Any:
    """A section with one setting changed, even where it has no effect beside the others."""
    first, _, rest = name.partition(".")
    new = with_setting(getattr(section, first), rest, value) if rest else value
    if isinstance(section, BaseModel):
        return section.model_copy(update={first: new})
    return dataclasses.replace(section, **{first: new})


@pytest.mark.parametrize("name", checked())
def test_a_setting_changes_what_follows_from_it(base: CheckpointPlan, name: str) -> None:
    before = names(base)
    config = with_setting(base.config, name, changed(name, base.config))
    is_opened_anew = name.split(".")[0] in ("model", "corpus")
    inputs = dataclasses.replace(base.inputs, config=config)
    after = names(opened(config) if is_opened_anew else dataclasses.replace(base, inputs=inputs))
    assert {recipe for recipe in before if before[recipe] != after[recipe]} == expected(name)


def test_settings_that_came_later_leave_earlier_recipes_alone() -> None:
    settings = CircuitLensSettings()
    assert ADDED.keys() <= dataclasses.asdict(settings).keys()
    assert all(getattr(settings, name) == before for name, before in ADDED.items())
    assert set(settings.named()) == set(dataclasses.asdict(settings)) - set(ADDED)
    assert dataclasses.replace(settings, sources="direct").named()["sources"] == "direct"


def test_a_renamed_setting_leaves_recipes_alone_and_is_read_by_its_old_name() -> None:
    before = dataclasses.asdict(EvidenceSettings(n_examples=7))
    before["n_moments"] = before.pop("n_examples")
    config = DescribeConfig.model_validate({"evidence": {"n_moments": 7}})
    assert config.evidence == EvidenceSettings(n_examples=7)
    assert short_hash(settings=[config.evidence]) == short_hash(settings=[before])
