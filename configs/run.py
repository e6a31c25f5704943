"""One run's configuration: read from YAML, changed by `key=value`, checked before anything is done."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES

from configs.unused import unused
from interp.activations.settings import ActivationSettings
from interp.capture import InputHook, OutputHook
from interp.circuitlens.settings import CircuitLensSettings
from interp.coactivation.settings import CoactivationSettings
from interp.descriptions.evidence import Method
from interp.descriptions.llm_questions import Purpose
from interp.descriptions.settings import (
    AnthropicSettings,
    EvidenceSettings,
    LLMSettings,
    OpenAISettings,
    RuleSettings,
)
from interp.fade.settings import EvaluateSettings
from interp.training.settings import TrainingSettings
from interp.weightlens.settings import WeightLensSettings, WordingSettings
from storage.foreign import check_path, parse_yaml, read_yaml, shown


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


Repo = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]


StoreUrl = Annotated[str, Field(pattern="://")]


class ModelConfig(_Section):
    """The language model: in a folder, or on the Hugging Face Hub."""

    path: Path | None = None
    """Folder in transformers format, with safetensors weights and a tokenizer."""
    repo: Repo | None = None
    """Or a repository of the Hub, like google/gemma-2-2b. For a gated one, set HF_TOKEN in the environment."""
    revision: str = "main"
    """Branch, tag or commit of `repo`. The commit is recorded."""
    bos: Literal["auto", "none"] | Annotated[int, Field(ge=0)] = "auto"
    """Token before a single token and at the head of documents: the tokenizer's own (auto), none for a model
    that was trained without one, or a token id."""
    step: int | None = None
    """Training step, for one of a series of checkpoints."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        _expect_one_origin("model", self.path, self.repo, {"revision": self.revision != "main"})
        return self


class TranscoderConfig(_Section):
    """Its transcoders: read from a folder or the Hugging Face Hub, or trained."""

    path: Path | None = None
    """Folder of a release; docs/guides/models.md has the formats."""
    repo: Repo | None = None
    """Or a repository of the Hub."""
    revision: str = "main"
    """Branch, tag or commit of `repo`. The commit is recorded."""
    files: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Which files of `repo`, as patterns: `*` within a folder's name, `**` for any folders. Left out: every file of
    weights or settings."""
    subfolder: str | None = None
    """The folder of `repo` that is the release; left out: all of it."""
    input_hook: InputHook | None = None
    """Where the transcoders read, for a folder that says it wrongly or not at all."""
    output_hook: OutputHook | None = None
    """What they stand for, likewise."""
    train: TrainingSettings | None = None
    """How to train them when there are none."""
    accept_poor_quality: bool = False
    """Ingest transcoders even when their figures say that they were read wrongly."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = {
            "revision": self.revision != "main",
            "files": self.files is not None,
            "subfolder": self.subfolder is not None,
        }
        _expect_one_origin("transcoder", self.path, self.repo, given)
        return self


def _expect_one_origin(section: str, path: Path | None, repo: str | None, given: dict[str, bool]) -> None:
    if path is not None and repo is not None:
        raise ValueError(f"set path or repo, not both; {section}.repo=null drops the one of the file")
    alone = [name for name, is_given in given.items() if is_given and repo is None]
    if alone:
        nothing = "main" if alone[0] == "revision" else "null"
        raise ValueError(f"{alone[0]} is about a repo, and none is set; {section}.{alone[0]}={nothing} drops it")


ROW_TOKENS = 128
"""Tokens a row, where nothing is said."""


class CorpusConfig(_Section):
    """The text that transcoders are trained and measured on."""

    source: str | Annotated[list[str], Field(min_length=1)] | None = None
    """A .txt, .jsonl, .csv, .tsv or .parquet file (all but the last also as .gz or .zst), a folder of these,
    hf://datasets/OWNER/NAME[@REVISION]/PATH for such files on the Hub (PATH: a file, a folder or a glob), or
    `python-docs` for the running Python's documentation. Or a list of these, read one after the other: what was summed
    up of one is not summed up again. Transcoders are trained and measured on the first."""
    text_field: str = "text"
    """Field of a .jsonl line or column of a .csv, .tsv or .parquet file that holds a document."""
    token_field: str | None = None
    """In place of `text_field`, a field or column that holds a document as a list of token ids; `tokenizer_sha256` has
    to say of which tokenizer."""
    tokenizer_sha256: str | None = None
    """The tokenizer that made the ids in `token_field`, by the hash that stands in the message where it is left out:
    tokens of another tokenizer would be other words."""
    special_tokens: Literal["as_tokens", "as_text"] = "as_tokens"
    """Names of special tokens that stand in a document, such as <|endoftext|>. as_tokens: they become that token, from
    which most statistics are not taken (`activations.special_tokens`); as_text: they are letters like others."""
    layout: Literal["packed", "padded"] = "packed"
    """packed: one document after the other. padded: each document begins a row; one that is longer than a row goes on
    in further rows, and the rest of its last row stays empty."""
    n_pos: Annotated[int, Field(gt=1)] | None = None
    """Tokens a row, at most as many as the model has positions; left out: 128, or as many as a model with fewer has."""
    max_tokens: Annotated[int, Field(gt=1)] | None = None
    """Take at most so many tokens, in whole rows; where a row stays partly empty, the empty places count. The share
    `held_out` of them is of documents that are held out."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the documents, drawn by a hash of their content, that no statistic or sample is taken from: descriptions
    are judged on them. Of a text of fewer than ten documents, passages are drawn."""
    held_out_seed: Annotated[int, Field(ge=0)] = 0
    """Of that draw."""
    keep_text: bool = True
    """Put the text around samples into the catalog, from where `show`, searches, pages and exports have it. false for
    private text: the catalog then has single tokens only, and the rows stay in the store, as numbers."""

    def row_tokens(self, n_positions: int | None = None) -> int:
        """Tokens a row, of a model with so many positions (None: with enough).

        Raises:
            ValueError: more are asked for than the model has.
        """
        if self.n_pos is None:
            return min(ROW_TOKENS, n_positions or ROW_TOKENS)
        if n_positions is not None and self.n_pos > n_positions:
            raise ValueError(
                f"corpus.n_pos is {self.n_pos}; the model has {n_positions} positions: set corpus.n_pos={n_positions} "
                "or less"
            )
        return self.n_pos

    @property
    def sources(self) -> tuple[str, ...]:
        """All sources, in order."""
        assert self.source is not None
        return (self.source,) if isinstance(self.source, str) else tuple(self.source)


class EngineConfig(_Section):
    """How tasks are spread."""

    runner: Literal["threads", "dask"] = "threads"
    """threads: in this process; dask: worker processes of a Dask cluster."""
    workers: Annotated[int, Field(gt=0)] | None = None
    """Tasks at once; left out: one a core, of a running Dask cluster one a thread of its workers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where WeightLens computes and `local_model` answers: on a GPU if PyTorch sees one (auto). Training and measuring
    use the CPU."""
    bfloat16: Literal["auto"] | bool = "auto"
    """Find outliers and active features by bfloat16 products and score them again in float32: the same results, sooner
    where the processor has bfloat16 arithmetic (auto: if this machine's has)."""
    dask_address: str | None = None
    """A running Dask scheduler; left out: a local cluster is started for the run."""


class LocalModelConfig(_Section):
    """A chat model of this machine, for `explainer: local` and `judge: local`."""

    path: Path | None = None
    """Folder in transformers format, with safetensors weights and a tokenizer that has a chat template."""
    at_once: Annotated[int, Field(gt=0)] = 8
    """Questions that are answered together; on a GPU without room for so many, fewer."""


class DescribeConfig(_Section):
    """Who words what the other stages found."""

    explainer: Literal["tokens", "anthropic", "openai", "local"] = "tokens"
    """tokens: by rule, offline and for nothing; anthropic: Claude, see `anthropic`; openai: any server that speaks
    OpenAI's chat completions, see `openai`; local: a chat model in this process, see `local_model`."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] | None = None
    """Methods of description; left out: all for which the catalog holds what they look at. weightlens+out+llm needs a
    language model to word it."""
    features_per_layer: Annotated[int, Field(gt=0)] | None = None
    """Describe so many features of each layer, those first that most methods can describe from what is there, which
    are those that `evaluate` judges first; null: all. What weights alone say (the weightlens stage) is said of all."""
    sample: Annotated[int, Field(gt=0)] | None = None
    """Describe so many features of the whole model, drawn at random from all that can be described: a look at what a
    language model says, and what it costs, before all are described. In place of `features_per_layer`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw."""
    evidence: EvidenceSettings = EvidenceSettings()
    rule: RuleSettings = RuleSettings()


class EvaluateConfig(_Section):
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
    """Which model, of an address."""
    surprisal: Literal["subject"] | Path | None = None
    """A language model, for the score `surprisal`: `subject`, the one that is explained, or a folder."""
    sample: Annotated[int, Field(gt=0)] | None = None
    """Judge so many features of the whole model, drawn at random from those described; left out:
    `how.features_per_layer`, those first that most methods describe."""
    how: EvaluateSettings = EvaluateSettings()

    @property
    def embedder(self) -> tuple[str, str | None] | None:
        """The model that turns texts into vectors, by its place and name."""
        return None if self.embeddings is None else (self.embeddings, self.embedding_model)


class PromptsConfig(_Section):
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


class NotifyConfig(_Section):
    """Who is told what a run does."""

    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A program and its arguments, run after every stage and when one fails; no shell reads it. What happened comes as
    one JSON object on its standard input: event (stage.finished or stage.failed), run_id, name, checkpoint_id,
    corpus_id, stage, recipe, error. It may take 30 seconds, and whether it fails changes nothing of the run."""


StageName = Literal["weightlens", "activations", "coactivation", "circuitlens", "describe", "evaluate"]
"""What `run` can do with an ingested checkpoint."""


class RunConfig(_Section):
    """Everything one run depends on."""

    name: str
    """Name of the checkpoint, in run names and the catalog."""
    store: StoreUrl | Path | None = None
    """Store: a folder, or s3://BUCKET/PREFIX; left out: $CIRCUIT_INSIGHTS_STORE, else ./store."""
    model: ModelConfig = ModelConfig()
    transcoder: TranscoderConfig = TranscoderConfig()
    corpus: CorpusConfig = CorpusConfig()
    stages: tuple[StageName, ...] = get_args(StageName)
    """What to do after ingestion: all stages, or those named. Their order is fixed."""
    quality_tokens: Annotated[int, Field(gt=0)] = 8192
    """Tokens of the corpus on which each transcoder is measured at ingestion."""
    shard_size: Annotated[int, Field(gt=0)] = 2048
    """Features a task."""
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
        """Settings that stood in `anthropic` before `llm` served every endpoint: say where they are now."""
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


PATHS = (
    "store", "model.path", "transcoder.path", "corpus.source", "local_model.path", "evaluate.embeddings",
    "evaluate.surprisal", *(f"prompts.{purpose}" for purpose in get_args(Purpose)),
)  # fmt: skip
"""Settings that are paths. In a YAML file they are relative to it, on the command line to the folder one is in."""


NO_PATHS = ("python-docs", "subject")
"""Values of these settings that name no file."""

MAX_PROBLEMS = 15
"""So many of a configuration's mistakes are told at once."""


def preset_or_file(path: Path) -> Path:
    """The file of a configuration, which may be the name of a preset alone, like `gpt2`.

    Raises:
        ValueError: there is neither.
    """
    if check_path(path).is_file():
        return path
    presets = {file.stem: file for file in Path(__file__).parent.glob("*.yaml")}
    if str(path) in presets:
        return presets[str(path)]
    raise ValueError(f"no configuration file {path}; presets are {', '.join(sorted(presets))}")


def load_config(path: Path, overrides: list[str], store: str | None = None) -> RunConfig:
    """Read a configuration and change it by `section.key=value` (the value is read as YAML).

    `path` is a file, or the name of a preset; a preset's own paths are then relative to the folder one is in.

    Raises:
        ValueError: no such file, not YAML, an unknown key, or a value that does not fit; each is named.
    """
    file = preset_or_file(path)
    values = read_yaml(file) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected settings by name, found {type(values).__name__}")
    beside = path if file == path else Path.cwd() / "configs" / file.name  # where a checkout has its presets
    for name in PATHS:
        _change(values, name, lambda value: _beside(beside, value))
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"'{override}': expected key=value, like engine.workers=2")
        _set(values, name, parse_yaml(text, shown(override)))
    if store is not None:
        values["store"] = store
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        problems = [f"  {'.'.join(map(str, e['loc'])) or 'configuration'}: {_problem(e)}" for e in found[:MAX_PROBLEMS]]
        if len(found) > MAX_PROBLEMS:
            problems.append(f"  and {len(found) - MAX_PROBLEMS} more")
        raise ValueError(f"{path}:\n" + "\n".join(problems)) from None


def _problem(error: ErrorDetails) -> str:
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return "unknown key"
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    return message if isinstance(value, dict) else f"{message}, found {shown(value)}"


def _beside(path: Path, value: object) -> object:
    if isinstance(value, list):
        return [_beside(path, one) for one in value]
    if not isinstance(value, str) or value in NO_PATHS or "://" in value:
        return value
    try:
        return str((path.parent / check_path(value).expanduser()).resolve())
    except (ValueError, OSError, RuntimeError):  # what is wrong with it is said where the setting is checked
        return value


def _change(values: dict[str, object], name: str, change: Callable[[object], object]) -> None:
    *sections, key = name.split(".")
    for section in sections:
        inner = values.get(section)
        if not isinstance(inner, dict):
            return
        values = inner
    if values.get(key) is not None:
        values[key] = change(values[key])


def _set(values: dict[str, object], name: str, value: object) -> None:
    *sections, key = name.split(".")
    for section in sections:
        inner = values.get(section)
        if not isinstance(inner, dict):
            inner = values[section] = dict[str, object]()
        values = inner
    values[key] = value
