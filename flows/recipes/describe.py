"""The recipes of an explainer's descriptions."""

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from configs.stages import StageName
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.inputs.language_model import EXPLAINING, model_name, prompts
from flows.recipes.activations import ActivationsRecipe
from interp.descriptions.evidence import Method
from storage.catalog.database import loaded_recipe, loaded_subject
from storage.hashing import short_hash
from storage.store import ShardKey
from tasks.describe.describe import REWORDS, SEES, VERSION
from tasks.describe.wiring import VERSION as WIRING_VERSION
from tasks.describe.wiring import WiringJob

_LEAVE: dict[str, tuple[StageName, ...]] = {
    "tokens": ("weightlens",),
    "wiring": ("weightlens", "coactivation"),
    "samples": ("activations",),
    "circuits": ("circuitlens",),
}

NEEDS: dict[Method, tuple[StageName, ...]] = {method: _LEAVE[kind] for method, kind in SEES.items()}
"""The stages whose results a method needs."""

WIRED: Method = "weightlens+twera"


@dataclass(frozen=True)
class DescribeRecipe:
    """What is described, and its recipe."""

    plan: CheckpointPlan

    @cached_property
    def activations(self) -> ActivationsRecipe:
        """The recipe of the samples that descriptions may use."""
        return ActivationsRecipe(self.plan)

    @property
    def corpus_id(self) -> str:
        """The id of the corpus, or of several together."""
        return self.activations.corpus_id

    @cached_property
    def evidence(self) -> dict[str, str | None]:
        """The recipes of the results in the catalog, by stage."""
        checkpoint_id = self.plan.checkpoint_id
        read = loaded_subject(checkpoint_id, self.corpus_id)
        loaded = {"weightlens": loaded_subject(checkpoint_id)}
        loaded |= dict.fromkeys(("activations", "coactivation", "circuitlens"), read)
        catalog = self.plan.store.catalog
        found = {stage: loaded_recipe(catalog, key, stage) for stage, key in loaded.items()}
        return {stage: None if recipe == "none" else recipe for stage, recipe in found.items()}

    @cached_property
    def methods(self) -> tuple[Method, ...]:
        """The methods asked for, or all for which the catalog has the evidence; without a language model, none that
        only rewords."""
        asked, by_rule = self.plan.config.describe.methods, self.plan.config.describe.explainer == "tokens"
        known = (method for method in get_args(Method) if not self.lacks(method))
        return asked or tuple(method for method in known if not (by_rule and method in REWORDS))

    def lacks(self, method: Method) -> list[StageName]:
        """The stages whose results a method needs and that are not in the catalog."""
        return [stage for stage in NEEDS[method] if self.evidence[stage] is None]

    @property
    def wiring(self) -> WiringJob | None:
        """The co-activation along which tokens are inherited; None if no method uses it."""
        return self._wiring if WIRED in self.methods else None

    @property
    def planned_wiring(self) -> WiringJob | None:
        """Like `wiring`, but as if the configuration's remaining stages had run."""
        config = self.plan.config
        if config.describe.methods is not None:
            return self.wiring
        to_come = set(config.stages) - set(self.plan.left_out)
        return self._wiring if to_come.issuperset(self.lacks(WIRED)) else None

    @property
    def _wiring(self) -> WiringJob:
        config = self.plan.config
        recipe = short_hash(
            checkpoint=self.plan.checkpoint_id,
            corpus=self.corpus_id,
            evidence=[self.evidence[stage] for stage in NEEDS[WIRED]],
            compat=config.weightlens.compat,
            version=WIRING_VERSION,
        )
        compat = config.weightlens.compat
        return WiringJob(self.plan.checkpoint_id, self.corpus_id, recipe, config.shard_size, compat)

    @property
    def left_out(self) -> str | None:
        """Why tokens are not inherited by use although there are weights; None if they are, or if other methods were
        asked for."""
        if self.plan.config.describe.methods is not None or self.evidence["weightlens"] is None:
            return None
        if "coactivation" in self.plan.left_out:
            return None
        lacking = " and ".join(self.lacks(WIRED))
        return f"{WIRED}: the stage {lacking} has not run on this corpus" if lacking else None

    @cached_property
    def model(self) -> str | None:
        """The language model that is asked; None for the explainer by rule."""
        return model_name(self.plan.config, self.plan.store, self.plan.config.describe.explainer)

    @cached_property
    def recipe(self) -> str:
        """The recipe of the descriptions: the recipes of the evidence that the methods use, and of WeightLens, whose
        tokens decide which features come first; the explainer and its settings, and which features are drawn."""
        config = self.plan.config
        used = sorted({stage for method in self.methods for stage in NEEDS[method]} | {"weightlens"})
        return short_hash(
            checkpoint=self.plan.checkpoint_id,
            corpus=self.corpus_id,
            evidence=[self.evidence[stage] for stage in used],
            methods=self.methods,
            explainer=config.describe.explainer,
            model=self.model,
            settings=[config.describe.evidence, config.describe.rule, config.wording, config.llm.max_tokens],
            drawn=[config.describe.features_per_layer, config.describe.sample, config.describe.seed],
            version=VERSION,
            prompts=prompts(config, EXPLAINING) if self.model else None,
            wiring=None if self.wiring is None else self.wiring.recipe,
            **config.transcoder.narrowed,
        )

    def shards(self) -> list[ShardKey]:
        """All shards of the descriptions."""
        return self.plan.all_shards(self.recipe)
