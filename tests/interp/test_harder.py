"""Tests that a vague description fails: look-alikes, odd ones out, near-duplicates, likelihoods."""

from pathlib import Path

import numpy as np

from interp.descriptions.llm_questions import Answer, Answers, Prompt
from interp.duplicates import RUN, shares_found
from interp.fade.harder import (
    IN_GROUP,
    HardNegatives,
    LookAlikes,
    hard_negatives,
    nearest_by_decoder,
    nearest_by_tokens,
    odd_ones_out,
)
from interp.fade.judge import LACKING, Marked, NaturalTexts, Text
from interp.fade.judging import Compared, Judged, Material, figures, judge_description, material
from interp.fade.metrics import chance_of_active
from interp.fade.model_judge import ModelJudge
from interp.fade.rule import RuleJudge
from interp.fade.settings import EvaluateSettings
from interp.fade.surprisal import gains
from interp.fade.texts import Active
from storage.models import open_model
from tasks.llm.instructions import instructions
from tests.conftest import ROOT

WORDS = ["cat", "dog", "cow", "hen"]


def natural(n: int) -> NaturalTexts:
    """Texts of three words, every fourth with each word in the middle."""
    texts = [Text(("x", WORDS[at % 4], f"y{at}")) for at in range(n)]
    return NaturalTexts(texts, [np.ones(3, bool)] * n)


def firing(*words: int, n: int) -> Active:
    """Features that are active at one word each, more in later texts."""
    found = [(feature, text, 1, 1.0 + text) for feature, word in enumerate(words) for text in range(word, n, 4)]
    columns = zip(*found, strict=True)
    return Active(*(np.array(column, kind) for column, kind in zip(columns, "iiif", strict=True)))


def test_the_nearest_others_are_alive_and_nearest_first() -> None:
    W_dec = np.array([[1, 0], [0.9, 0.1], [2, 0.9], [1, 0.05], [-1, 0]], np.float32)
    among = np.array([True, True, True, False, True])
    assert nearest_by_decoder(W_dec, np.array([0, 4]), among, 3).tolist() == [[1, 2, 4], [2, 1, 0]]
    pairs = np.array([[0, 5], [0, 6], [0, 6], [1, 6], [1, 5], [2, 5], [2, 9], [4, 7]])
    assert nearest_by_tokens(pairs, np.array([0, 4]), among, 3).tolist() == [[1, 2, -1], [-1, -1, -1]]
    assert nearest_by_tokens(np.zeros((0, 2), np.int64), np.array([0]), among, 2).tolist() == [[-1, -1]]


def test_hard_negatives_are_texts_of_both_kinds_of_look_alikes_in_which_the_feature_is_silent() -> None:
    texts = natural(40)
    active = firing(0, 1, 2, 0, n=40)
    found = hard_negatives(active, 0, LookAlikes([1, 3], [2]), texts, 6)
    assert found.texts.tolist() == [37, 38, 33, 34, 29, 30]
    assert [marked.text.tokens[1] for marked in found.marked] == ["dog", "cow"] * 3
    assert all(marked.places == (1,) for marked in found.marked)
    assert len(hard_negatives(active, 0, LookAlikes([3], []), texts, 6).texts) == 0


def test_a_word_that_look_alikes_share_is_told_by_random_negatives_alone() -> None:
    """A description that is true of the feature and of its look-alike fails where a precise one passes."""
    texts, n = natural(80), 80
    active = firing(0, 1, n=n)
    settings = EvaluateSettings(n_rated=80, n_hard=20, n_intruder=5)
    hard = hard_negatives(active, 0, LookAlikes([1], [1]), texts, settings.n_hard)
    of = material(active.of(0), texts, hard, {}, settings, 0)
    scores = {}
    for description in ("the tokens ‘cat’, ‘dog’", "the token ‘cat’", "the token ‘hen’"):
        [judged] = judge_description(RuleJudge(), description, [of], texts.texts)
        scores[description] = figures(judged, of, np.zeros(0, np.float32), settings)
    vague, precise, wrong = scores.values()
    assert precise["detection_hard"].value == precise["fuzzing_hard"].value == precise["intruder"].value == 1
    assert vague["detection"].value is not None
    assert vague["detection"].value > 0.8
    assert vague["detection_hard"].value == vague["fuzzing_hard"].value == 0.5
    assert wrong["detection_hard"].value == wrong["fuzzing_hard"].value == 0.5
    assert precise["embedding"].reason == "no_embedding_model"
    assert precise["surprisal"].reason == "no_surprisal_model"


def test_without_hard_negatives_or_enough_texts_there_is_a_reason_and_no_value() -> None:
    texts, settings = natural(8), EvaluateSettings()
    of = material(firing(0, n=8).of(0), texts, HardNegatives(), {}, settings, 0)
    [judged] = judge_description(RuleJudge(), "the token ‘cat’", [of], texts.texts)
    found = figures(judged, of, np.zeros(0, np.float32), settings)
    assert found["detection_hard"].reason == found["fuzzing_hard"].reason == "no_hard_negatives"
    assert found["intruder"].reason == "too_few_active_texts"


def test_groups_have_one_silent_text_and_no_text_twice() -> None:
    texts = natural(100)
    where = {text: np.array([1]) for text in range(0, 100, 4)}
    groups = odd_ones_out(where, texts, 10, np.random.default_rng(0))
    assert len(groups) == 6
    assert all(len(group.texts) == IN_GROUP for group in groups)
    members = [marked.text for group in groups for marked in group.texts]
    assert len(members) == len(set(members))
    for group in groups:
        silent = [at for at, marked in enumerate(group.texts) if marked.text.tokens[1] != "cat"]
        assert silent == [group.odd]
    assert len({group.odd for group in groups}) > 1


def test_the_rule_finds_the_odd_one_by_what_it_expects_and_a_language_model_by_answering() -> None:
    cat, dog = Marked(Text(("a", "cat")), (1,)), Marked(Text(("a", "dog")), (1,))
    groups = [(cat, cat, dog), (dog, cat, cat)]
    assert RuleJudge().find_odd("the token ‘cat’", groups).tolist() == [2, 0]
    asked: list[Prompt] = []

    def known(prompt: Prompt) -> Answer:
        asked.append(prompt)
        return Answer({"intruders": [{"id": 0, "text": 2}, {"id": 1, "text": 7}, {"id": 9, "text": 0}]})

    assert ModelJudge(Answers(known), instructions(), 15).find_odd("a cat", groups).tolist() == [2, LACKING]
    assert len(asked) == 1
    assert "«cat»" in asked[0].user
    ModelJudge(Answers(known), instructions(), 3).find_odd("a cat", groups)
    assert len(asked) == 3
    assert [prompt.max_tokens for prompt in asked] == [80, 60, 60], "each text takes its own tokens of the answer"


def test_a_text_that_stands_elsewhere_is_found_and_one_that_shares_little_is_not() -> None:
    random = np.random.default_rng(0)
    corpus = random.integers(0, 1000, (50, 64))
    copied, changed = corpus[7, 5:37].tolist(), corpus[9, 5:37].tolist()
    changed[3] = 2000
    other = random.integers(0, 1000, 32).tolist()
    quoted = [*other[:16], *corpus[3, :16]]
    shares = shares_found([copied, changed, other, quoted, copied[:5]], [corpus[:20], corpus[20:]])
    assert shares[0] == 1
    assert 0.6 < shares[1] < 1
    assert shares[2] == shares[4] == 0
    assert 0 < shares[3] < 0.25
    assert RUN == 13


def test_likeness_is_scored_as_the_chance_that_an_active_text_is_the_greater() -> None:
    active = np.array([True, True, False, False])
    score = chance_of_active(np.array([0.9, 0.4, 0.5, 0.1], np.float32), active, "none")
    assert (score.value, score.n) == (0.75, 4)
    assert score.low is not None
    assert score.low < 0.5
    assert chance_of_active(np.zeros(2, np.float32), np.array([True, True]), "none").reason == "always_active"
    of = Material(np.array([1.0, 0.0], np.float32), np.array([0, 1]), [], np.zeros(0, bool), np.zeros(0, np.int64),
                  [], [], {}, compared=np.array([0, 1]))  # fmt: skip
    nothing = np.zeros(0, np.int8)
    judged = Judged(np.zeros(2, np.int8), nothing, [], {}, nothing, nothing, nothing)
    compared = Compared(np.array([0.8, 0.2], np.float32), np.array([0.1, 0.3], np.float32))
    found = figures(judged, of, np.zeros(0, np.float32), EvaluateSettings(n_simulated=0), compared)
    assert found["embedding"].value == 1
    assert found["surprisal"].value == 0


def test_a_description_that_names_a_texts_words_makes_it_likelier() -> None:
    folder = open_model(Path(ROOT / "demo/checkpoint/model"))
    texts = ["Return a new dictionary. A dictionary maps keys to values.", "the file is closed", ""]
    about, other = (
        gains(folder.load(), folder.tokenizer, words, texts) for words in ("dictionary dictionary", "tuple")
    )
    assert about[0] > other[0]
    assert about[2] == 0
    together = gains(folder.load(), folder.tokenizer, "dictionary dictionary", texts[:1])
    assert np.allclose(together[0], about[0], atol=1e-4)
