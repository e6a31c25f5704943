"""The checkpoint that is part of the repository: its size, its vocabulary, and how good its transcoders are."""

import json

import pytest

from storage.models import open_model
from tests.conftest import ROOT

CHECKPOINT = ROOT / "demo" / "checkpoint"
MAX_BYTES = 6_000_000


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file()) <= MAX_BYTES


def test_its_transcoders_explain_every_layer_with_few_features() -> None:
    layers = json.loads((CHECKPOINT / "training.json").read_text())["transcoders"]
    assert [one["layer"] for one in layers] == [0, 1, 2, 3]
    for one in layers:
        assert one["explained_variance"] >= 0.85
        assert one["l0"] <= 16
        assert one["dead_share"] <= 0.01


@pytest.mark.parametrize("word", [" dictionary", " return", "Return", " otherwise", " exception"])
def test_common_words_are_single_tokens(word: str) -> None:
    assert len(open_model(CHECKPOINT / "model").tokenizer(word)["input_ids"]) == 1


@pytest.mark.parametrize("text", ["def f(x):\n    return x**2  # naïve", "zyzzyva, 日本 and 3.14159", "  \t \n\n'"])
def test_any_text_can_be_written(text: str) -> None:
    tokenizer = open_model(CHECKPOINT / "model").tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
