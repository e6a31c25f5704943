"""A token is shown in its sentence where that is short, else in what is nearest."""

from hypothesis import given
from hypothesis import strategies as st

from interp.excerpts import CUT, Excerpt, fitted, sentence


def test_a_short_sentence_is_whole() -> None:
    text = Excerpt("First one. The cat", " sat", " down. Then it left.")
    assert fitted(text, 80) == ("The cat", " sat", " down.")


def test_a_full_stop_belongs_to_the_sentence_that_it_ends() -> None:
    assert sentence(Excerpt("First. The cat sat", ".", " Then")) == ("The cat sat", ".", "")
    assert sentence(Excerpt("“One.” he", " said", ". Two")) == ("he", " said", ".")


def test_numbers_and_abbreviations_within_words_end_nothing() -> None:
    assert sentence(Excerpt("Python 3.", "11", " is e.g.fast. No")) == ("Python 3.", "11", " is e.g.fast.")


def test_a_paragraph_ends_a_sentence() -> None:
    assert sentence(Excerpt("Title\n\nthe", " cat", "\n\nNext")) == ("the", " cat", "")


def test_long_sentences_are_cut_around_the_token() -> None:
    text = fitted(Excerpt("a" * 100, "b", "c" * 100), 40)
    assert text == (CUT + "a" * 25, "b", "c" * 12 + CUT)


@given(st.text(max_size=200), st.text(min_size=1, max_size=50), st.text(max_size=200), st.integers(20, 100))
def test_what_is_shown_fits_and_is_of_the_text(before: str, token: str, after: str, width: int) -> None:
    shown = fitted(Excerpt(before, token, after), width)
    assert sum(map(len, shown)) <= width
    assert before.rstrip().endswith(shown.before.removeprefix(CUT).rstrip())
    assert after.startswith(shown.after.removesuffix(CUT))
    assert token.startswith(shown.token.removesuffix(CUT))


def test_a_token_longer_than_half_the_width_is_cut() -> None:
    assert fitted(Excerpt("before ", "t" * 25, " after"), 20).token == "t" * 9 + CUT
