"""What two checkpoints have in common is computed once, and the second's rows are those of a store of its own."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.load import load_config
from flows.describe_checkpoint import describe_checkpoint
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.coactivation import CoactivationRecipe
from flows.recipes.weightlens import WeightLensRecipe
from flows.reports.summary import summarise
from storage.checkpoints import Checkpoint
from storage.store import Store
from tests.conftest import planted_overrides
from tests.flows.contents import contents

pytestmark = pytest.mark.whole

STAGES = "[weightlens, activations, coactivation]"


class Series:
    """The planted checkpoint, and others that differ from it, in a store that they share and in stores of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.overrides = [*planted_overrides(folder, STAGES), "corpus.n_pos=16", "coactivation.min_support=1"]

    def variant(self, name: str, layer: int, **changes: torch.Tensor) -> Path:
        """Transcoders like the planted ones, but for some arrays of a layer."""
        path = self.folder / name
        shutil.copytree(self.folder / "transcoders", path)
        file = path / f"layer_{layer}.safetensors"
        save_file({**load_file(file), **changes}, file)
        return path

    def run(self, transcoders: Path, store: str, *overrides: str) -> str:
        return describe_checkpoint(self.config(transcoders, store, *overrides))

    def config(self, transcoders: Path, store: str, *overrides: str):
        places = [f"transcoder.path={transcoders}", f"store={self.folder / store}", "engine.workers=1"]
        accept = "transcoder.accept_poor_quality=true"
        return load_config(Path("configs/demo.yaml"), [*self.overrides, *places, accept, *overrides])

    def rows(self, store: str, checkpoint_id: str) -> dict[str, list]:
        """The rows of a checkpoint. Failures do not name theirs, so they are left out."""
        found = contents(self.folder / store / "catalog.duckdb")
        found.pop("failures")
        shared = found.pop("corpora")
        return {"corpora": shared} | {
            table: [row for row in rows if checkpoint_id in row] for table, rows in found.items()
        }

    def reused(self, checkpoint_id: str, store: str = "shared") -> tuple[int, int]:
        summary = summarise(Store(self.folder / store), checkpoint_id)
        return summary.n_reused, summary.n_shards


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory, prefect_here: None) -> Series:
    series = Series(tmp_path_factory.mktemp("reuse"))
    series.run(series.folder / "transcoders", "shared")
    return series


def test_a_layer_that_did_not_change_is_taken_over_with_all_that_follows_from_it(series: Series) -> None:
    layer = load_file(series.folder / "transcoders" / "layer_1.safetensors")
    layer["W_enc"][2, 41] = 0.5  # the feature reads another feature of layer 0 as well
    changed = series.variant("above", 1, W_enc=layer["W_enc"])
    checkpoint_id = series.run(changed, "shared")
    # 4 shards a layer; projected, propagated, gathered, edges: all of layer 0, none of layer 1
    assert series.reused(checkpoint_id) == (16, 32)
    assert series.run(changed, "own") == checkpoint_id
    assert series.rows("shared", checkpoint_id) == series.rows("own", checkpoint_id)
    assert series.reused(checkpoint_id, "own") == (0, 32)


def test_of_the_layers_above_only_what_does_not_follow_from_the_change(series: Series) -> None:
    layer = load_file(series.folder / "transcoders" / "layer_0.safetensors")
    layer["W_enc"][3, 13] = 1.0  # one token more, which layer 1 inherits; what the feature writes stays
    changed = series.variant("below", 0, W_enc=layer["W_enc"])
    checkpoint_id = series.run(changed, "shared")
    # of layer 1, projections and samples; not what it inherits, nor which features fire together
    assert series.reused(checkpoint_id) == (8, 32)
    assert series.run(changed, "own-below") == checkpoint_id
    assert series.rows("shared", checkpoint_id) == series.rows("own-below", checkpoint_id)


def test_whatever_changes_changes_the_ingredients(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = identify(open_inputs(series.config(series.folder / "transcoders", "shared")))
    before = all_ingredients(plan)
    hashes = Checkpoint.sha256

    def change(layer: int | None, array: str) -> tuple[list[str], ...]:
        def changed(self: Checkpoint, at: int | None, *names: str) -> dict[str, str]:
            found = hashes(self, at, *names)
            return {**found, array: "changed"} if at == layer and array in found else found

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "sha256", changed)
            return all_ingredients(plan)

    def affected(after: tuple[list[str], ...]) -> list[set[int]]:
        return [{at for at in (0, 1) if old[at] != new[at]} for old, new in zip(before, after, strict=True)]

    # single tokens, projections, inherited, activations, coactivation
    none, own, both = set(), {0}, {0, 1}
    for array in hashes(Checkpoint(plan.store.checkpoint(plan.checkpoint_id)), 0):
        encoder, decoder = array in ("W_enc", "b_enc"), array in ("W_dec", "write_weight")
        first = own if encoder else none
        expected = [first, both if decoder else own, both, first, both if encoder or decoder else own]
        assert affected(change(0, array)) == expected, array
        assert affected(change(1, array))[1:3] == [{1}, {1}], array
    for array in ("W_E", "W_U", "final_weight"):
        assert affected(change(None, array)) == [none, both, both, none, both], array
    others = {
        "model_sha256": [both, both, both, both, both],
        "tokenizer_sha256": [none, none, both, none, none],
    }
    for name, expected in others.items():
        other = replace(plan, inputs=replace(plan.inputs, **{name: "changed"}))
        found = affected(all_ingredients(other))
        # projections see of the model what single tokens are found to activate, and the arrays
        assert found == [both, none, none, both, both] if name == "model_sha256" else expected, name
    for override, expected in {
        "weightlens.z_tokens=3.5": [none, both, both, none, both],
        "wording.near_duplicate=99": [none, none, both, none, none],
        "activations.n_samples=70": [none, none, none, both, both],
        "corpus.held_out=0.3": [none, none, none, both, both],
        "coactivation.top_k=3": [none, none, none, none, both],
    }.items():
        other = identify(open_inputs(series.config(series.folder / "transcoders", "shared", override)))
        assert affected(all_ingredients(other)) == expected, override


def all_ingredients(plan: CheckpointPlan) -> tuple[list[str], ...]:
    words = WeightLensRecipe(plan)
    single = [words.single_token_ingredients(layer) for layer in (0, 1)]
    sampled, summed = ActivationsRecipe(plan).ingredients, CoactivationRecipe(plan).ingredients
    return single, words.projection_ingredients, words.ingredients, sampled, summed
