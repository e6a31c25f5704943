"""How often the published 95% intervals hold what they say: by simulation, with the product's own functions.

    python -m benchmarks.coverage [--repetitions 4000] [--json]

A kind draws its population anew for every repetition, over the range of sizes and effects that a run has: coverage is
of that range. `null` kinds have no effect at all: for them the share of intervals that exclude it is what counts.
"""

import argparse
import json
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import duckdb
import numpy as np

from interp.coactivation.sums import EdgeSums, TargetSums, twera
from interp.fade.harder import IN_GROUP
from interp.fade.metrics import (
    Score,
    auroc,
    average_precision,
    balanced_accuracy,
    best_in_other_half,
    chance_of_active,
    clarity,
    faithfulness,
    odd_one_out,
    purity,
    responsiveness,
    share_in_common,
    simulation,
)
from interp.intervals import drop_interval
from storage.catalog.tables import TABLES, VIEWS

FACTORS = (-50.0, -10.0, -1.0, 0.0, 1.0, 10.0, 50.0)


class Drawn(NamedTuple):
    """One repetition: an interval, what it should hold, and what an interval that shows an effect excludes."""

    low: float
    high: float
    truth: float
    null: float | None = None


Kind = Callable[[np.random.Generator], Drawn | None]
"""Draws once; None where the figure has no value or no interval."""


class Coverage(NamedTuple):
    """How often a kind of interval held the truth, and where there is nothing, how often it found something."""

    kind: str
    repetitions: int
    coverage: float
    false_positives: float | None


def _of(score: Score, truth: float, null: float | None = None) -> Drawn | None:
    if score.value is None or score.low is None or score.high is None:
        return None
    return Drawn(score.low, score.high, truth, null)


def _steered(random: np.random.Generator, gain: float) -> Drawn | None:
    """Prompts differ in how readily they show the description; one factor works, another by half, or none does."""
    n, base = int(random.choice([20, 50])), random.uniform(0.05, 0.5)
    chance = np.full(len(FACTORS), base)
    chance[[1, 5]] += np.array([0.5, 1]) * gain * (1 - base)
    alike = random.random((len(FACTORS), n)) < 0.3
    draws = np.where(alike, random.random(n), random.random((len(FACTORS), n)))
    shows = draws < chance[:, None]
    ratings = {factor: 2 * row.astype(np.int8) for factor, row in zip(FACTORS, shows, strict=True)}
    score = faithfulness(ratings)
    order = sorted(range(len(FACTORS)), key=lambda at: (abs(FACTORS[at]), FACTORS[at]))[1:]
    chosen = np.array(order)[best_in_other_half(shows[order], 0)]
    return _of(score, 1 - (1 - chance[chosen].mean()) / (1 - base), 0.0)


def _activations(random: np.random.Generator, n: int, shift: float, silent: float) -> np.ndarray:
    return np.maximum(random.normal(size=n) + shift - silent, 0)


@lru_cache
def _true_area(shift: float, silent: float) -> float:
    random = np.random.default_rng(0)
    return auroc(_activations(random, 400_000, shift, silent), _activations(random, 400_000, 0, silent))


@lru_cache
def _true_precision(shift: float, silent: float, share: float) -> float:
    random = np.random.default_rng(0)
    labels = random.random(400_000) < share
    return average_precision(np.maximum(random.normal(size=len(labels)) + shift * labels - silent, 0), labels)


SHIFTS, SILENT = (0.3, 0.8, 1.5, 2.5), (-9.0, 0.5)


def _clarity(random: np.random.Generator, shift: float | None = None) -> Drawn | None:
    shift = float(random.choice(SHIFTS)) if shift is None else shift
    silent, m, n = float(random.choice(SILENT)), int(random.integers(10, 50)), int(random.integers(100, 500))
    score = clarity(_activations(random, m, shift, silent), _activations(random, n, 0, silent))
    return _of(score, abs(2 * _true_area(shift, silent) - 1) if shift else 0.0, 0.0)


def _rated(random: np.random.Generator, shift: float) -> tuple[np.ndarray, np.ndarray, float, float]:
    silent, share = float(random.choice(SILENT)), float(random.choice([0.1, 0.3, 0.5]))
    labels = random.random(int(random.integers(60, 500))) < share
    activations = np.maximum(random.normal(size=len(labels)) + shift * labels - silent, 0)
    return activations, np.where(labels, 2, 0), silent, share


def _responsiveness(random: np.random.Generator, shift: float | None = None) -> Drawn | None:
    shift = float(random.choice(SHIFTS)) if shift is None else shift
    activations, ratings, silent, _ = _rated(random, shift)
    return _of(responsiveness(activations, ratings), abs(2 * _true_area(shift, silent) - 1) if shift else 0.0, 0.0)


def _purity(random: np.random.Generator) -> Drawn | None:
    shift = float(random.choice(SHIFTS))
    activations, ratings, silent, share = _rated(random, shift)
    return _of(purity(activations, ratings), _true_precision(shift, silent, share))


def _accuracy(random: np.random.Generator, hit: float | None = None) -> Drawn | None:
    true = random.random(int(random.integers(30, 300))) < random.uniform(0.2, 0.8)
    hits, rejections = (random.uniform(0.3, 0.95, 2)) if hit is None else (hit, 1 - hit)
    said = random.random(len(true)) < np.where(true, hits, 1 - rejections)
    return _of(balanced_accuracy(said, true), (hits + rejections) / 2, 0.5)


def _texts(random: np.random.Generator, n: int, strength: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Whole texts are more or less active, and predicted so, rightly or wrongly."""
    lengths, about = random.integers(8, 32, n), random.normal(size=(n, 2))
    active = [random.normal(size=k) + a > 1.2 for k, (a, _) in zip(lengths, about, strict=True)]
    predicted = [
        np.round(2 * (random.normal(size=len(is_active)) + 0.5 * p + strength * is_active)) / 2
        for is_active, (_, p) in zip(active, about, strict=True)
    ]
    return predicted, active


@lru_cache
def _true_simulation(strength: float) -> float:
    predicted, active = (np.concatenate(part) for part in _texts(np.random.default_rng(0), 40_000, strength))
    return auroc(predicted[active], predicted[~active])


def _simulation(random: np.random.Generator, strength: float | None = None) -> Drawn | None:
    strength = float(random.choice(SHIFTS)) if strength is None else strength
    predicted, active = _texts(random, int(random.integers(50, 150)), strength)
    return _of(simulation(predicted, active), _true_simulation(strength) if strength else 0.5, 0.5)


def _stability(random: np.random.Generator) -> Drawn | None:
    n, share = int(random.integers(4, 20)), random.uniform(0.1, 0.9)
    common = random.random(n) < share
    first = {str(at) for at in range(n) if common[at] or at % 2}
    second = {str(at) for at in range(n) if common[at] or not at % 2}
    return _of(share_in_common(first, second), share)


def _causal(random: np.random.Generator, mean: float | None = None) -> Drawn | None:
    """Drops of a few samples: at most 1, and seldom far below 0."""
    n, mean = int(random.integers(3, 9)), random.uniform(-0.1, 0.7) if mean is None else mean
    values = mean + (1 - mean) * (1 - random.gamma(4, 1 / 4, n))  # what is left of the activation, skewed
    interval = drop_interval(values)
    return interval and Drawn(*interval, mean, 0.0)


def _causal_of_two_kinds(random: np.random.Generator) -> Drawn | None:
    """Drops of a few samples of a feature with two mechanisms: one goes whole, the other by a share, or not at all."""
    n, whole, part = int(random.integers(3, 9)), random.uniform(0.1, 0.9), random.choice([0.0, 0.3])
    rest = part + 0.3 * (1 - part) * (1 - random.gamma(4, 1 / 4, n)) if part else np.zeros(n)
    interval = drop_interval(np.where(random.random(n) < whole, 1.0, rest))
    return interval and Drawn(*interval, whole + (1 - whole) * part)


@lru_cache
def _documents() -> tuple[np.ndarray, np.ndarray]:
    """Σ a_i a_j and Σ a_j of many documents: of very different length, each with a topic of its own."""
    random = np.random.default_rng(0)
    length = np.exp(random.normal(0, 1, 200_000))
    active = random.poisson(2 * length * np.exp(random.normal(0, 0.7, len(length))))
    y = active * np.exp(random.normal(0, 0.2, len(length)))
    return y * np.exp(random.normal(0, 0.8, len(length))) * (random.random(len(length)) < 0.7), y


def _twera(random: np.random.Generator) -> Drawn | None:
    x, y = _documents()
    drawn = random.integers(0, len(x), int(random.integers(50, 500)))
    weight, truth = np.array([-0.4]), x.sum() / y.sum()
    x, y = x[drawn], y[drawn]
    edges = EdgeSums(*(np.array([value]) for value in (x.sum(), y.sum(), 9, (x * x).sum(), (x * y).sum())))
    targets = TargetSums(*(np.array([float(value)]) for value in (y.sum(), (y * y).sum(), (y > 0).sum())))
    found = twera(edges, targets, weight, 10_000)
    return Drawn(float(found.low[0]), float(found.high[0]), float(weight[0] * truth))


CHANCE_OF_INTRUDER = 1 / IN_GROUP


def _intruder(random: np.random.Generator, chance: float) -> Drawn | None:
    """Groups are few, as they may have no text in common."""
    n = int(random.integers(5, 20))
    return _of(odd_one_out(random.random(n) < chance, n), chance, CHANCE_OF_INTRUDER)


def _likeness(random: np.random.Generator, shift: float) -> Drawn | None:
    """Values without ties, of as few texts as surprisal has or as many as are rated."""
    n = int(random.choice([20, 60, 200, 500]))
    active = np.arange(n) < n // 2 if n == 20 else random.random(n) < float(random.choice([0.2, 0.5, 0.8]))
    values = random.normal(size=n) + shift * active
    return _of(chance_of_active(values, active, ""), _true_area(shift, -9.0), 0.5)


KINDS: dict[str, Kind] = {
    "faithfulness": lambda random: _steered(random, float(random.choice([0.1, 0.3, 0.6]))),
    "faithfulness, null": lambda random: _steered(random, 0.0),
    "clarity": _clarity,
    "clarity, null": lambda random: _clarity(random, 0.0),
    "responsiveness": _responsiveness,
    "responsiveness, null": lambda random: _responsiveness(random, 0.0),
    "purity": _purity,
    "detection, fuzzing": _accuracy,
    "detection, fuzzing, null": lambda random: _accuracy(random, random.uniform(0.2, 0.8)),
    "intruder": lambda random: _intruder(random, random.uniform(0.25, 0.95)),
    "intruder, null": lambda random: _intruder(random, CHANCE_OF_INTRUDER),
    "embedding, surprisal": lambda random: _likeness(random, float(random.choice(SHIFTS[:3]))),
    "embedding, surprisal, null": lambda random: _likeness(random, 0.0),
    "simulation": _simulation,
    "simulation, null": lambda random: _simulation(random, 0.0),
    "stability": _stability,
    "causal share": _causal,
    "causal share, two peaks": _causal_of_two_kinds,
    "causal share, null": lambda random: _causal(random, 0.0),
    "twera": _twera,
}


def covered(kind: str, repetitions: int, seed: int = 0) -> Coverage:
    """Simulate one kind of interval."""
    drawn: list[Drawn] = []
    random = np.random.default_rng([seed, *kind.encode()])
    while len(drawn) < repetitions:
        one = KINDS[kind](random)
        if one is not None:
            drawn.append(one)
    holds = np.mean([one.low - 1e-9 <= one.truth <= one.high + 1e-9 for one in drawn])
    wrong = None
    if kind.endswith("null"):
        wrong = float(np.mean([one.null is not None and not one.low <= one.null <= one.high for one in drawn]))
    return Coverage(kind, repetitions, float(holds), wrong)


METHODS = 8


def view_coverage(repetitions: int, seed: int = 0) -> list[Coverage]:
    """The intervals of the views, each repetition a layer: means, lifts, differences, and how often a judge that knows
    nothing is called useful."""
    with duckdb.connect() as connection:
        connection.execute(TABLES["scores"].ddl)
        for name in ("method_comparison", "method_differences", "judge_usefulness"):
            connection.execute(f"CREATE VIEW {name} AS {VIEWS[name][1]}")
        _insert_scores(connection, repetitions, np.random.default_rng(seed))
        truth, effect = 1 / 3, 0.1
        rows = [
            ("mean over features", f"SELECT {truth} + {effect} BETWEEN low AND high, NULL FROM method_comparison "
             "WHERE metric = 'effect' AND method = 'm0'"),
            ("lift", f"SELECT {effect} BETWEEN lift_low AND lift_high, NULL FROM method_comparison "
             "WHERE metric = 'effect' AND method = 'm0'"),
            ("lift, null", "SELECT 0 BETWEEN lift_low AND lift_high, 0 NOT BETWEEN lift_low AND lift_high "
             "FROM method_comparison WHERE metric = 'null' AND method = 'm0'"),
            ("difference of methods, null", "SELECT 0 BETWEEN low AND high, 0 NOT BETWEEN low AND high "
             "FROM method_differences WHERE metric = 'null' AND method = 'm0' AND against = 'm1'"),
            ("judge useful, null", "SELECT NOT is_useful, is_useful FROM judge_usefulness WHERE metric = 'null'"),
        ]  # fmt: skip
        found = []
        for kind, query in rows:
            count, holds, wrong = connection.execute(
                f"SELECT count(*), avg(a::INT), avg(b::INT) FROM ({query}) AS t(a, b)"
            ).fetchall()[0]
            found.append(Coverage(kind, count, holds, wrong))
        return found


def _insert_scores(connection: duckdb.DuckDBPyConnection, repetitions: int, random: np.random.Generator) -> None:
    """Scores between 0 and 1 of 6 to 60 features a layer, skewed, those of one feature alike; `effect` adds 0.1 to what
    is judged of real descriptions, `null` nothing."""
    layers = [np.full(n, layer) for layer, n in enumerate(random.integers(6, 60, repetitions))]
    layer = np.concatenate(layers)
    feature = np.concatenate([np.arange(len(one)) for one in layers])
    common = random.beta(1, 2, len(layer))
    for metric, effect in (("effect", 0.1), ("null", 0.0)):
        for at in range(METHODS if metric == "null" else 1):
            for method, added in ((f"m{at}", effect), (f"control:shuffled:m{at}", 0.0)):
                own = random.random(len(layer)) < 0.6
                value = np.where(own, random.beta(1, 2, len(layer)), common) + added
                connection.execute(
                    "INSERT INTO scores BY NAME SELECT 'c' AS checkpoint_id, 't' AS corpus_id, 'e' AS explainer, "
                    "'j' AS judge, unnest($1) AS layer, unnest($2) AS feature, $3 AS metric, $4 AS method, "
                    "unnest($5) AS value",
                    [layer.tolist(), feature.tolist(), metric, method, value.tolist()],
                )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    arguments = parser.parse_args()
    found = [covered(kind, arguments.repetitions) for kind in KINDS]
    for one in [*found, *view_coverage(arguments.repetitions)]:
        if arguments.json:
            print(json.dumps(one._asdict()))
        else:
            wrong = "" if one.false_positives is None else f"   false positives {one.false_positives:.3f}"
            print(f"{one.kind:30} {one.repetitions:6} coverage {one.coverage:.3f}{wrong}")


if __name__ == "__main__":
    main()
