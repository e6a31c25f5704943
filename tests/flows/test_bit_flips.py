"""No flipped bit of a finished store ends in other tables without an error; see `tests.bit_flips`."""

from pathlib import Path

import pytest

from configs.load import load_config
from configs.run import RunConfig
from storage.store import Store
from tests.bit_flips import SMALL, flips, run, summary, without_prefect
from tests.conftest import planted_overrides

pytestmark = pytest.mark.whole

STAGES = "[weightlens, activations, coactivation, circuitlens, describe, evaluate]"


def test_no_flipped_bit_of_the_planted_store_is_silent(tmp_path: Path) -> None:
    planted = [
        *planted_overrides(tmp_path, STAGES), "corpus.n_pos=16", "coactivation.min_support=1", "activations.keep=all",
        "evaluate.how.text_tokens=8", "evaluate.how.n_texts=8", "evaluate.how.n_rated=4", "evaluate.how.n_synthetic=2",
        "evaluate.how.faithfulness={features_per_layer: 1, n_prompts: 2, prompt_tokens: 4, new_tokens: 2}",
        "circuitlens.ablated_features=1", "engine.workers=1",
    ]  # fmt: skip

    def config(store: Path) -> RunConfig:
        return load_config(Path("configs/demo.yaml"), [*planted, f"store={store}"])

    base = Store(tmp_path / "base")
    with without_prefect():
        run(config(base.root))
        found = list(flips(base, config, range(15), 0, tmp_path))
    assert all(one.is_same for one in found), summary(found)
    assert sum(one.said is not None for one in found) > 7, summary(found)


@pytest.mark.slow
def test_no_flipped_bit_of_the_demos_store_is_silent(tmp_path: Path) -> None:
    def config(store: Path) -> RunConfig:
        return load_config(Path("configs/demo.yaml"), [f"store={store}", "engine.workers=1", *SMALL])

    base = Store(tmp_path / "base")
    with without_prefect():
        run(config(base.root))
        found = list(flips(base, config, range(200), 0, tmp_path))
    assert all(one.is_same for one in found), summary(found)
    assert {one.kind.name for one in found if one.said} >= {"transcoder layer", "corpus", "co-activation", "parts"}
