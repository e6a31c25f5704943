"""Concepts, the features that follow them, and descriptions of these, on texts small enough to see."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp.fade.judge import Text
from interp.known_answers import contexts, words
from interp.known_answers.claims import NARROW, NONE, WIDE, Reader, Selection, Tried, confusions, figures
from interp.known_answers.following import Halves, auroc, followers, label
from interp.known_answers.sources import distance_figures, halves_of, predicted
from interp.known_answers.stream import Concept, Stream
from interp.sparse import feature_tokens

CONCEPTS = {concept.name: concept for concept in (*words.CONCEPTS, *contexts.CONCEPTS)}


def stream(*texts: str) -> Stream:
    """Texts cut into words with the blank before, signs and digits, each text a document."""
    cut = [re.findall(r" ?[A-Za-zé]+|\n\s*| ?\d| ?[^\w\s]", text) for text in texts]
    vocabulary = sorted({token for tokens in cut for token in tokens})
    ids = np.array([vocabulary.index(token) for tokens in cut for token in tokens])
    starts = np.array([at == 0 for tokens in cut for at in range(len(tokens))])
    return Stream(ids, starts, vocabulary)


def meant(name: str, *texts: str) -> list[str]:
    text = stream(*texts)
    return [token for token, is_meant in zip(text.texts(), CONCEPTS[name].program(text), strict=True) if is_meant]


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("digits", ["in 42 of"], [" 4", "2"]),
        ("digit after a digit", ["a 42 7"], ["2", " 7"]),
        ("month names", ["In May, may June"], [" May", " June"]),
        ("capital after the end of a sentence", ["It is. The A end. and"], [" The"]),
        ("capital after a capital", ["by Guido Rossum, Guido"], [" Rossum"]),
        ("plural nouns", ["two dogs is bus stories glass"], [" dogs", " stories"]),
        ("words in -ing", ["ring going"], [" going"]),
        ("Python keywords", ["def Def return it"], ["def", " return"]),
        ("‘the’ right after ‘of’", ["of the in the", "the"], [" the"]),
        ("right after a comma", ["a, b c,", "d"], [" b"]),
        ("first of a line", ["a\nb c\n  d"], ["b", "d"]),
        ("inside round brackets", ["a (b (c) d) e"], ["b", " (", "c", ")", " d", ")"]),
        ("inside round brackets", ["a (b", "c)"], ["b"]),
        ("inside double quotes", ['a "b c" d "e', "f"], ["b", " c", '"', "e"]),
        ("bracket that closes one", [") (a) )"], [")"]),
        ("inside an address", ["a https://b.c/d e"], ["b", ".", "c", "/", "d"]),
        ("word that stood before", [" word some word", " word"], [" word"]),
        ("same token again", [" no no yes", " yes"], [" no"]),
        ("token that followed the last time", [" a b c a b a c"], [" b"]),
        ("letters with accents", ["été ete"], ["été"]),
        ("German text", [" der Hund und die Katze ist", " x"], [" ist"]),
        ("French text", [" x" * 20 + " le chat est dans la rue"], [" la", " rue"]),
    ],
)  # fmt: skip
def test_a_concept_is_what_its_name_says(name: str, texts: list[str], expected: list[str]) -> None:
    assert meant(name, *texts) == expected


def test_no_program_looks_ahead() -> None:
    """What is said of a token does not depend on what follows."""
    text = stream('He said: "The 12 dogs (in May) of the of the" https://a.b/c def f\n  return x, x x. New York Times')
    for concept in CONCEPTS.values():
        whole = concept.program(text)
        for n in (5, 11, 20, 30):
            part = concept.program(Stream(text.ids[:n], text.starts[:n], text.vocabulary))
            assert (part == whole[:n]).all(), concept.name


def test_auroc_is_that_of_the_dense_activation() -> None:
    rng = np.random.default_rng(0)
    mask, among = (rng.random(300) < 0.3).astype(np.float32), rng.random(300) < 0.7
    token = np.flatnonzero((rng.random(300) < 0.4) & among)
    value = rng.integers(1, 4, len(token)).astype(np.float32)
    dense = np.zeros(300)
    dense[token] = value
    assert auroc(token, value, mask, among) == pytest.approx(roc_auc_score(mask[among], dense[among]))
    assert np.isnan(auroc(token, value, 0 * mask, among))


TEXT = stream(*[" the cat of the dog, 1 of 2"] * 100)
"""900 tokens in 100 documents."""

HALVES = Halves(np.arange(900) < 450, np.arange(900) >= 450)
LABELS = label(TEXT, HALVES, tuple(CONCEPTS.values()))


def at(concept: str) -> np.ndarray:
    return np.flatnonzero(LABELS.of(concept))


def test_features_follow_a_concept_that_they_are_sure_and_full_of() -> None:
    fires = [
        at("‘the’ right after ‘of’"),
        np.concatenate([at("digits"), at("comma")[::3]]),
        np.concatenate([at("digits"), at("‘the’")]),  # too much of each beside the other
        at("digits")[1::3],
        np.zeros(0, int),
    ]
    feature = np.repeat(np.arange(len(fires)), [len(tokens) for tokens in fires])
    active = feature_tokens(feature, np.concatenate(fires), np.ones(len(feature), np.float32), len(fires))
    found = {one.feature: one for one in followers(3, active, LABELS, HALVES)}
    assert {at: one.concept for at, one in found.items()} == {0: "‘the’ right after ‘of’", 1: "digits"}
    assert found[0][3:] == (1, 1, 1, 1)
    assert found[1].precision == pytest.approx(6 / 7, abs=0.01)
    assert 0.95 < found[1].area < 1
    assert found[0].layer == 3


@pytest.fixture(scope="module")
def reader() -> Reader:
    tokens = TEXT.texts()[450:]
    texts = [Text(tuple(tokens[start : start + 9])) for start in range(0, 450, 9)]
    counted = np.ones(450, bool)
    return Reader(texts, counted, LABELS.masks[450:])


@pytest.mark.parametrize(
    ("text", "concept", "selected"),
    [
        ("the token ‘the’", "‘the’", None),
        ("the token ‘the’; right after ‘of’", "‘the’ right after ‘of’", None),
        ("the token ‘the’; promotes ‘cat’, ‘of’, ‘,’", "‘the’", None),
        ("the token ‘cat’; weaker on ‘the’", "‘the’", None),
        ("the token ‘of’", "‘the’", "‘of’"),
        ("promotes ‘the’", "‘the’", NONE),
        ("the token ‘1’", "digits", None),
        ("the tokens ‘the’, ‘dog’, ‘of’", "‘of’", WIDE),
        ("the token ‘unseen’", "‘of’", NONE),
    ],
)
def test_a_description_is_right_if_it_selects_the_concept(
    reader: Reader, text: str, concept: str, selected: str | None
) -> None:
    chosen, place = reader.select(text), LABELS.names.index(concept)
    assert chosen.is_right(place) == (selected is None)
    assert selected is None or chosen.taken_for(place, LABELS.names) == selected


def test_part_of_a_concept_is_not_enough(reader: Reader) -> None:
    place = LABELS.names.index("conjunctions" if "conjunctions" in LABELS.names else "prepositions")
    one = reader.select("the token ‘unseen’")
    chosen = one._replace(recall=np.where(np.arange(len(one.recall)) == place, 0.3, 0), precision=one.precision + 1)
    assert chosen.taken_for(place, LABELS.names) == NARROW


def test_figures_of_a_method_beside_others_and_chance(reader: Reader) -> None:
    def tried(feature: int, concept: str, text: str) -> Tried:
        return Tried((0, feature), LABELS.names.index(concept), reader.select(text), text)

    said = [
        tried(0, "‘the’", "the token ‘the’"),
        tried(1, "‘of’", "the token ‘of’"),
        tried(2, "comma", "the token ‘dog’"),
    ]
    beside = [tried(1, "‘of’", "the token ‘cat’"), tried(9, "‘of’", "the token ‘of’")]
    found = figures("a method", said, beside, [True, False])
    assert (found.n, found.right, found.shuffled, found.baseline) == (3, 2 / 3, 0, 0)
    assert (found.recall, found.precision) == (2 / 3, 2 / 3)
    assert (found.n_claims, found.true_claims) == (2, 0.5)
    assert confusions("m", [("a", "b"), ("a", "c"), ("a", "b")]) == [("m", "a", "b", 2), ("m", "a", "c", 1)]


def test_the_token_at_the_right_distance_predicts_the_activation() -> None:
    """A feature that is active two tokens behind ‘b’, in a text of random letters."""
    ids = np.random.default_rng(0).integers(0, 4, 4000)
    text = Stream(ids, np.arange(4000) % 100 == 0, ["a", "b", "c", "d"])
    active = np.flatnonzero((np.roll(ids, 2) == 1) & (np.arange(4000) % 100 >= 2))
    halves = Halves(np.arange(4000) < 2000, np.arange(4000) >= 2000)
    area = {distance: predicted(text, active, halves, distance) for distance in (-1, -2, -3)}
    assert area[-2] > 0.99
    assert max(area[-1], area[-3]) < 0.6
    found = distance_figures([(area[-2], [area[-1], area[-3]])] * 2)
    assert (found.n, found.best) == (2, 1)
    assert found.difference > 0.4
    assert distance_figures([]).n == 0


def test_a_concept_that_is_rare_in_a_half_is_left_out() -> None:
    rare = Concept("rare", lambda text: np.arange(len(text.ids)) < 460)
    assert label(TEXT, HALVES, (rare,)).names == ()
    assert label(TEXT, HALVES, (rare, CONCEPTS["comma"])).names == ("comma",)


def test_documents_of_even_number_find_and_the_others_test() -> None:
    documents, counted = np.array([0, 0, 1, 2, 3, 3]), np.array([True, False, True, True, True, True])
    find, test = halves_of(documents, counted)
    assert find.tolist() == [True, False, False, True, False, False]
    assert test.tolist() == [False, False, True, False, True, True]


def test_the_best_concept_has_the_greatest_f1_of_those_that_are_selected() -> None:
    assert Selection(np.array([1.0, 0.7, 0.2]), np.array([0.5, 0.8, 0.9])).best == 1
    assert Selection(np.array([1.0, 0.7]), np.array([0.5, 0.7])).best == 1
    assert Selection(np.array([0.4, 1.0]), np.array([1.0, 0.4])).best is None
