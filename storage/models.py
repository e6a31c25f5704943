"""Read a language model and its tokenizer from a folder, without trusting its content."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import Mxfp4Config

from interp.families import Family, family_of
from storage.foreign import check_path, shown
from storage.formats.folder import check_weights, read_settings
from storage.model_weights import (
    is_of_images,
    names_to_change,
    quantised_by,
    refuse_adapter,
    refuse_gguf,
    unknown_weights,
    weight_files,
)
from storage.tokenising import TRIAL, TRIAL_S, token_ids

MAX_PADDED_VOCABULARY = 0.05
"""Models pad their embeddings to round sizes. If more than this share of rows has no token, the tokenizer is another
model's."""

MAX_SIZE = 10_000_000
"""Upper limits for depth, width and number of tokens."""

BOUNDS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), 1000),
    **dict.fromkeys(("num_labels", "num_attention_heads", "n_head"), 100_000),
    **dict.fromkeys(("hidden_size", "n_embd", "vocab_size", "intermediate_size", "n_inner", "head_dim"), MAX_SIZE),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 100_000_000),
}
"""Settings from which transformers makes lists, modules or arrays before it reads any weight."""

TEXT_PARTS = ("gemma3", "mistral3")
"""Models of texts and images whose text part alone is read, by `model_type`."""

MAX_SETTINGS = 1000
"""Limit for the number of settings in a model's config.json, since transformers processes each."""

MAX_TOKENIZER_BYTES = 50_000_000
"""Limit for a tokenizer's file in bytes; Gemma-3's has 33 MB."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")

VOCABULARY_FILES = ("tokenizer.json", "vocab.json")
"""Files of which a tokenizer needs one; without any, transformers makes a tokenizer that knows no word."""

SETTINGS_FILES = ("config.json", *TOKENIZER_FILES)
"""The small files of a model folder: all but the weights."""


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder: its settings and files. `load` reads the weights."""

    path: Path
    config: PreTrainedConfig
    family: Family
    weight_files: tuple[Path, ...]
    whole: str | None = None
    """`model_type` of the model of texts and images of which this is the text part, if it is."""
    quantised: str | None = None
    """How the files' weights are quantised, if they are; `load` dequantises them."""

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return _size(self.config, "num_hidden_layers")

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return _size(self.config, "hidden_size")

    @property
    def n_positions(self) -> int:
        """The longest text that the model was made for, in tokens."""
        return _size(self.config, "max_position_embeddings")

    @property
    def folded(self) -> tuple[str, ...]:
        """How `load` converts the weights in the files, for the record of where results come from."""
        return () if self.quantised is None else (f"the model's {self.quantised} weights, dequantised to float32",)

    @property
    def d_vocab(self) -> int:
        """Number of rows of the embedding, which may exceed the tokenizer's number of tokens."""
        return _size(self.config, "vocab_size")

    @property
    def bos(self) -> int | None:
        """The token that the tokenizer puts before every text, if it has one."""
        token = self.tokenizer.bos_token_id
        return token if isinstance(token, int) else None

    @property
    def n_tokens(self) -> int:
        """Number of the tokenizer's tokens that the model can read."""
        return min(len(self.tokenizer), self.d_vocab)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the model's results depend on."""
        return (self.path / "config.json", *self.weight_files)

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """The files of the tokenizer that are in the folder."""
        return tuple(self.path / name for name in TOKENIZER_FILES if (self.path / name).is_file())

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the folder's tokenizer.

        Raises:
            ValueError: there is none, or its vocabulary size does not fit the model's.
        """
        for file in self.tokenizer_files:
            if file.stat().st_size > MAX_TOKENIZER_BYTES:
                size = file.stat().st_size
                raise ValueError(f"{file}: {size} bytes; expected a tokenizer's file, at most {MAX_TOKENIZER_BYTES}")
        if not any((self.path / name).is_file() for name in VOCABULARY_FILES):
            raise ValueError(
                f"{self.path}: no tokenizer; expected tokenizer.json (or vocab.json and merges.txt) beside the model's "
                "config.json. Another form, such as tokenizer.model, is converted by "
                "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
            token_ids(tokenizer, [TRIAL], TRIAL_S)  # settings of a wrong type and bad patterns show only in use
        except BaseException as error:  # transformers' parsers can raise almost anything; those in Rust no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise ValueError(f"{self.path}: no readable tokenizer ({_one_line(error)})") from None
        n_tokens, added = len(tokenizer), tokenizer.added_tokens_decoder
        # Gemma-3's tokenizer has a placeholder for images, for which the text models have no embedding.
        too_many = any(i not in added or not added[i].special for i in range(self.d_vocab, n_tokens))
        if too_many or n_tokens < (1 - MAX_PADDED_VOCABULARY) * self.d_vocab:
            raise ValueError(
                f"{self.path}: the tokenizer has {n_tokens} tokens, the model {self.d_vocab}; "
                "is it the tokenizer of another model?"
            )
        return tokenizer

    def load(self) -> PreTrainedModel:
        """Load the model in float32, ready to run, with every weight taken from the files and finite.

        Raises:
            ValueError: a weight file is truncated, or a weight is missing, superfluous, misshaped or not finite.
        """
        # A truncated file is named here, since the loader's message would not.
        names = names_to_change(self.weight_files, text_part=self.whole is not None)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            loaded: object = AutoModelForCausalLM.from_pretrained(
                self.path,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                key_mapping=names,
                config=self.config,
                quantization_config=Mxfp4Config(dequantize=True) if self.quantised else None,
            )
            assert isinstance(loaded, tuple)  # the return value is a pair because of output_loading_info
            model, report = loaded
        except Exception as error:
            raise ValueError(f"{self.path}: the model cannot be read ({_one_line(error)})") from None
        unexpected = unknown_weights(list(report["unexpected_keys"]), self.weight_files)
        report["unexpected_keys"] = [name for name in unexpected if self.whole is None or not is_of_images(name)]
        for problem in ("missing_keys", "mismatched_keys", "unexpected_keys", "error_msgs"):
            if report.get(problem):
                raise ValueError(
                    f"{self.path}: weights do not fit config.json: {problem.replace('_', ' ')} "
                    f"{sorted(map(str, report[problem]))[:3]}"
                )
        for name, value in model.named_parameters():
            check_weights(self.path, name, value)
        return model.eval().requires_grad_(False)


def open_model(path: Path) -> ModelFolder:
    """Open a transformers folder. No weights are read yet.

    Raises:
        ValueError: there is no folder, no readable config.json, or no safetensors weights, or the family is unknown.
    """
    model = open_settings(path)
    return replace(model, weight_files=weight_files(path))


def open_settings(path: Path) -> ModelFolder:
    """Open a transformers folder that may lack the weights; settings and tokenizer must be there.

    Raises:
        ValueError: there is no folder or no readable config.json, or the family is unknown.
    """
    refuse_gguf(check_path(path))
    if not path.is_dir():
        raise ValueError(f"model.path: no folder {path}")
    config_path = path / "config.json"
    refuse_adapter(path)
    if not config_path.is_file():
        raise ValueError(f"model.path: {path} holds no config.json; expected a transformers model folder")
    settings = read_settings(config_path)
    if len(settings) > MAX_SETTINGS:
        raise ValueError(f"{config_path}: {len(settings)} settings; expected at most {MAX_SETTINGS}")
    whole = str(settings.get("model_type")) if settings.get("model_type") in TEXT_PARTS else None
    parts = [part for part in settings.values() if isinstance(part, dict)]
    for section in (settings, *parts):
        for name, bound in BOUNDS.items():
            value = section.get(name)
            if isinstance(value, int | float) and not 0 <= value <= bound:
                raise ValueError(f"{config_path}: {name} is {shown(value)}; expected a number up to {bound}")
    text = settings if whole is None else settings.get("text_config")
    model_type = text.get("model_type") if isinstance(text, dict) else None
    try:
        family = family_of(str(model_type)[:100])
    except ValueError as error:
        raise ValueError(f"{config_path}: {error}") from None
    quantised = quantised_by(config_path, settings)
    transformers_logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers' checks can raise almost any exception
        raise ValueError(f"{config_path}: {_one_line(error)}") from None
    if whole is not None:
        config = config.text_config
    for name in ("num_hidden_layers", "hidden_size", "vocab_size"):
        try:
            _size(config, name)
        except ValueError as error:
            raise ValueError(f"{config_path}: {error}") from None
    return ModelFolder(path, config, family, (), whole, quantised)


def _size(config: PreTrainedConfig, name: str) -> int:
    size = getattr(config, name, None)
    if not isinstance(size, int) or not 0 < size <= BOUNDS[name]:
        raise ValueError(f"{name} is {size!r}; expected a number from 1 to {BOUNDS[name]}")
    return size


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
