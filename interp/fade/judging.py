"""One description of one feature before a judge: what it is judged on, what the judge said, and the figures of it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from interp.fade.judge import Judge, Marked, Text
from interp.fade.metrics import (
    PRESENT,
    Score,
    balanced_accuracy,
    clarity,
    faithfulness,
    faithfulness_paper,
    purity,
    responsiveness,
    simulation,
)
from interp.fade.settings import EvaluateSettings
from interp.fade.texts import Active, stratified

T = TypeVar("T")

METRICS = (
    "clarity", "responsiveness", "purity", "faithfulness", "faithfulness_paper", "simulation", "detection", "fuzzing",
    "stability",
)  # fmt: skip


class Material(NamedTuple):
    """What a feature's descriptions are judged on: the same for all, and nothing that a description was made from."""

    peaks: Float[np.ndarray, " n_texts"]
    """The feature's activation on every natural text."""
    rated: Int64[np.ndarray, " n_rated"]
    """The natural texts that are rated."""
    marked: list[Marked]
    marked_right: Bool[np.ndarray, " n_marked"]
    """Whether the marked tokens of each are those at which the feature is active."""
    simulated: Int64[np.ndarray, " n_simulated"]
    """The natural texts in which activity is predicted."""
    active: list[Bool[np.ndarray, " _"]]
    """At which tokens of these that count the feature is active."""
    counted: list[Bool[np.ndarray, " _"]]
    """Which tokens of these count."""
    continuations: dict[float, list[Text]]
    """What the model writes with the feature held, by factor; empty where the feature was not steered."""


class NaturalTexts(NamedTuple):
    """Texts that no statistic was taken from."""

    texts: list[Text]
    counted: Sequence[Bool[np.ndarray, " _"]]
    """Which tokens of each count (`interp.activations.positions`): at the others a feature is neither active nor
    silent."""


class Judged(NamedTuple):
    """What a judge said of one description."""

    ratings: Int8[np.ndarray, " n_rated"]
    marks: Int8[np.ndarray, " n_marked"]
    expected: list[Float[np.ndarray, " n_pos"]] | None
    continuations: dict[float, Int8[np.ndarray, " n_prompts"]]


def material(
    active: Active, natural: NaturalTexts, continuations: dict[float, list[Text]], settings: EvaluateSettings, seed: int
) -> Material:
    """Draw what one feature is judged on. `active` are its own activations."""
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
    return Material(peaks, rated, marked, right, simulated, masks, counted, continuations)


def _mask(places: np.ndarray | None, n: int) -> np.ndarray:
    mask = np.zeros(n, bool)
    if places is not None:
        mask[places] = True
    return mask


def _marked(
    where: dict[int, np.ndarray], natural: NaturalTexts, n: int, random: np.random.Generator
) -> tuple[list[Marked], np.ndarray]:
    """Texts in which the feature is active, half with those tokens marked, half with as many others."""
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
    """What a judge says of one description on the material of every feature of which it is claimed. A text that several
    features share is judged once."""
    rated = _once(int(text) for one in of for text in one.rated)
    simulated = _once(int(text) for one in of for text in one.simulated)
    marked = _once(text for one in of for text in one.marked)
    continued = _once(text for one in of for many in one.continuations.values() for text in many)
    ratings = judge.rate(description, [texts[at] for at in rated])
    marks = judge.marks_right(description, list(marked))
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
            )
        )
    return judged


def _once(items: Iterable[T]) -> dict[T, int]:
    """Different items and their places, in the order in which they come."""
    return {item: at for at, item in enumerate(dict.fromkeys(items))}


def figures(
    judged: Judged, of: Material, synthetic: Float[np.ndarray, " m"], settings: EvaluateSettings
) -> dict[str, Score]:
    """Every metric of a description; `synthetic` are the feature's activations on the texts written from it."""
    given = judged.ratings >= 0
    rated_peaks, ratings = of.peaks[of.rated][given], judged.ratings[given]
    found = {
        "clarity": clarity(synthetic, of.peaks),
        "responsiveness": responsiveness(rated_peaks, ratings),
        "purity": purity(rated_peaks, ratings),
        "detection": balanced_accuracy(ratings == PRESENT, rated_peaks > 0),
    }
    if settings.n_fuzzed:
        told = judged.marks >= 0
        found["fuzzing"] = balanced_accuracy(judged.marks[told] == 1, of.marked_right[told])
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
