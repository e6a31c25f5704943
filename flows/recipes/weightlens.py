"""The recipes of WeightLens's projections and words."""

from dataclasses import dataclass
from functools import cached_property

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.encoders import encoder_ingredients, opened
from storage.checkpoints import DECODER_ARRAYS
from storage.hashing import short_hash
from storage.store import ShardKey
from tasks.weightlens.project import VERSION
from tasks.weightlens.propagate import WORDING_VERSION


@dataclass(frozen=True)
class WeightLensRecipe:
    """The recipes of the two steps, and what each layer's rows depend on."""

    plan: CheckpointPlan

    @property
    def projections(self) -> str:
        """The recipe of candidates and edges. It does not have the wording, so that other wording needs no new
        projections."""
        settings = self.plan.config.weightlens
        return short_hash(checkpoint=self.plan.checkpoint_id, weightlens=settings, version=VERSION)

    @property
    def recipe(self) -> str:
        """The recipe of the whole stage: inherited tokens and descriptions."""
        return short_hash(projection=self.projections, wording=self.plan.config.wording, version=WORDING_VERSION)

    def projected(self) -> list[ShardKey]:
        """All shards of the projections."""
        return self.plan.all_shards(self.projections)

    def worded(self) -> list[ShardKey]:
        """All shards of inherited tokens and descriptions."""
        return self.plan.all_shards(self.recipe)

    def single_token_ingredients(self, layer: int) -> str:
        """What a layer's single-token activations depend on: encoder, model, and the number of tokens."""
        tokens, compat = self.plan.attributes.n_tokens, self.plan.config.weightlens.compat
        return short_hash(tokens=tokens, compat=compat, **encoder_ingredients(self.plan, layer))

    @cached_property
    def projection_ingredients(self) -> list[str]:
        """By layer, what projections depend on: the layer's arrays, those of earlier layers that it may read, the
        embeddings, and the single-token activations by which candidates are validated."""
        checkpoint, settings, attributes = opened(self.plan), self.plan.config.weightlens, self.plan.attributes
        shared = {
            "embeddings": checkpoint.sha256(None),
            "settings": settings,
            "version": VERSION,
            "n_tokens": attributes.n_tokens,
            "d_transcoder": attributes.d_transcoder,
            "norms_centred": attributes.norms_centred,
            "feature_input_hook": attributes.feature_input_hook,
            "feature_output_hook": attributes.feature_output_hook,
        }
        return self.plan.by_layer(
            lambda layer: short_hash(
                layer=layer,
                arrays=checkpoint.sha256(layer),
                upstream=[(at, checkpoint.sha256(at, *DECODER_ARRAYS)) for at in self.plan.upstream(layer)],
                single_token=checkpoint.single_token_sha256(layer, settings.compat),
                **shared,
            )
        )

    @cached_property
    def ingredients(self) -> list[str]:
        """By layer, what inherited tokens and descriptions depend on: projections here and upstream, and the tokens'
        texts; with `compat: authors`, also the model and the encoder."""
        settings, found = self.plan.config.weightlens, dict[int, str]()
        for layer in self.plan.layers:
            found[layer] = short_hash(
                projected=self.projection_ingredients[layer],
                upstream=[found[at] for at in self.plan.upstream(layer)],
                tokenizer=self.plan.inputs.tokenizer_sha256,
                wording=self.plan.config.wording,
                sequences=None if settings.compat is None else encoder_ingredients(self.plan, layer),
                version=WORDING_VERSION,
            )
        return self.plan.by_layer(found.__getitem__)
