"""How the texts of a corpus become tokens: by the tokenizer, or directly from a file of token ids."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from transformers import PreTrainedTokenizerBase

SpecialTokens = Literal["as_tokens", "as_text"]
"""How names of special tokens in a text are read."""


class Tokens(Protocol):
    """The interface that packing needs: the token ids of some texts as `input_ids`; transformers' tokenizers have
    it."""

    def __call__(self, texts: list[str], /, *, add_special_tokens: bool) -> Mapping[str, Any]: ...


class PlainTexts:
    """A tokenizer that reads the name of a special token, such as <|endoftext|>, as ordinary text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        found = self._tokenizer(texts, add_special_tokens=add_special_tokens, split_special_tokens=True)
        return {"input_ids": found["input_ids"]}  # pyright: ignore[reportReturnType]


class ReadyTokens:
    """Reads token ids that are in the corpus as numbers.

    Calling it raises ValueError for an id that is not a token of the model.
    """

    def __init__(self, n_tokens: int) -> None:
        self._n_tokens = n_tokens

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [self._checked([int(number) for number in text.split()]) for text in texts]}

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        bad = [token for token in tokens if not 0 <= token < self._n_tokens]
        if bad:
            raise ValueError(
                f"corpus: token id {bad[0]}; the tokenizer has ids from 0 to {self._n_tokens - 1}, so these are the "
                "tokens of another"
            )
        return list(tokens)
