"""The stages, and the settings of those that ask somebody: who words descriptions, and who judges them.

Settings of the science are dataclasses beside the functions that read them, in `interp`.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from configs.section import Section
from interp.descriptions.evidence import Method
from interp.descriptions.llm_questions import Purpose
from interp.descriptions.settings import EvidenceSettings, RuleSettings
from interp.fade.settings import EvaluateSettings

StageName = Literal["weightlens", "activations", "coactivation", "circuitlens", "describe", "evaluate"]
"""What `run` can do with an ingested checkpoint."""


class DescribeConfig(Section):
    """Who writes the descriptions, and of which features."""

    explainer: Literal["tokens", "anthropic", "openai", "local"] = "tokens"
    """tokens: by rule, offline and for nothing; anthropic: Claude, see `anthropic`; openai: any server that speaks
    OpenAI's chat completions, see `openai`; local: a chat model in this process, see `local_model`."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] | None = None
    """Methods of description; left out: all for which the catalog holds what they look at. weightlens+out+llm needs a
    language model to word it."""
    features_per_layer: Annotated[int, Field(gt=0)] | None = None
    """How many features of each layer are described, those first that most methods can describe; `evaluate` judges the
    same ones first. null: all. The weightlens stage describes all features in any case."""
    sample: Annotated[int, Field(gt=0)] | None = None
    """How many features of the whole model are described, drawn at random from all that can be: to see what a language
    model writes, and what it costs, before all are described. In place of `features_per_layer`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draw of `sample`."""
    evidence: EvidenceSettings = EvidenceSettings()
    rule: RuleSettings = RuleSettings()


class EvaluateConfig(Section):
    """Who judges the descriptions, and how."""

    judge: Literal["rule", "anthropic", "openai", "local"] = "rule"
    """rule: offline and for nothing, by finding the words that a description names; others: see `describe`."""
    explainer: Literal["tokens", "anthropic", "openai", "local", "human"] | None = None
    """Whose descriptions are judged; left out: those of `describe.explainer`. human: those that people wrote in the
    explorer and that were imported."""
    methods: tuple[str, ...] | None = None
    """Methods that are judged; left out: all that have descriptions."""
    controls: tuple[Literal["shuffled", "swapped", "constant"], ...] = ("shuffled", "swapped", "constant")
    """Wrong descriptions that are judged as well. shuffled: each method's, of another feature of the layer; swapped: of
    the feature judged that looks most alike, by its decoder; constant: the same for all features."""
    decoys: Annotated[int, Field(ge=0)] = 0
    """Fake features a layer that go through the pipeline as real ones do, under a checkpoint of their own: how many
    descriptions of them pass is the judge's rate of false positives. 0: none. They cost another pass over the corpus,
    and as much to describe and judge as so many real features."""
    embeddings: str | None = None
    """A model that turns texts into vectors, for the score `embedding`: a folder, or an OpenAI-compatible address
    (…/v1), whose key is read from CIRCUIT_INSIGHTS_EMBEDDINGS_KEY."""
    embedding_model: str | None = None
    """Name of the model, where `embeddings` is an address."""
    surprisal: Literal["subject"] | Path | None = None
    """A language model, for the score `surprisal`: `subject`, the one that is explained, or a folder."""
    sample: Annotated[int, Field(gt=0)] | None = None
    """How many features of the whole model are judged, drawn at random from those described; left out:
    `how.features_per_layer`, those first that most methods describe."""
    how: EvaluateSettings = EvaluateSettings()

    @property
    def embedder(self) -> tuple[str, str | None] | None:
        """The model that turns texts into vectors, by its place and name."""
        return None if self.embeddings is None else (self.embeddings, self.embedding_model)


class PromptsConfig(Section):
    """Instructions of your own for language models, in the place of the platform's (docs/prompts.md): a file each.
    `{fence_note}` has to stand in each of them."""

    explain: Path | None = None
    """How a feature is described from its evidence."""
    join: Path | None = None
    """How descriptions of clusters become one."""
    synthesise: Path | None = None
    """How texts are written from a description; `{n_texts}` of them."""
    rate: Path | None = None
    """How texts are rated."""
    mark: Path | None = None
    """How marked tokens are judged."""
    intruder: Path | None = None
    """How the odd one of five texts is found."""
    simulate: Path | None = None
    """How activity is predicted token by token."""

    @property
    def own(self) -> dict[Purpose, Path | None]:
        """Files by the kind of question."""
        return {purpose: getattr(self, purpose) for purpose in get_args(Purpose)}
