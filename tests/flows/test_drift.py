"""A series of three planted checkpoints, whose features are permuted, moved, lost and new."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from configs.load import load_config
from flows.compare_checkpoints import compare_checkpoints
from flows.describe_checkpoint import describe_checkpoint
from interp.drift import DriftSettings
from storage.catalog.published import open_published
from tests.conftest import planted_overrides

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory, prefect_here: None) -> Path:
    """The store of the three. Each step differs from the one before in layer 0."""
    folder = tmp_path_factory.mktemp("series")
    overrides = [*planted_overrides(folder), "transcoder.accept_poor_quality=true", "engine.workers=2"]
    for step in (1, 2, 3):
        path = folder / f"step-{step}"
        shutil.copytree(folder / f"step-{step - 1}" if step > 1 else folder / "transcoders", path)
        layer = load_file(path / "layer_0.safetensors")
        if step == 2:
            for name in ("W_enc", "W_dec"):
                layer[name][[3, 8]] = layer[name][[8, 3]]
            layer["W_enc"][1, 13] = 0.7  # moved: it reads another token as well
        if step == 3:
            layer["W_enc"][1], layer["W_dec"][1] = 0, 0
            layer["W_enc"][0, 20], layer["W_dec"][0, 42] = 1, 1
        save_file(layer, path / "layer_0.safetensors")
        changes = [*overrides, f"transcoder.path={path}", f"model.step={step}", f"name=s{step}"]
        describe_checkpoint(load_config(Path("configs/demo.yaml"), changes))
    for a, b in (("s1", "s2"), ("s2", "s3")):
        compare_checkpoints(folder / "store", a, b)
    return folder / "store"


def rows(store: Path, query: str) -> list[tuple]:
    with open_published(store / "catalog.duckdb") as connection:
        return connection.execute(query).fetchall()


OF_PAIR = "(SELECT name FROM checkpoints WHERE checkpoint_id = checkpoint_a) = '{}' AND layer = 0"


def test_what_became_of_every_feature(series: Path) -> None:
    query = "SELECT fate, feature_a, feature_b FROM drift WHERE cosine_enc IS NOT NULL AND " + OF_PAIR
    assert sorted(rows(series, query.format("s1"))) == [("kept", 3, 8), ("moved", 1, 1)]
    assert sorted(rows(series, query.format("s2"))) == [("kept", 8, 8)]
    query = "SELECT fate, feature_a, feature_b FROM drift WHERE cosine_enc IS NULL AND " + OF_PAIR
    found = rows(series, query.format("s2"))
    assert ("died", 1, None) in found
    assert ("born", None, 0) in found
    counts = rows(series, "SELECT count(feature_a), count(feature_b) FROM feature_matches GROUP BY checkpoint_a, layer")
    assert counts == [(16, 16)] * 4


def test_activations_and_descriptions_are_compared(series: Path) -> None:
    query = "SELECT feature_a, activation_correlation, agreement FROM drift WHERE feature_b = 8 AND " + OF_PAIR
    assert rows(series, query.format("s1")) == [(3, pytest.approx(1), 1.0)]
    query = "SELECT activation_correlation, agreement, surprise FROM drift WHERE feature_b = 1 AND " + OF_PAIR
    [(correlation, agreement, surprise)] = rows(series, query.format("s1"))
    assert 0.5 < correlation < 0.95
    assert (agreement, surprise) == (0.5, "description stayed")


def test_when_a_feature_appeared(series: Path) -> None:
    query = """SELECT feature, first_step, first_feature, n_comparisons FROM feature_origins
               WHERE checkpoint_id = (SELECT checkpoint_id FROM checkpoints WHERE name = 's3')
               AND layer = 0 AND feature IN (0, 8) ORDER BY feature"""
    assert rows(series, query) == [(0, 3, 0, 0), (8, 1, 3, 2)]


def test_the_report_shows_it_and_a_second_comparison_computes_nothing(series: Path) -> None:
    before = rows(series, "SELECT count(*) FROM runs")
    page = Path(compare_checkpoints(series, "s1", "s2"))
    assert rows(series, "SELECT count(*) FROM runs") == before
    text = page.read_text()
    assert "| 0 | 1 | 1 | 14 | 14 |" in text
    assert "word12" in text
    for plot in ("fates.png", "cosines.png"):
        assert (page.parent / plot).read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_refused(series: Path) -> None:
    moved = series.parent / "step-1"
    moved.rename(moved.with_name("elsewhere"))
    shutil.copytree(series.parent / "step-2", moved)
    with pytest.raises(ValueError, match="where other files are now"):
        compare_checkpoints(series, "s1", "s3")
    with pytest.raises(ValueError, match="are the same checkpoint"):
        compare_checkpoints(series, "s1", "s1")
    with pytest.raises(ValueError, match="--checkpoint: name one of"):
        compare_checkpoints(series, "s1", "none", DriftSettings(n_positions=0))
