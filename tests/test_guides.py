"""What guides show is run: commands and Python on the demo's checkpoint."""

import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

import circuit_insights as ci
from flows.cli import app
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import publish
from tasks.ingest import tokens_part
from tests.tasks.demo_store import ingested

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
PAGES = ("steering.md", "circuits.md", "notebook.md")

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's checkpoint with a catalog, without descriptions."""
    plan = ingested(tmp_path_factory.mktemp("demo"))
    attributes, store = plan.attributes, plan.store
    with open_catalog(store.catalog, write=True) as connection:
        row = {name: getattr(attributes, name) for name in ("checkpoint_id", "name", "n_layers", "d_transcoder")}
        insert_row(connection, "checkpoints", {**row, "model_name": "demo", "ingested_at": datetime(2026, 1, 1)})
        run = {"run_id": "a run", "checkpoint_id": plan.checkpoint_id, "stage": "ingest", "status": "completed"}
        insert_row(
            connection, "runs", {**run, "started_at": datetime(2026, 1, 1), "config": plan.config.model_dump_json()}
        )
        connection.execute(
            "INSERT INTO tokens SELECT * FROM read_parquet(?)", [str(tokens_part(store, plan.checkpoint_id))]
        )
    publish(store.catalog)
    return store.root


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = (GUIDES / page).read_text(encoding="utf-8")
        yield from ((page, block) for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL))


def test_commands_of_guides_say_what_guides_show(demo_root: Path) -> None:
    found = list(blocks("console"))
    assert len(found) >= 2
    for page, block in found:
        command, shown = block.split("\n", 1)
        arguments = shlex.split(command.removeprefix("$ circuit-insights "))
        arguments = [str(demo_root) if one == "store/demo" else one for one in arguments]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert alike(result.stdout) == alike(shown), (page, result.stdout)
        figures, expected = numbers(result.stdout), numbers(shown)
        assert figures == pytest.approx(expected, rel=0.05, abs=2e-3), page


def alike(text: str) -> list[str]:
    """Its lines with numbers, blanks and rules of tables left out."""
    lines = [re.sub(r"[\s─┼│]+", " ", re.sub(NUMBER, "N", line)).strip() for line in text.splitlines()]
    return [line for line in lines if line]


NUMBER = r"[+-]?\d+\.\d+(?:e[+-]?\d+)?"


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(NUMBER, text)]


def test_python_of_the_guide_runs(demo_root: Path) -> None:
    names: dict[str, object] = {}
    for _, block in blocks("python"):
        exec(block.replace("store/demo", str(demo_root)), names)
    store = names["store"]
    assert isinstance(store, ci.Store)
    store.close()
