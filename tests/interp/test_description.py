"""Words from tokens."""

from interp.display import visible
from interp.weightlens.description import Token, group, word_list
from interp.weightlens.settings import WordingSettings

ENGLISH = WordingSettings()


def names(*texts: str, settings: WordingSettings = ENGLISH) -> list[list[str]]:
    return [[token.text for token in part.tokens] for part in group([Token(text) for text in texts], settings)]


def test_case_and_leading_space_are_folded() -> None:
    assert names(" police", "Police", " POLICE", " cop") == [[" police", "Police", " POLICE"], [" cop"]]


def test_forms_of_a_word_are_one_word() -> None:
    assert names(" officers", " officer", " walked", " walking") == [[" officers", " officer"], [" walked", " walking"]]


def test_lemmas_are_left_alone_without_a_language() -> None:
    neutral = WordingSettings(languages=())
    assert names(" ran", " running", settings=neutral) == [[" ran"], [" running"]]


def test_near_duplicates_are_merged_only_when_long() -> None:
    assert names(" organization", " organisation") == [[" organization", " organisation"]]
    assert names(" cat", " car") == [[" cat"], [" car"]]


def test_compatibility_variants_are_one_word() -> None:
    assert names("ﬁnal", "final") == [["ﬁnal", "final"]]


def test_words_symbols_and_bytes_are_told_apart() -> None:
    text = word_list([Token(" Zürich"), Token("."), Token("<0xE2>"), Token("東京"), Token("\n\n")], ENGLISH)
    assert text == "‘Zürich’, ‘東京’; punctuation ‘.’, ‘\\n\\n’; byte fragments ‘<0xE2>’"


def test_pieces_inside_words_are_marked_unless_a_form_starts_a_word() -> None:
    assert word_list([Token("ing")], ENGLISH) == "‘-ing’"
    assert word_list([Token("the"), Token(" the")], ENGLISH) == "‘the’"


def test_long_lists_are_cut_and_say_so() -> None:
    tokens = [Token(f" {a}{b}x") for a in "bcdf" for b in "ghjk"]
    assert word_list(tokens, WordingSettings(max_words=3)).endswith(" and 13 more")


def test_control_and_direction_characters_are_shown_not_sent() -> None:
    assert visible("a\x1b[31mb") == "a\\u001b[31mb"
    assert visible("\u202eevil") == "\\u202eevil"
    assert visible("  ") == "␣␣"
    assert visible(" x") == "␣x"


def test_no_tokens_give_no_text() -> None:
    assert word_list([], ENGLISH) == ""
