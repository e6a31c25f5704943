"""The stages, and the settings of those with an explainer or a judge.

Settings of the methods are dataclasses beside the functions that use them, in `interp`.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from configs.section import Section
from interp.descriptions.evidence import Method
from interp.descriptions.llm_questions import Purpose
from interp.descriptions.settings import EvidenceSettings, RuleSettings
from interp.fade.settings import EvaluateSettings

StageName = Literal["weightlens", "activations", "coactivation", "circuitlens", "describe", "evaluate"]
"""The stages that `run` can do with an ingested checkpoint."""


class DescribeConfig(Section):
    """How descriptions are written, and for which features."""

    explainer: Literal["tokens", "anthropic", "openai", "local"] = "tokens"
    """tokens: by rule, offline and free of charge; anthropic: Claude, see `anthropic`; openai: any server with OpenAI's
    chat completions API, see `openai`; local: a chat model in this process, see `local_model`."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] | None = None
    """Methods of description; left out: all methods for which the catalog has the evidence. weightlens+out+llm needs a
    language model."""
    features_per_layer: Annotated[int, Field(gt=0)] | None = None
    """Features described in each layer; those that most methods can describe come first, and `evaluate` judges them in
    the same order. null: all. The weightlens stage describes all features in any case."""
    sample: Annotated[int, Field(gt=0)] | None = None
    """Features described in the whole model, drawn at random from all that can be described, in place of
    `features_per_layer`: to see a language model's descriptions, and their cost, before all are described."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draw of `sample`."""
    evidence: EvidenceSettings = EvidenceSettings()
    rule: RuleSettings = RuleSettings()

    @field_validator("evidence", mode="before")
    @classmethod
    def _renamed(cls, value: object) -> object:
        """The setting `n_examples` under the name that it had in version 0.1."""
        if isinstance(value, dict) and "n_moments" in value and "n_examples" not in value:
            return {"n_examples" if name == "n_moments" else name: given for name, given in value.items()}
        return value


class EvaluateConfig(Section):
    """How descriptions are judged."""

    judge: Literal["rule", "anthropic", "openai", "local"] = "rule"
    """rule: by looking for the words that a description names, offline and free of charge; others: see
    `describe.explainer`."""
    explainer: Literal["tokens", "anthropic", "openai", "local", "human"] | None = None
    """Whose descriptions are judged; left out: those of `describe.explainer`. human: those that people wrote in the
    explorer and that were imported."""
    methods: tuple[str, ...] | None = None
    """Methods whose descriptions are judged; left out: all that have descriptions."""
    controls: tuple[Literal["shuffled", "swapped", "constant"], ...] = ("shuffled", "swapped", "constant")
    """Wrong descriptions that are judged as well. shuffled: the method's description of another feature of the layer;
    swapped: of the judged feature with the most similar decoder; constant: the same text for all features."""
    decoys: Annotated[int, Field(ge=0)] = 0
    """Fake features in each layer that are treated like real ones, under a checkpoint of their own: the share of their
    descriptions that pass is the judge's rate of false positives. 0: none. They cost another pass over the corpus,
    and as much to describe and judge as the same number of real features."""
    embeddings: str | None = None
    """An embedding model for the score `embedding`: a folder, or an OpenAI-compatible address (…/v1), whose key is read
    from CIRCUIT_INSIGHTS_EMBEDDINGS_KEY."""
    embedding_model: str | None = None
    """Name of the embedding model, if `embeddings` is an address."""
    surprisal: Literal["subject"] | Path | None = None
    """A language model for the score `surprisal`: `subject` for the model that is explained, or a folder."""
    sample: Annotated[int, Field(gt=0)] | None = None
    """Features judged in the whole model, drawn at random from those described; left out: `how.features_per_layer`,
    those that most methods describe first."""
    how: EvaluateSettings = EvaluateSettings()

    @property
    def embedder(self) -> tuple[str, str | None] | None:
        """The embedding model, by its place and name."""
        return None if self.embeddings is None else (self.embeddings, self.embedding_model)


class PromptsConfig(Section):
    """Your own instructions for language models, in place of the built-in ones (docs/prompts.md); a file each. Each
    must contain `{fence_note}`."""

    explain: Path | None = None
    """Instructions for describing a feature from its evidence."""
    join: Path | None = None
    """Instructions for combining the descriptions of clusters."""
    synthesise: Path | None = None
    """Instructions for writing `{n_texts}` texts from a description."""
    rate: Path | None = None
    """Instructions for rating texts."""
    mark: Path | None = None
    """Instructions for judging marked tokens."""
    intruder: Path | None = None
    """Instructions for finding the odd one of five texts."""
    simulate: Path | None = None
    """Instructions for predicting activity token by token."""

    @property
    def own(self) -> dict[Purpose, Path | None]:
        """The files by kind of question."""
        return {purpose: getattr(self, purpose) for purpose in get_args(Purpose)}
