"""The recipes of attributed samples and of the causal check, and their division into tasks."""

from dataclasses import dataclass
from functools import cached_property

from configs.run import RunConfig
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.activations import ActivationsRecipe
from storage.activations import Block
from storage.corpora.corpus import corpus_attributes
from storage.corpora.rows import CorpusRows
from storage.hashing import short_hash
from storage.store import ShardKey, shards
from tasks.circuitlens.job import VERSION, CircuitLensJob

SAMPLES_PER_BLOCK, MOST_ROWS_PER_BLOCK = 20_000, 256
"""Number of samples in a task, and largest number of rows."""

FEATURES_PER_SHARD = 256
"""Largest number of features whose samples are gathered together."""


def samples_per_feature(config: RunConfig) -> int:
    """Largest number of samples of a feature that are attributed."""
    n_samples = config.activations.n_samples
    return min(config.circuitlens.samples_per_feature or n_samples, n_samples)


@dataclass(frozen=True)
class CircuitLensRecipe:
    """The recipes of attribution and of the causal check, and their division into tasks."""

    plan: CheckpointPlan

    @cached_property
    def activations(self) -> ActivationsRecipe:
        """The recipe of the samples that are attributed."""
        return ActivationsRecipe(self.plan)

    @cached_property
    def recipe(self) -> str:
        """Names the attributions: by the samples, which name checkpoint and corpora, and the stage's settings."""
        settings = self.plan.config.circuitlens.named()
        only = self.plan.config.transcoder.narrowed
        return short_hash(samples=self.activations.recipe, circuitlens=settings, version=VERSION, **only)

    @cached_property
    def blocks(self) -> list[Block]:
        """The sampled rows, in blocks of about the wanted number of samples. The corpus must be tokenised."""
        last = self.activations.passes[-1]
        n_rows = last.first_row + corpus_attributes(self.plan.store, last.corpus_id).n_sequences
        config, plan = self.plan.config, self.plan
        most = config.circuitlens.features_per_layer
        n_features = config.transcoder.n_explained(plan.layers, most, plan.attributes.d_transcoder)
        n_samples = n_features * samples_per_feature(config)
        step = max(1, min(MOST_ROWS_PER_BLOCK, SAMPLES_PER_BLOCK * n_rows // max(1, n_samples)))
        return [Block(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]

    def job(self, device: str) -> CircuitLensJob:
        """The inputs of the stage's tasks. The corpus must be tokenised."""
        plan, passes = self.plan, self.activations.passes
        return CircuitLensJob(
            checkpoint_id=plan.checkpoint_id,
            corpus_id=self.activations.corpus_id,
            model_path=plan.inputs.model.path,
            recipe=self.recipe,
            samples=self.activations.recipe,
            layers=plan.layers,
            d_transcoder=plan.attributes.d_transcoder,
            shard_size=plan.config.shard_size,
            corpora=tuple(CorpusRows(one.corpus_id, one.first_row) for one in passes),
            blocks=tuple(self.blocks),
            settings=plan.config.circuitlens,
            counting=plan.config.activations,
            device=device,
            only=plan.config.transcoder.only_features,
        )

    def shards(self) -> list[ShardKey]:
        """Shards, each within one of the activations' shards."""
        return [
            part._replace(start=part.start + key.start, stop=part.stop + key.start)
            for key in self.activations.shards()
            for part in shards(self.recipe, key.layer, key.stop - key.start, FEATURES_PER_SHARD)
        ]

    def ablations(self) -> list[ShardKey]:
        """A key for each layer for the causal check."""
        if not self.plan.config.circuitlens.ablated_features:
            return []
        recipe = short_hash(circuitlens=self.recipe, causal="check")
        return [ShardKey(recipe, layer, 0, self.plan.attributes.d_transcoder) for layer in self.plan.layers]
