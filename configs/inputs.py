"""What a run reads: the model, its transcoders and the text."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.section import Section
from interp.capture import InputHook, OutputHook
from interp.training.settings import TrainingSettings

Number = Annotated[int, Field(ge=0)]

Repo = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]


class ModelConfig(Section):
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


class TranscoderConfig(Section):
    """The model's transcoders: read from a folder or the Hugging Face Hub, or trained."""

    path: Path | None = None
    """Folder of a release; docs/guides/models.md has the formats."""
    repo: Repo | None = None
    """Or a repository of the Hugging Face Hub."""
    revision: str = "main"
    """Branch, tag or commit of `repo`. The commit is recorded."""
    files: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Which files of `repo`, as patterns: `*` within a folder's name, `**` for any folders. Left out: every file of
    weights or settings."""
    subfolder: str | None = None
    """The folder of `repo` that is the release; left out: all of it."""
    only_layers: Annotated[tuple[Number, ...], Field(min_length=1)] | None = None
    """Ingest these layers of a release alone, or those that it has. The MLPs of other layers stay whole: circuits name
    them as errors, and nothing is said of their features. A later run with more layers takes over what is equal."""
    only_features: Annotated[dict[Number, tuple[Number, ...]], Field(min_length=1)] | None = None
    """Explain these features alone, by layer, such as {10: [12, 507]}: others are not attributed, not described by the
    stage `describe` and not judged. Weights, activations, samples and WeightLens cover all features that are ingested:
    TopK and upstream features need them."""
    input_hook: InputHook | None = None
    """Where the transcoders read, for a folder that says it wrongly or not at all."""
    output_hook: OutputHook | None = None
    """Which output the transcoders replace, likewise."""
    train: TrainingSettings | None = None
    """How to train them when there are none."""
    accept_poor_quality: bool = False
    """Ingest transcoders even when their figures say that they were read wrongly."""

    @property
    def narrowed(self) -> dict[str, list[tuple[int, list[int]]]]:
        """What `only_features` adds to the recipes of what it narrows: nothing where it is not set."""
        chosen = self.only_features
        return {} if chosen is None else {"only": [(at, sorted(set(chosen[at]))) for at in sorted(chosen)]}

    def n_explained(self, layers: Iterable[int], per_layer: int | None, width: int) -> int:
        """How many features of some layers are explained at most, by a stage that takes `per_layer` of each (None:
        all)."""
        each, chosen = min(per_layer or width, width), self.only_features
        return sum(each if chosen is None else min(each, len(set(chosen.get(layer, ())))) for layer in layers)

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


class CorpusConfig(Section):
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
    """Seed of the draw of held-out documents."""
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
