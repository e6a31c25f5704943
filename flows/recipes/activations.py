"""The recipes of the passes over a corpus, and of the statistics and samples drawn from them."""

from dataclasses import dataclass
from functools import cached_property

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.checkpoint import joined_corpora
from flows.recipes.encoders import encoder_ingredients
from storage.catalog.contexts import TOKENS_AFTER, TOKENS_BEFORE
from storage.corpora.corpus import corpus_attributes
from storage.hashing import short_hash
from storage.store import ShardKey
from tasks.activations import neighbours
from tasks.activations.corpus_pass import VERSION, CorpusPass

TEXTS_VERSION = 1
"""Raise it when the same samples would get other texts."""


@dataclass(frozen=True)
class ActivationsRecipe:
    """The recipes of the pass over each corpus and of the gathered results, and their shards."""

    plan: CheckpointPlan

    @cached_property
    def corpus_id(self) -> str:
        """The corpus id of statistics and samples; for several corpora, a hash of them all."""
        return joined_corpora([recipe.corpus_id for recipe in self.plan.inputs.corpora])

    @property
    def passes(self) -> list[CorpusPass]:
        """A pass for each corpus. Its recipe has the checkpoint, the corpus and which positions count. It does not have
        the number of samples, so that another number needs no new pass, nor the other corpora, so that a new one is
        read alone.

        Rows are numbered through all corpora.
        """
        config, store = self.plan.config, self.plan.store
        ingredients = {"checkpoint": self.plan.checkpoint_id, "counted": config.activations.counted}
        n_layers, found, first_row = self.plan.attributes.n_layers, [], 0
        for corpus in self.plan.inputs.corpora:
            recipe = short_hash(corpus=corpus.corpus_id, version=VERSION, **ingredients)
            found.append(CorpusPass(recipe, corpus.corpus_id, n_layers, first_row))
            if store.corpus(corpus.corpus_id).exists():
                first_row += corpus_attributes(store, corpus.corpus_id).n_sequences
        return found

    @cached_property
    def recipe(self) -> str:
        """The recipe of statistics and samples: the passes and what is drawn from them."""
        drawn = self.plan.config.activations.drawn
        return short_hash(passes=[corpus_pass.recipe for corpus_pass in self.passes], drawn=drawn, version=VERSION)

    @property
    def texts(self) -> str:
        """The recipe of the texts around the samples, which may be kept out of the catalog."""
        keep_text = self.plan.config.corpus.keep_text
        more = {"neighbours": self.neighbours} if self.plan.config.activations.keep == "all" else {}
        return short_hash(samples=self.recipe, keep_text=keep_text, version=TEXTS_VERSION, **more)

    @property
    def neighbours(self) -> str:
        """The recipe of features' activations around their samples."""
        reach = (TOKENS_BEFORE, TOKENS_AFTER)
        return short_hash(samples=self.recipe, reach=reach, version=neighbours.VERSION)

    def neighbour_shards(self) -> list[ShardKey]:
        """All shards of these; none if the sparse activations are not kept."""
        keep = self.plan.config.activations.keep
        return self.plan.all_shards(self.neighbours) if keep == "all" else []

    @cached_property
    def ingredients(self) -> list[str]:
        """By layer, what statistics and samples depend on: the model, the layer's encoder, and the corpora."""
        config = self.plan.config
        shared = {
            "corpora": [corpus.corpus_id for corpus in self.plan.inputs.corpora],
            "counted": config.activations.counted,
            "drawn": config.activations.drawn,
            "version": VERSION,
        }
        return self.plan.by_layer(lambda layer: short_hash(**encoder_ingredients(self.plan, layer), **shared))

    def shards(self) -> list[ShardKey]:
        """All shards of statistics and samples."""
        return self.plan.all_shards(self.recipe)
