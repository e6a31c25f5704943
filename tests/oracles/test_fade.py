"""The four metrics against fade-language's on the same activations and ratings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.fade.metrics import clarity, faithfulness_paper, purity, responsiveness
from tests.oracles.foreign import run

pytestmark = pytest.mark.oracle


def case(random: np.random.Generator) -> dict[str, Any]:
    """Activations with many ties at zero, as sparse features have them."""

    def activations(n: int, shift: float) -> list[float]:
        return np.round(np.maximum(random.normal(shift, 1, n), 0), 1).tolist()

    factors = (-50.0, -1.0, 0.0, 1.0, 50.0)
    return {
        "natural": activations(random.integers(1, 60), -1),
        "synthetic": activations(random.integers(1, 30), random.normal()),
        "rated_0": activations(random.integers(1, 60), -0.5),
        "rated_2": activations(random.integers(1, 20), random.normal()),
        "continuations": {factor: [0, *random.integers(0, 3, 11).tolist()] for factor in factors},
    }


def test_the_four_metrics_are_fades(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    cases = [case(random) for _ in range(300)]
    given, output = tmp_path / "cases.jsonl", tmp_path / "figures.jsonl"
    given.write_text("\n".join(map(json.dumps, cases)))
    run("fade_figures.py", given, output)
    theirs = [json.loads(line) for line in output.read_text().splitlines()]
    for one, expected in zip(cases, theirs, strict=True):
        rated = np.array(one["rated_0"] + one["rated_2"])
        ratings = np.array([0] * len(one["rated_0"]) + [2] * len(one["rated_2"]))
        continued = {float(factor): np.array(many) for factor, many in one["continuations"].items()}
        ours = (
            clarity(np.array(one["synthetic"]), np.array(one["natural"])),
            responsiveness(rated, ratings),
            purity(rated, ratings),
            faithfulness_paper(continued),
        )
        assert [score.value for score in ours] == pytest.approx(expected, abs=1e-6)
