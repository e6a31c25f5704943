"""What tokens are called in the catalog, by kind of tokenizer."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from storage.token_texts import byte_level_alphabet, token_texts


def texts_of(tokenizer: Tokenizer, **settings: str) -> list[str]:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
    return token_texts(fast, len(fast))


def test_added_tokens_of_a_byte_level_vocabulary_are_shown_as_they_are() -> None:
    vocabulary = {letter: i for i, letter in enumerate(byte_level_alphabet().values())}
    vocabulary["Ġthe"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.add_tokens(["café", "đem", "  "])
    assert texts_of(tokenizer)[256:] == [" the", "café", "đem", "  "]


def test_whole_words_stand_as_words_where_no_token_marks_their_beginning() -> None:
    words = Tokenizer(models.WordLevel({"word": 0, "w62382": 1, ",": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert texts_of(words, unk_token="<unk>") == [" word", " w62382", ",", "<unk>"]
    pieces = Tokenizer(models.WordPiece({"play": 0, "##ing": 1, "##": 2, ".": 3, "[UNK]": 4}, unk_token="[UNK]"))
    assert texts_of(pieces, unk_token="[UNK]") == [" play", "ing", "##", ".", "[UNK]"]


def test_marked_word_beginnings_are_left_alone() -> None:
    marked = Tokenizer(models.WordLevel({"▁word": 0, "piece": 1, "<unk>": 2}, unk_token="<unk>"))
    assert texts_of(marked, unk_token="<unk>") == [" word", "piece", "<unk>"]
