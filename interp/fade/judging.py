"""Judge one description of one feature: the texts it is judged on, the judge's answers, and the metrics from them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from interp.fade.harder import HardNegatives, OddOneOut, odd_ones_out
from interp.fade.judge import LACKING, Judge, Marked, NaturalTexts, Text
from interp.fade.metrics import (
    PRESENT,
    Score,
    balanced_accuracy,
    chance_of_active,
    clarity,
    faithfulness,
    faithfulness_paper,
    odd_one_out,
    purity,
    responsiveness,
    simulation,
)
from interp.fade.settings import EvaluateSettings
from interp.fade.texts import Active, stratified

T = TypeVar("T")

METRICS = (
    "clarity", "responsiveness", "purity", "faithfulness", "faithfulness_paper", "simulation", "detection",
    "detection_hard", "fuzzing", "fuzzing_hard", "intruder", "embedding", "surprisal", "stability",
)  # fmt: skip


class Material(NamedTuple):
    """The texts that a feature's descriptions are judged on. They are the same for all its descriptions, and no
    description was made from them."""

    peaks: Float[np.ndarray, " n_texts"]
    """The feature's activation on every natural text."""
    rated: Int64[np.ndarray, " n_rated"]
    """Indices of the natural texts that are rated."""
    marked: list[Marked]
    marked_right: Bool[np.ndarray, " n_marked"]
    """For each text, whether its marked tokens are those at which the feature is active."""
    simulated: Int64[np.ndarray, " n_simulated"]
    """Indices of the natural texts in which activity is predicted."""
    active: list[Bool[np.ndarray, " _"]]
    """For each of these texts, at which of the tokens that count the feature is active."""
    counted: list[Bool[np.ndarray, " _"]]
    """For each of these texts, which tokens count."""
    continuations: dict[float, list[Text]]
    """Continuations by the model with the feature held at multiples of its maximum, by factor; empty if the feature was
    not steered."""
    hard: HardNegatives = HardNegatives()
    """Texts of similar features in which this one is silent."""
    odd: Sequence[OddOneOut] = ()
    """Groups of texts with one intruder each."""
    compared: Int64[np.ndarray, " n_compared"] = np.zeros(0, np.int64)
    """Indices of natural texts, half of them active, whose surprisal is compared with and without the description."""


class Judged(NamedTuple):
    """A judge's answers about one description."""

    ratings: Int8[np.ndarray, " n_rated"]
    marks: Int8[np.ndarray, " n_marked"]
    expected: list[Float[np.ndarray, " n_pos"]] | None
    continuations: dict[float, Int8[np.ndarray, " n_prompts"]]
    hard_ratings: Int8[np.ndarray, " n_hard"]
    hard_marks: Int8[np.ndarray, " n_hard"]
    odd: Int8[np.ndarray, " n_groups"]


def material(
    active: Active,
    natural: NaturalTexts,
    hard: HardNegatives,
    continuations: dict[float, list[Text]],
    settings: EvaluateSettings,
    seed: int,
) -> Material:
    """Draw the texts that one feature is judged on. `active` are its own activations."""
    random = np.random.default_rng(seed)
    texts, peaks = natural.texts, active.peaks(len(natural.texts))
    where = {int(text): active.place[active.text == text] for text in np.unique(active.text)}
    firing = np.array(list(where), np.int64)
    marked, right = _marked(where, natural, settings.n_fuzzed, random)
    n_firing = min(settings.n_simulated // 2, len(firing))
    chosen = random.permutation(firing)[:n_firing]
    others = random.permutation(np.setdiff1d(np.arange(len(texts)), chosen))[: settings.n_simulated - n_firing]
    simulated = np.sort(np.concatenate([chosen, others])) if settings.n_simulated else np.zeros(0, np.int64)
    counted = [natural.counted[text] for text in simulated.tolist()]
    masks = [
        _mask(where.get(text), len(texts[text].tokens))[mask]
        for text, mask in zip(simulated.tolist(), counted, strict=True)
    ]
    rated = stratified(peaks, settings.n_rated, seed)
    odd = odd_ones_out(where, natural, settings.n_intruder, random)
    compared = _balanced(rated, peaks, settings.n_surprisal, random)
    return Material(peaks, rated, marked, right, simulated, masks, counted, continuations, hard, odd, compared)


def _balanced(rated: np.ndarray, peaks: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """At most `n` of the rated texts, half of them active if there are enough."""
    firing, quiet = (random.permutation(rated[(peaks[rated] > 0) == is_active]) for is_active in (True, False))
    return np.sort(np.concatenate([firing[: n // 2], quiet[: n // 2]]))


def _mask(places: np.ndarray | None, n: int) -> np.ndarray:
    mask = np.zeros(n, bool)
    if places is not None:
        mask[places] = True
    return mask


def _marked(
    where: dict[int, np.ndarray], natural: NaturalTexts, n: int, random: np.random.Generator
) -> tuple[list[Marked], np.ndarray]:
    """Texts in which the feature is active: half with those tokens marked, half with as many other tokens marked."""
    half = n // 2
    chosen = [int(text) for text in random.permutation(list(where))[: 2 * half]] if where else []
    wrong = chosen[half:] if len(chosen) > half else chosen
    marked, right = [], []
    for is_right, members in ((True, chosen[:half]), (False, wrong)):
        for at in members:
            places = where[at]
            silent = np.setdiff1d(np.flatnonzero(natural.counted[at]), places)
            if not is_right:
                places = random.permutation(silent)[: len(places)]
            if len(places):
                marked.append(Marked(natural.texts[at], tuple(sorted(int(place) for place in places))))
                right.append(is_right)
    return marked, np.array(right, bool)


def judge_description(judge: Judge, description: str, of: Sequence[Material], texts: list[Text]) -> list[Judged]:
    """A judge's answers about one description, on the material of every feature that has this description. A text that
    several features share is judged once."""
    rated = _once(int(text) for one in of for text in (*one.rated, *one.hard.texts))
    simulated = _once(int(text) for one in of for text in one.simulated)
    marked = _once(text for one in of for text in (*one.marked, *one.hard.marked))
    groups = _once(group.texts for one in of for group in one.odd)
    continued = _once(text for one in of for many in one.continuations.values() for text in many)
    ratings = judge.rate(description, [texts[at] for at in rated])
    marks = judge.marks_right(description, list(marked))
    odd = judge.find_odd(description, list(groups))
    expected = judge.simulate(description, [texts[at] for at in simulated])
    continuations = judge.rate_continuations(description, list(continued))
    judged = []
    for one in of:
        answered = [expected[simulated[int(text)]] for text in one.simulated]
        activity = [each for each in answered if each is not None]
        judged.append(
            Judged(
                ratings=ratings[[rated[int(text)] for text in one.rated]],
                marks=marks[[marked[text] for text in one.marked]],
                expected=activity if len(activity) == len(answered) else None,
                continuations={
                    factor: continuations[[continued[text] for text in many]]
                    for factor, many in one.continuations.items()
                },
                hard_ratings=ratings[[rated[int(text)] for text in one.hard.texts]],
                hard_marks=marks[[marked[text] for text in one.hard.marked]],
                odd=odd[[groups[group.texts] for group in one.odd]],
            )
        )
    return judged


def _once(items: Iterable[T]) -> dict[T, int]:
    """The different items in order of first appearance, and for each item its index among them."""
    return {item: at for at, item in enumerate(dict.fromkeys(items))}


class Compared(NamedTuple):
    """Comparisons of a description with natural texts by models other than the judge; None where no such model is
    set."""

    likeness: Float[np.ndarray, " n_rated"] | None
    """Cosine similarity of the embeddings of the description and of each rated text."""
    gain: Float[np.ndarray, " n_compared"] | None
    """By how much the description, placed before each compared text, raises its likelihood, in nats a token."""


NOT_COMPARED = Compared(None, None)


def figures(
    judged: Judged,
    of: Material,
    synthetic: Float[np.ndarray, " m"],
    settings: EvaluateSettings,
    compared: Compared = NOT_COMPARED,
) -> dict[str, Score]:
    """All metrics of a description. `synthetic` are the feature's activations on the texts written from it."""
    given = judged.ratings >= 0
    rated_peaks, ratings = of.peaks[of.rated][given], judged.ratings[given]
    found = {
        "clarity": clarity(synthetic, of.peaks),
        "responsiveness": responsiveness(rated_peaks, ratings),
        "purity": purity(rated_peaks, ratings),
        "detection": balanced_accuracy(ratings == PRESENT, rated_peaks > 0),
        "embedding": chance_of_active(compared.likeness, of.peaks[of.rated] > 0, "no_embedding_model"),
        "surprisal": chance_of_active(compared.gain, of.peaks[of.compared] > 0, "no_surprisal_model"),
    }
    if settings.n_fuzzed:
        told = judged.marks >= 0
        found["fuzzing"] = balanced_accuracy(judged.marks[told] == 1, of.marked_right[told])
    if settings.n_hard:
        found["detection_hard"] = _against_hard(ratings[rated_peaks > 0] == PRESENT, judged.hard_ratings, PRESENT)
        right = judged.marks[of.marked_right]
        found["fuzzing_hard"] = _against_hard(right[right >= 0] == 1, judged.hard_marks, 1)
    if settings.n_intruder:
        answered = judged.odd != LACKING
        hits = [one.odd == said for one, said in zip(of.odd, judged.odd.tolist(), strict=True) if said != LACKING]
        found["intruder"] = odd_one_out(np.array(hits, bool), n_groups=len(answered))
    if settings.n_simulated:
        if judged.expected is None:
            found["simulation"] = Score.none("no_answer")
        else:
            expected = [every[counted] for every, counted in zip(judged.expected, of.counted, strict=True)]
            found["simulation"] = simulation(expected, of.active)
    if judged.continuations:
        found["faithfulness"] = faithfulness(judged.continuations)
        found["faithfulness_paper"] = faithfulness_paper(judged.continuations)
    return found


def _against_hard(own: np.ndarray, of_hard: Int8[np.ndarray, " n_hard"], yes: int) -> Score:
    """Balanced accuracy of the judge's answers about a feature's own texts (should be yes) and hard negatives (should
    be no)."""
    hard = of_hard[of_hard >= 0] == yes
    if not len(hard):
        return Score.none("no_hard_negatives", len(own))
    return balanced_accuracy(np.concatenate([own, hard]), np.arange(len(own) + len(hard)) < len(own))
