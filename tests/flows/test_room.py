"""What a run will write is known, and nothing starts on a disk that cannot hold it, however it is started."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.load import load_config
from configs.run import RunConfig
from flows.costs.plan import DOWNLOAD, SMALLEST_CATALOG_BYTES, Step, check_room
from flows.costs.sizes import sizes_of
from flows.describe_checkpoint import STAGES, describe_checkpoint
from flows.ingest import ingest
from flows.inputs.checkpoint_plan import identify, open_inputs
from flows.running.stage import perform_alone
from flows.train_transcoders import train_transcoders
from storage.corpora.corpus import corpus_attributes
from tasks.activations.corpora import tokenise_corpus
from tests.bit_flips import run, without_prefect
from tests.conftest import planted_overrides
from tests.planted import WORDS

CONFIG = Path("configs/demo.yaml")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def has(free: float) -> None:
        monkeypatch.setattr("flows.costs.plan.shutil.disk_usage", lambda _: SimpleNamespace(free=free))

    return has


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(tmp_path: Path, disk: Callable[[float], None]) -> None:
    config = load_config(CONFIG, [f"store={tmp_path / 'store'}"])
    steps = [Step("ingest", "ingest", 1, 1, 1.0, 1.0, 12e6, 0.0), Step(DOWNLOAD, DOWNLOAD, 1, 1, 1.0, 1.0, 1e9, 0.0)]
    needed = 12e6 + SMALLEST_CATALOG_BYTES
    disk(6e6)
    with pytest.raises(
        ValueError, match=rf"will write about {needed / 1e6:.1f} MB, and .* has 6\.0 MB free; .*--force"
    ):
        check_room(config, steps)
    disk(needed)
    check_room(config, steps)


def test_flows_look_at_the_disk_before_they_start(
    tmp_path: Path, disk: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.describe_checkpoint.show_failure", lambda *_: None)  # asks for Prefect's server
    planted = planted_overrides(tmp_path)
    config = load_config(CONFIG, planted)
    disk(1000)
    with pytest.raises(ValueError, match=r"will write about .* and .* has 0\.0 MB free"):
        ingest.fn(config)
    train = ["transcoder.path=null", "transcoder.train={d_transcoder: 8, k: 2, n_steps: 1}"]
    with pytest.raises(ValueError, match="will write about"):
        train_transcoders.fn(load_config(CONFIG, [*planted, *train]))
    with pytest.raises(ValueError, match="will write about"):
        describe_checkpoint.fn(config)
    assert not (tmp_path / "store").exists()


def test_a_stage_alone_looks_at_the_disk(tmp_path: Path, disk: Callable[[float], None]) -> None:
    config = ingested(tmp_path)
    disk(1000)
    with pytest.raises(ValueError, match="will write about"):
        perform_alone(STAGES["weightlens"], config, force=False)


def ingested(folder: Path) -> RunConfig:
    config = load_config(CONFIG, [*planted_overrides(folder), "stages=[]"])
    with without_prefect():
        run(config)
    return config


def test_held_out_tokens_of_a_tokenised_corpus_are_part_of_it(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(f'{{"text": "{WORDS[at % 20 + 4]} {WORDS[5]} {at}"}}\n' for at in range(200)))
    overrides = [*planted_overrides(tmp_path), f"corpus.source={texts}", "corpus.held_out=0.3"]
    plan = identify(open_inputs(load_config(CONFIG, overrides)))
    (recipe,) = plan.inputs.corpora
    tokenise_corpus.fn(plan.store, recipe, plan.inputs.model.path)
    found = corpus_attributes(plan.store, recipe.corpus_id)
    assert found.n_held_out_tokens > 0.15 * found.n_tokens
    assert sizes_of(plan).corpus_tokens == found.n_tokens + found.n_held_out_tokens
