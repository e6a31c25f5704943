"""The judge that knows nothing but the description's words."""

from typing import Any

import numpy as np
import pytest

from interp.descriptions.llm_questions import Answer, Answers, Prompt
from interp.fade.judge import LACKING, Marked, Text
from interp.fade.judging import Material, judge_description
from interp.fade.model_judge import ModelJudge
from interp.fade.rule import RuleJudge
from interp.fade.writing import _attach
from tasks.llm.instructions import instructions

JUDGE = RuleJudge()
OFFICER = "‘officer’ and its forms, right after ‘police’. Promotes ‘headquarters’."
SEEN = [
    Text((" a", " police", " officers", " ran")),
    Text((" the", " officer", " of", " police")),
    Text((" police", " dogs")),
    Text((" nearer", " head", "quarters")),
]


def test_texts_are_rated_by_word_and_context() -> None:
    assert JUDGE.rate(OFFICER, SEEN).tolist() == [2, 1, 0, 0]
    assert JUDGE.rate("‘-er’", [Text((" near", "er")), Text((" er",))]).tolist() == [2, 0]
    assert JUDGE.rate("‘\\n’.", [Text(("a", "\n")), Text(("a",))]).tolist() == [2, 0]


def test_continuations_may_show_what_is_promoted() -> None:
    texts = [Text((" the", " headquarters")), Text((" nothing",))]
    assert JUDGE.rate_continuations(OFFICER, texts).tolist() == [2, 0]
    assert JUDGE.rate(OFFICER, texts).tolist() == [0, 0]
    assert JUDGE.rate("promotes ‘headquarters’", texts).tolist() == [2, 0]


def test_activity_is_expected_where_the_word_stands() -> None:
    (expected,) = JUDGE.simulate(OFFICER, [Text((" police", " officer", " officer"))])
    assert expected.tolist() == [0, 1, 0.5]
    (expected,) = JUDGE.simulate("Many tokens, such as ‘x’, right after ‘the’.", [Text((" the", " sea", " x"))])
    assert expected.tolist() == [0, 1, 0.5]


def test_what_else_comes_before_a_place_is_written_and_not_asked_for() -> None:
    said = "‘officer’ and its forms, right after ‘police’ and after ‘court’."
    assert JUDGE.rate(said, SEEN).tolist() == [2, 1, 0, 0]
    assert JUDGE.rate("‘officer’ and its forms, after ‘court’.", SEEN).tolist() == [1, 1, 0, 0]
    for text in JUDGE.synthesise(said, 20):
        assert text.count("police officer") == text.count("court") == 4


def test_a_text_is_about_several_of_the_words_that_are_named() -> None:
    texts = JUDGE.synthesise("‘one1’ and ‘two2’.", 20)
    assert any("one1" in text and "two2" in text for text in texts)
    assert all("one1" in text for text in texts)


def test_weaker_words_are_expected_faintly_and_seldom_written_about() -> None:
    said = "‘are’, sometimes right after ‘we’; more weakly ‘;’."
    (expected,) = JUDGE.simulate(said, [Text((" we", " are", ";", " are"))])
    assert expected.tolist() == [0, 1, 0.5, 1]
    assert JUDGE.rate(said, [Text((" they", " are")), Text((";",))]).tolist() == [2, 1]
    texts = JUDGE.synthesise(said, 20)
    assert 1 <= sum(";" in text for text in texts) <= 3
    assert any("we are" in text for text in texts)
    assert any(text.count(" are") > text.count("we are") for text in texts)


def test_the_earlier_a_word_is_named_the_more_is_written_about_it() -> None:
    texts = JUDGE.synthesise("‘one1’, ‘two2’ and ‘six6’.", 20)
    counts = [sum(word in text for text in texts) for word in ("one1", "two2", "six6")]
    assert counts == sorted(counts, reverse=True)
    assert 0 < counts[2] < counts[0]


def test_simulation_expects_a_little_before_what_is_promoted() -> None:
    (expected,) = JUDGE.simulate("‘so’. Promotes ‘far’.", [Text((" so", " a", " far"))])
    assert expected.tolist() == [1, 0.25, 0]


def test_kinds_and_places_are_looked_for() -> None:
    def expected(description: str, *tokens: str) -> list[float]:
        (found,) = JUDGE.simulate(description, [Text(tokens)])
        return found.tolist()

    assert expected("‘7’ and other digits.", " a", " 7", "3", " x") == [0, 1, 1, 0]
    assert expected("‘page’, right after ordinal numbers.", " first", " page", " page") == [0, 1, 0.5]
    assert expected("‘-ter’ in ‘filter’.", " fil", "ter", " un", "ter") == [0, 1, 0, 0.5]
    assert expected("‘def’, at the start of a line.", " def", "\n", "  ", "def") == [0.5, 0, 0, 1]
    assert expected("‘x’, in texts with ‘news’.", " x", " news") == [1, 0]
    assert expected("‘x’, in texts with ‘news’.", " x", " a") == [0.5, 0]
    assert expected("‘x’, strongest right after ‘a’.", " x") == [1]
    assert expected("‘x’, right before ‘y’.", " x", " z") == [1, 0]  # what follows has not fired it


def test_texts_show_kinds_and_places() -> None:
    def texts(description: str) -> list[str]:
        return JUDGE.synthesise(description, 8)

    assert all(any(digit in text for digit in "0123456789") for text in texts("Digits."))
    assert all("filter" in text for text in texts("‘-ter’ in ‘filter’."))
    assert all("\ndef" in text for text in texts("‘def’, at the start of a line."))
    assert all(text.startswith("news: ") for text in texts("‘x’, in texts with ‘news’."))
    assert all("x of" in text for text in texts("‘x’, right before ‘of’."))
    assert all("\n " not in text for text in texts("‘\\n’, right after ‘.’."))


def test_marks_are_checked_against_what_is_expected() -> None:
    text = Text((" police", " officer", " ran"))
    assert JUDGE.marks_right(OFFICER, [Marked(text, (1,)), Marked(text, (0, 2))]).tolist() == [1, 0]


def test_texts_it_writes_show_what_it_looks_for() -> None:
    texts = JUDGE.synthesise(OFFICER, 20)
    assert len(texts) == len(set(texts)) == 20
    assert all("police officer" in text for text in texts)
    pieces = JUDGE.synthesise("‘-er’, ‘.’; punctuation ‘\\n’", 30)
    assert len(pieces) == 30
    assert sum("er" in text for text in pieces) >= 10
    assert JUDGE.synthesise("promotes ‘x’", 3) == JUDGE.synthesise("‘x’", 3)
    assert JUDGE.synthesise("", 3) == []


def test_a_language_model_is_asked_once_for_equal_texts_and_gaps_stay_gaps() -> None:
    asked: list[Prompt] = []

    def known(prompt: Prompt) -> Answer | None:
        asked.append(prompt)
        if "«" in prompt.user:
            return None
        if prompt.purpose == "rate":
            return Answer({"ratings": [{"id": 0, "rating": 2}, {"id": 9, "rating": 1}]})
        return Answer({"firing": [{"id": 0, "tokens": [1, 7]}]}) if prompt.purpose == "simulate" else Answer(None, "x")

    answers = Answers(known)
    judge = ModelJudge(answers, instructions(), 15)
    texts = [Text((" a", " b")), Text((" a", " b")), Text((" c",))]
    assert judge.rate("d", texts).tolist() == [2, 2, LACKING]
    assert len(asked) == 1
    (expected,) = judge.simulate("d", texts[:1])
    assert expected is not None
    assert np.array_equal(expected, [0, 1])
    assert judge.synthesise("d", 10) == []
    assert [problem.problem for problem in answers.problems] == ["x"]
    assert not answers.missing
    assert judge.marks_right("d", [Marked(texts[0], (1,))]).tolist() == [LACKING]
    assert len(answers.missing) == 1


def test_texts_put_a_word_where_the_description_says() -> None:
    def texts(description: str) -> list[str]:
        found = JUDGE.synthesise(description, 8)
        assert len(found) == 8
        return found

    assert all(text.count("unter") == 4 for text in texts("‘-ter’, right after ‘un’."))
    assert all("\nExample" in text for text in texts("‘Example’ and its forms, right after ‘\\n’."))
    assert any("(self" in text for text in texts("‘self’, right after ‘(’."))
    assert all("object." in text for text in texts("‘.’, right after ‘-object’."))
    assert all(text.index("if") < text.index("then") for text in texts("‘then’, after ‘if’."))
    assert all("\x11" in text for text in texts("‘\\u0011’; byte fragments ‘<0xD7>’"))


def test_a_text_is_judged_once_for_all_features_of_which_the_same_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(rated: list[int], marked: list[Marked], factor: float) -> Material:
        places = np.array(rated, np.int64)
        right = np.ones(len(marked), bool)
        active = [np.zeros(len(SEEN[at].tokens), bool) for at in rated]
        peaks, counted = np.zeros(len(SEEN), np.float32), [~one for one in active]
        return Material(peaks, places, marked, right, places, active, counted, {factor: SEEN[1:3]})

    shared, other = Marked(SEEN[0], (2,)), Marked(SEEN[2], (0,))
    materials = [of([3, 0], [shared], 1.0), of([0, 1], [shared, other], 2.0)]
    alone = [judge_description(JUDGE, OFFICER, [one], SEEN)[0] for one in materials]
    asked: list[tuple[str, list[Any]]] = []
    for name in ("rate", "rate_continuations", "marks_right", "simulate"):
        original = getattr(RuleJudge, name)

        def noted(judge: RuleJudge, what: str, texts: Any, name: str = name, original: Any = original) -> Any:
            asked.append((name, list(texts)))
            return original(judge, what, texts)

        monkeypatch.setattr(RuleJudge, name, noted)
    together = judge_description(JUDGE, OFFICER, materials, SEEN)
    by_rule = [one for one in asked if one[0] != "simulate" or len(one[1]) == 3]  # marks are looked up in activity
    assert sorted(by_rule) == sorted(
        [
            ("rate", [SEEN[3], SEEN[0], SEEN[1]]),
            ("rate_continuations", SEEN[1:3]),
            ("marks_right", [shared, other]),
            ("simulate", [SEEN[3], SEEN[0], SEEN[1]]),
        ]
    )
    for one, single in zip(together, alone, strict=True):
        assert one.ratings.tolist() == single.ratings.tolist()
        assert one.marks.tolist() == single.marks.tolist()
        assert one.expected is not None
        assert single.expected is not None
        assert all(map(np.array_equal, one.expected, single.expected))
        assert {factor: many.tolist() for factor, many in one.continuations.items()} == {
            factor: many.tolist() for factor, many in single.continuations.items()
        }


def test_an_answer_that_is_lacking_is_lacking_only_where_it_is_wanted() -> None:
    def known(prompt: Prompt) -> Answer | None:
        if prompt.purpose != "simulate":
            return Answer({"ratings": []})
        return Answer(None, "x") if "dogs" in prompt.user else Answer({"firing": []})

    places = [np.array([at], np.int64) for at in (0, 2)]
    materials = [Material(np.zeros(4, np.float32), at, [], np.zeros(0, bool), at, [], [], {}) for at in places]
    judged = judge_description(ModelJudge(Answers(known), instructions(), 1), "d", materials, SEEN)
    assert [one.expected is None for one in judged] == [False, True]


def test_ratings_leave_room_for_every_text_of_a_question() -> None:
    asked: list[Prompt] = []

    def known(prompt: Prompt) -> Answer:
        asked.append(prompt)
        return Answer({"ratings": [{"id": 0, "rating": 2}]})

    found = ModelJudge(Answers(known), instructions(), 3).rate("a cat", [Text((word,)) for word in "abcd"])
    assert found.tolist() == [2, LACKING, LACKING, 2]
    assert [prompt.max_tokens for prompt in asked] == [100, 60]


def test_after_a_sign_a_word_is_written_with_and_without_a_blank_in_turn() -> None:
    assert [_attach("a (", "word", turn) for turn in range(4)] == ["a (word", "a ( word", "a (word", "a ( word"]
    assert [_attach("the", "word", turn) for turn in range(2)] == ["the word"] * 2
