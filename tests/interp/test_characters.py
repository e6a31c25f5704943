"""Tokens that split a character are shown as the character."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from interp.characters import joined_characters


def test_a_split_character_is_whole_on_its_first_token() -> None:
    assert joined_characters(["a", "<0xE2>", "<0x82>", "<0xAC>", " b"]) == ["a", "€", "", "", " b"]
    assert joined_characters(["<0x20><0xF0>", "<0x9F><0x98>", "<0x80>"]) == [" 😀", "", ""]


def test_two_characters_in_a_row_are_two() -> None:
    assert joined_characters(["<0xE2><0x82>", "<0xAC>", "<0xE2><0x82>", "<0xAC>"]) == ["€", "", "€", ""]


def test_a_token_that_ends_one_character_and_begins_the_next_joins_both() -> None:
    assert joined_characters(["<0xC3>", "<0xA9><0xC3>", "<0xA8>"]) == ["éè", "", ""]


def test_bytes_that_are_no_character_stay_bytes() -> None:
    assert joined_characters(["<0x82>", "<0xAC>", "x", "<0xE2>"]) == ["<0x82>", "<0xAC>", "x", "<0xE2>"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1), max_size=5), st.randoms())
def test_joined_texts_are_the_text(words: list[str], random: Random) -> None:
    texts = []
    for word in words:
        data = word.encode()
        cuts = sorted(random.sample(range(1, len(data)), random.randint(0, min(3, len(data) - 1)))) if data[1:] else []
        for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
            piece = data[start:stop]
            try:
                texts.append(piece.decode())
            except UnicodeDecodeError:
                texts.append("".join(f"<0x{byte:02X}>" for byte in piece))
    joined = joined_characters(texts)
    assert len(joined) == len(texts)
    assert "".join(joined) == "".join(words)
