"""The recipes of co-activation matrices and of the edges."""

from dataclasses import dataclass
from functools import cached_property

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.encoders import opened
from flows.recipes.weightlens import WeightLensRecipe
from storage.checkpoints import DECODER_ARRAYS
from storage.hashing import short_hash
from storage.store import ShardKey
from tasks.activations.coactivation import VERSION, EdgesJob, Summed


@dataclass(frozen=True)
class CoactivationRecipe:
    """The recipes of the matrices of each corpus and of the edges, and their shards."""

    plan: CheckpointPlan

    @cached_property
    def activations(self) -> ActivationsRecipe:
        """The recipe of the activations that are counted together."""
        return ActivationsRecipe(self.plan)

    @cached_property
    def weightlens(self) -> WeightLensRecipe | None:
        """The recipe of the projections from which edges or their z-scores are taken; None if WeightLens is left
        out."""
        config = self.plan.config
        wanted = "weightlens" in config.stages or config.coactivation.pairs == "edges"
        return WeightLensRecipe(self.plan) if wanted else None

    @property
    def layer_pairs(self) -> list[tuple[int, int]]:
        """The pairs (source layer, target layer) whose co-activation is counted."""
        return self.plan.config.coactivation.layer_pairs(self.plan.layers)

    @property
    def target_layers(self) -> list[int]:
        """Layers that have earlier ones to compare with."""
        return sorted({target for _, target in self.layer_pairs})

    @property
    def summed(self) -> list[Summed]:
        """The matrices of every corpus. Their recipe has only the corpus' pass, so that the matrices of an earlier
        corpus are reused. Tiles are as wide as a shard, so the shard's size is part of the recipe."""
        size = self.plan.config.shard_size
        return [
            Summed(corpus_pass, short_hash(activations=corpus_pass.recipe, chunks=size, version=VERSION))
            for corpus_pass in self.activations.passes
        ]

    @cached_property
    def recipe(self) -> str:
        """The recipe of the edges: all passes, the stage's settings, whether norms are folded into the directions, and
        WeightLens's projections if they are used."""
        config = self.plan.config
        settings = config.coactivation
        return short_hash(
            passes=[corpus_pass.recipe for corpus_pass in self.activations.passes],
            pairs=settings.pairs,
            top_k=settings.top_k,
            min_support=settings.min_support,
            report_targets=settings.report_targets,
            fold_norms=config.weightlens.fold_norms,
            weightlens=None if self.weightlens is None else self.weightlens.projections,
            version=VERSION,
        )

    @cached_property
    def ingredients(self) -> list[str]:
        """By layer, what its edges depend on: activations there and in the layers paired with it, the arrays of both
        sides, and WeightLens's edges if they are used."""
        config, checkpoint, attributes = self.plan.config, opened(self.plan), self.plan.attributes
        active, pairs = self.activations.ingredients, self.layer_pairs

        def of_layer(layer: int) -> str:
            sources = [at for at in self.plan.layers if at < layer]
            return short_hash(
                active=active[layer],
                arrays=checkpoint.sha256(layer),
                sources=[(at, active[at], checkpoint.sha256(at, *DECODER_ARRAYS)) for at in sources],
                paired=[pair for pair in pairs if layer in pair],
                settings=config.coactivation,
                chunks=config.shard_size,
                fold_norms=config.weightlens.fold_norms,
                projected=None if self.weightlens is None else self.weightlens.projection_ingredients[layer],
                version=VERSION,
                norms_centred=attributes.norms_centred,
                d_transcoder=attributes.d_transcoder,
                feature_input_hook=attributes.feature_input_hook,
                feature_output_hook=attributes.feature_output_hook,
            )

        return self.plan.by_layer(of_layer)

    def job(self) -> EdgesJob:
        """The inputs of the stage's tasks. The corpus must be tokenised."""
        plan, config = self.plan, self.plan.config
        return EdgesJob(
            checkpoint_id=plan.checkpoint_id,
            corpus_id=self.activations.corpus_id,
            summed=tuple(self.summed),
            settings=config.coactivation,
            shard_size=config.shard_size,
            fold_norms=config.weightlens.fold_norms,
            projections=None if self.weightlens is None else self.weightlens.projections,
        )

    def shards(self) -> list[ShardKey]:
        """All shards of the edges, by the target's feature."""
        return self.plan.all_shards(self.recipe)
