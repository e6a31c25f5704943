"""The inputs of a run: the model, its transcoders and the text."""

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
    """The language model, in a folder or on the Hugging Face Hub."""

    path: Path | None = None
    """Folder in transformers format, with safetensors weights and a tokenizer."""
    repo: Repo | None = None
    """Repository of the Hugging Face Hub in place of `path`, like google/gemma-2-2b. For a gated one, set HF_TOKEN in
    the environment."""
    revision: str = "main"
    """Branch, tag or commit of `repo`. The commit is recorded."""
    bos: Literal["auto", "none"] | Annotated[int, Field(ge=0)] = "auto"
    """The token put before a single token and at the start of documents. auto: the tokenizer's own BOS; none: for a
    model that was trained without one; or a token id."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Number format of the model's weights when the model runs on text; auto: the checkpoint's own on a GPU, float32 on
    a CPU. Sums, statistics, scores, thresholds, transcoders, projections and CircuitLens's attributions are float32 in
    any case. With another format, the store has another checkpoint."""
    step: int | None = None
    """Training step of the model, for one of a series of checkpoints."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        _expect_one_origin("model", self.path, self.repo, {"revision": self.revision != "main"})
        return self


class TranscoderConfig(Section):
    """The model's transcoders: read from a folder or the Hugging Face Hub, or trained."""

    path: Path | None = None
    """Folder of a release; docs/guides/models.md lists the formats."""
    repo: Repo | None = None
    """Repository of the Hugging Face Hub in place of `path`."""
    revision: str = "main"
    """Branch, tag or commit of `repo`. The commit is recorded."""
    files: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Which files of `repo`, as patterns: `*` within a folder's name, `**` for any folders. Left out: every file of
    weights or settings."""
    subfolder: str | None = None
    """The folder of `repo` that is the release; left out: all of it."""
    only_layers: Annotated[tuple[Number, ...], Field(min_length=1)] | None = None
    """Ingest only these layers of a release, or those that it has. The MLPs of other layers count as errors in
    circuits, and their features are not explained. A later run with more layers copies the results that stay the
    same."""
    only_features: Annotated[dict[Number, tuple[Number, ...]], Field(min_length=1)] | None = None
    """Explain only these features, by layer, such as {10: [12, 507]}: others are not attributed, not described by the
    stage `describe` and not judged. Ingestion, activations, samples and WeightLens cover all features of the ingested
    layers, because TopK and upstream edges need them."""
    input_hook: InputHook | None = None
    """Where the transcoders read, for a release that does not say so or says it wrongly."""
    output_hook: OutputHook | None = None
    """Which output the transcoders replace, for a release that does not say so or says it wrongly."""
    train: TrainingSettings | None = None
    """How transcoders are trained if there are none."""
    accept_poor_quality: bool = False
    """Ingest transcoders even if their quality suggests that they were read wrongly."""

    @property
    def narrowed(self) -> dict[str, list[tuple[int, list[int]]]]:
        """What `only_features` adds to the recipes of the stages that it restricts; nothing if it is not set."""
        chosen = self.only_features
        return {} if chosen is None else {"only": [(at, sorted(set(chosen[at]))) for at in sorted(chosen)]}

    def chosen_of(self, n_layers: int) -> list[int]:
        """Those of a model's layers whose features are described: all, or `only_layers`."""
        return [layer for layer in range(n_layers) if self.only_layers is None or layer in self.only_layers]

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
"""Tokens in a row, if `n_pos` is left out."""


class CorpusConfig(Section):
    """The text that transcoders are trained and measured on."""

    source: str | Annotated[list[str], Field(min_length=1)] | None = None
    """A .txt, .jsonl, .csv, .tsv or .parquet file (all but the last also as .gz or .zst), a folder of these,
    hf://datasets/OWNER/NAME[@REVISION]/PATH for such files on the Hub (PATH: a file, a folder or a glob), or
    `python-docs` for the documentation of the running Python. Or a list of these, read one after the other;
    statistics of one source are reused when another is added. Transcoders are trained and measured on the first."""
    text_field: str = "text"
    """Field of a .jsonl line or column of a .csv, .tsv or .parquet file that holds a document."""
    token_field: str | None = None
    """A field or column, in place of `text_field`, that holds a document as a list of token ids. `tokenizer_sha256`
    must name their tokenizer."""
    tokenizer_sha256: str | None = None
    """The tokenizer that made the ids in `token_field`, by its hash, which the message shows if this is left out. The
    ids of another tokenizer would mean other words."""
    special_tokens: Literal["as_tokens", "as_text"] = "as_tokens"
    """How names of special tokens in a document, such as <|endoftext|>, are read. as_tokens: as that token, which is
    left out of most statistics (`activations.special_tokens`); as_text: as ordinary characters."""
    layout: Literal["packed", "padded"] = "packed"
    """packed: documents follow one another without a gap. padded: each document begins a row; a document longer than a
    row continues in further rows, and the rest of its last row is padding."""
    n_pos: Annotated[int, Field(gt=1)] | None = None
    """Tokens in a row, at most the model's number of positions; left out: 128, or the model's number of positions if
    that is less."""
    max_tokens: Annotated[int, Field(gt=1)] | None = None
    """Largest number of tokens, in whole rows, including padding. The share `held_out` of them is from held-out
    documents."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the documents, selected by a hash of their content, that no statistic or sample is computed from;
    descriptions are judged on them. In a text of fewer than ten documents, passages are held out instead."""
    held_out_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the selection of held-out documents."""
    keep_text: bool = True
    """Whether the catalog stores the text around samples, which `show`, searches, pages and exports display. false for
    private text: the catalog then has single tokens only, and rows are stored as token ids."""

    def row_tokens(self, n_positions: int | None = None) -> int:
        """Tokens in a row for a model with this many positions (None: with enough).

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
