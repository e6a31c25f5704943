"""The whole configuration of a run, checked before anything is done. `load.py` reads it."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field, model_validator
from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES

from configs.engine import EngineConfig, LocalModelConfig, NotifyConfig
from configs.inputs import CorpusConfig, ModelConfig, TranscoderConfig
from configs.section import Section
from configs.stages import DescribeConfig, EvaluateConfig, PromptsConfig, StageName
from configs.unused import unused
from interp.activations.settings import ActivationSettings
from interp.circuitlens.settings import CircuitLensSettings
from interp.coactivation.settings import CoactivationSettings
from interp.descriptions.settings import AnthropicSettings, LLMSettings, OpenAISettings
from interp.weightlens.settings import WeightLensSettings, WordingSettings
from storage.foreign import check_path

StoreUrl = Annotated[str, Field(pattern="://")]


class RunConfig(Section):
    """The configuration of one run."""

    name: str
    """Name of the checkpoint, in run names and the catalog."""
    store: StoreUrl | Path | None = None
    """Store: a folder, or s3://BUCKET/PREFIX; left out: $CIRCUIT_INSIGHTS_STORE, else ./store."""
    model: ModelConfig = ModelConfig()
    transcoder: TranscoderConfig = TranscoderConfig()
    corpus: CorpusConfig = CorpusConfig()
    stages: tuple[StageName, ...] = get_args(StageName)
    """Stages to run after ingestion. Their order is fixed."""
    quality_tokens: Annotated[int, Field(gt=0)] = 8192
    """Tokens of the corpus on which each transcoder is measured at ingestion."""
    shard_size: Annotated[int, Field(gt=0)] = 2048
    """Features in one task."""
    weightlens: WeightLensSettings = WeightLensSettings()
    wording: WordingSettings = WordingSettings()
    activations: ActivationSettings = ActivationSettings()
    circuitlens: CircuitLensSettings = CircuitLensSettings()
    coactivation: CoactivationSettings = CoactivationSettings()
    describe: DescribeConfig = DescribeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    prompts: PromptsConfig = PromptsConfig()
    llm: LLMSettings = LLMSettings()
    anthropic: AnthropicSettings = AnthropicSettings()
    openai: OpenAISettings = OpenAISettings()
    local_model: LocalModelConfig = LocalModelConfig()
    engine: EngineConfig = EngineConfig()
    notify: NotifyConfig = NotifyConfig()

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: object) -> object:
        """Settings that were in `anthropic` before `llm` applied to every endpoint: the message says where they are
        now."""
        anthropic = values.get("anthropic") if isinstance(values, dict) else None
        if isinstance(anthropic, dict):
            for name in (field.name for field in fields(LLMSettings)):
                if name in anthropic:
                    value = anthropic[name]
                    raise ValueError(
                        f"anthropic.{name} is now llm.{name}, for every endpoint: write llm.{name}={value}"
                    )
        return values

    @model_validator(mode="after")
    def _complete(self) -> "RunConfig":
        if isinstance(self.store, str) and "@" in self.store:  # the message must not repeat it
            where = "they belong in the environment (docs/guides/bucket.md)"
            raise ValueError(f"store: a URL with credentials in it; {where}")
        self._check_paths()
        if self.model.path is None and self.model.repo is None:
            raise ValueError(
                "model.path is not set: name a model folder, in the file or as model.path=FOLDER, "
                "or a repository of the Hugging Face Hub as model.repo=NAME"
            )
        if self.corpus.source is None:
            raise ValueError("corpus.source is not set: name a text file, in the file or as corpus.source=FILE")
        has_release = self.transcoder.path is not None or self.transcoder.repo is not None
        if has_release == (self.transcoder.train is not None):
            raise ValueError(
                "transcoder: set either path (a release) or train (how to train them), not both; "
                "a release on the Hub is repo in place of path"
            )
        if self.transcoder.train is not None and (self.transcoder.input_hook or self.transcoder.output_hook):
            raise ValueError("transcoder: input_hook and output_hook are for a release, not for train")
        train = self.transcoder.train
        if train is not None and train.activation == "topk" and train.k > train.d_transcoder:
            raise ValueError(f"transcoder.train: k is {train.k}, more than the {train.d_transcoder} features there are")
        if train is not None and train.activation == "topk" and train.max_frequency is not None:
            at_once = train.max_frequency * train.d_transcoder
            if at_once < train.k:
                raise ValueError(
                    f"transcoder.train: k is {train.k}, but {train.d_transcoder} features that fire at "
                    f"{train.max_frequency} of the tokens (max_frequency) are only {at_once:.1f} at a time"
                )
        if self.describe.sample is not None and self.describe.features_per_layer is not None:
            raise ValueError(
                f"describe.sample is {self.describe.sample} and describe.features_per_layer is "
                f"{self.describe.features_per_layer}: set one of them; null drops the other"
            )
        unknown = [code for code in self.wording.languages if code not in SUPPORTED_LANGUAGES]
        if unknown:
            raise ValueError(f"wording.languages: {unknown[0]!r} is not known; known are {sorted(SUPPORTED_LANGUAGES)}")
        if without_effect := unused(self):
            raise ValueError("\n  ".join(without_effect))
        return self

    def _check_paths(self) -> None:
        """Refuse names that no file can have, before a file system is asked about them."""
        sources = self.corpus.sources if self.corpus.source is not None else ()
        folders = {"store": self.store, "model.path": self.model.path, "transcoder.path": self.transcoder.path}
        more = {"local_model.path": self.local_model.path, "evaluate.embeddings": self.evaluate.embeddings}
        places = [*folders.items(), *more.items(), ("evaluate.surprisal", self.evaluate.surprisal)]
        for name, place in (*places, *(("corpus.source", source) for source in sources)):
            if place is not None and "://" not in str(place):
                try:
                    check_path(place)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
