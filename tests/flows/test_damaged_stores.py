"""What the commands say and do about damaged and read-only stores."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from storage.catalog.database import insert_row, mark_loaded, open_catalog, replace_rows
from storage.catalog.parts import write_part
from storage.store import Store, open_store


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def small_store(root: Path) -> tuple[Store, Path]:
    """A store with one part, and where that is."""
    store = open_store(root)
    part = store.parts("features", "recipe") / "layer-00" / "features-0-9.parquet"
    write_part(part, "features", {"feature": np.arange(9)}, 9)
    old = store.parts("features", "old") / "layer-00" / "features-0-9.parquet"
    write_part(old, "features", {"feature": np.arange(9)}, 9)
    with open_catalog(store.catalog, write=True) as connection:
        insert_row(connection, "checkpoints", {"checkpoint_id": "c", "name": "c"})
        replace_rows(connection, "features", {"checkpoint_id": "c"}, [part])
        mark_loaded(connection, "c corpus", "activations", "recipe")
    return store, part


@pytest.fixture
def no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.cli.maintenance._check_installation", lambda _: None)


@pytest.mark.usefixtures("no_measurement")
def test_doctor_reads_the_store_and_repairs_it(tmp_path: Path) -> None:
    store, part = small_store(tmp_path / "store")
    assert "nothing is damaged" in command("doctor", "--store", store.root).output
    data = bytearray(part.read_bytes())
    data[40] ^= 1
    part.write_bytes(data)
    result = command("doctor", "--store", store.root)
    assert result.exit_code == 2
    assert "features-0-9.parquet: its CRC-32C is" in result.output
    assert "--repair repairs" in result.output
    assert part.exists()
    result = command("doctor", "--store", store.root, "--repair")
    assert result.exit_code == 0, result.output
    assert "is removed" in result.output
    assert not part.exists()
    with open_catalog(store.catalog) as connection:
        assert connection.execute("SELECT * FROM loaded").fetchall() == []
    assert command("doctor", "--store", store.root).exit_code == 0


@pytest.mark.usefixtures("no_measurement")
def test_doctor_makes_a_damaged_catalog_again(tmp_path: Path) -> None:
    store, _ = small_store(tmp_path / "store")
    assert command("sql", "SELECT 1", "--store", store.root).exit_code == 0
    store.catalog.write_bytes(store.catalog.read_bytes()[:50_000])
    result = command("sql", "SELECT count(*) AS n_rows FROM features", "--store", store.root, "--format", "csv")
    assert result.exit_code == 0
    assert "9" in result.output
    assert command("doctor", "--store", store.root).exit_code == 2
    result = command("doctor", "--store", store.root, "--repair")
    assert "restored from catalog.published.duckdb" in result.output
    assert command("doctor", "--store", store.root).exit_code == 0


def test_vacuum_of_a_store_that_cannot_be_written_says_so(
    tmp_path: Path, small_disk: Callable[[Path, str], None]
) -> None:
    small_disk(tmp_path / "disk", "60M")
    store, _ = small_store(tmp_path / "disk" / "store")
    subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
    result = command("vacuum", "--store", store.root, "--yes")
    assert result.exit_code == 2
    assert "cannot be written" in result.output
