"""How the texts of a corpus become tokens: by the tokenizer, or already, where a file holds token ids."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from transformers import PreTrainedTokenizerBase

SpecialTokens = Literal["as_tokens", "as_text"]
"""What becomes of the names of special tokens that stand in a text."""


class Tokens(Protocol):
    """What packing asks: the token ids of some texts, by the name `input_ids`; a tokenizer of transformers is one."""

    def __call__(self, texts: list[str], /, *, add_special_tokens: bool) -> Mapping[str, Any]: ...


class PlainTexts:
    """A tokenizer to which the name of a special token, such as <|endoftext|>, is a text like any other."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        found = self._tokenizer(texts, add_special_tokens=add_special_tokens, split_special_tokens=True)
        return {"input_ids": found["input_ids"]}  # pyright: ignore[reportReturnType]


class ReadyTokens:
    """Token ids that stand in the corpus as numbers.

    Calling it raises ValueError where one is no token of the model.
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
