"""The quantile sample against tdhook's, on the same activations."""

import json
from pathlib import Path

import numpy as np
import pytest

from interp.activations.sampling import draw_samples
from interp.activations.settings import ActivationSettings
from interp.sparse import FeatureTokens
from tests.oracles.foreign import run

pytestmark = pytest.mark.oracle

N_SEEDS = 3000


def test_as_many_are_drawn_of_every_bin(tmp_path: Path) -> None:
    """Bins of unequal sizes, as ties at their edges make them: how often an activation of each is drawn, on average."""
    random = np.random.default_rng(0)
    values = np.concatenate([random.exponential(1, 300), np.full(220, 0.5), np.full(100, 2.0)]).astype(np.float32)
    random.shuffle(values)
    (tmp_path / "given.json").write_text(
        json.dumps({"activations": values.tolist(), "sample_size": 100, "n_seeds": N_SEEDS})
    )
    run("tdhook_circuits.py", "draws", tmp_path / "given.json", tmp_path / "drawn.json")
    theirs = np.array(json.loads((tmp_path / "drawn.json").read_text()))
    active = FeatureTokens(np.array([0, len(values)]), np.arange(len(values)), values)
    ours, bins = np.zeros(len(values), np.int64), np.full(len(values), -1)
    for seed in range(N_SEEDS):
        samples = draw_samples(active, 0, 0, ActivationSettings(n_top=0, seed=seed))
        ours[samples.position] += 1
        bins[samples.position] = samples.quantile_bin
    assert ours.sum() == theirs.sum() == 100 * N_SEEDS
    assert len(set(bins.tolist())) > 10
    for one in np.unique(bins):
        drawn, expected = ours[bins == one].sum(), theirs[bins == one].sum()
        assert abs(drawn - expected) < 5 * np.sqrt(drawn + expected), one
