"""The recipe of the comparison of two checkpoints."""

from dataclasses import dataclass
from functools import cached_property

from flows.inputs.checkpoint_pair import Pair
from flows.recipes.activations import ActivationsRecipe
from storage.hashing import short_hash
from storage.store import ShardKey
from tasks.activations.corpus_pass import CorpusPass
from tasks.evaluation.drift import VERSION


@dataclass(frozen=True)
class DriftRecipe:
    """The recipe of a comparison, and its shards."""

    pair: Pair

    @cached_property
    def passes(self) -> tuple[CorpusPass, CorpusPass] | None:
        """The passes of both checkpoints over the first corpus; None if only weights are compared."""
        if self.pair.plans is None:
            return None
        a, b = (ActivationsRecipe(plan).passes[0] for plan in self.pair.plans)
        return a, b

    @property
    def recipe(self) -> str:
        """The recipe of the matches: both checkpoints, the settings, and the passes if activations are compared."""
        a, b = self.pair.ids
        passes = None if self.passes is None else [corpus_pass.recipe for corpus_pass in self.passes]
        return short_hash(a=a, b=b, settings=self.pair.settings, passes=passes, version=VERSION)

    @property
    def keys(self) -> list[ShardKey]:
        """A shard for each layer, since a feature's match may be anywhere in it."""
        width, layers = self.pair.b.d_transcoder, self.pair.b.layers
        return [ShardKey(self.recipe, layer, 0, width) for layer in layers]
