"""Readers read while a writer writes, and see what was last finished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from storage.catalog.database import SCHEMA_VERSION, insert_row, open_catalog
from storage.catalog.published import open_published, publish, published_path
from storage.store import held, open_store


def put(catalog: Path, corpus: str) -> None:
    with open_catalog(catalog, write=True) as connection:
        insert_row(connection, "corpora", {"corpus_id": corpus})


def corpora(catalog: Path) -> list[str]:
    with open_published(catalog) as connection:
        return [row[0] for row in connection.execute("SELECT corpus_id FROM corpora ORDER BY 1").fetchall()]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.duckdb"
    put(path, "a")
    return path


def test_a_reader_waits_for_no_writer_and_no_writer_for_a_reader(catalog: Path) -> None:
    assert corpora(catalog) == ["a"]
    program = (
        "import sys; from pathlib import Path; from storage.catalog.database import insert_row, open_catalog\n"
        "with open_catalog(Path(sys.argv[1]), write=True) as connection:\n"
        "    insert_row(connection, 'corpora', {'corpus_id': 'b'}); print('writing', flush=True); sys.stdin.read()"
    )
    with open_published(catalog) as long_reader:
        with subprocess.Popen(
            [sys.executable, "-c", program, str(catalog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
            began = time.monotonic()
            assert corpora(catalog) == ["a"]
            assert time.monotonic() - began < 5
            writer.communicate()
        assert writer.returncode == 0
        assert corpora(catalog) == ["a", "b"]
        put(catalog, "c")
        publish(catalog)
        assert long_reader.execute("SELECT corpus_id FROM corpora").fetchall() == [("a",)]
    assert corpora(catalog) == ["a", "b", "c"]


def test_what_a_killed_writer_committed_is_published(catalog: Path) -> None:
    assert corpora(catalog) == ["a"]
    program = (
        "import os, sys; from pathlib import Path; from storage.catalog.database import connect\n"
        "connection = connect(Path(sys.argv[1]), write=True)\n"
        "connection.execute(\"INSERT INTO corpora (corpus_id) VALUES ('b')\")\n"
        "connection.execute('BEGIN'); connection.execute(\"INSERT INTO corpora (corpus_id) VALUES ('never')\")\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    )
    assert subprocess.run([sys.executable, "-c", program, str(catalog)]).returncode == -signal.SIGKILL
    assert catalog.with_name("catalog.duckdb.wal").exists()
    assert corpora(catalog) == ["a", "b"]
    assert not catalog.with_name("catalog.duckdb.wal").exists()


def test_a_second_publication_copies_nothing(catalog: Path) -> None:
    corpora(catalog)
    before = published_path(catalog).stat().st_ino
    corpora(catalog)
    assert published_path(catalog).stat().st_ino == before


def test_a_copy_of_an_earlier_version_is_made_anew(catalog: Path) -> None:
    corpora(catalog)
    copy = published_path(catalog)
    with duckdb.connect(copy) as connection:
        connection.execute("UPDATE schema_version SET version = 1")
    os.utime(copy, ns=(catalog.stat().st_mtime_ns,) * 2)
    with open_published(catalog) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(SCHEMA_VERSION,)]


def test_a_newer_version_is_refused(catalog: Path) -> None:
    with open_catalog(catalog, write=True) as connection:
        connection.execute("UPDATE schema_version SET version = version + 1")
    with pytest.raises(ValueError, match="update Circuit Insights"), open_published(catalog):
        pass
    assert not published_path(catalog).exists()


def test_where_no_copy_can_be_made_the_catalog_itself_is_read(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("storage.catalog.published.shutil.copyfileobj", full)
    assert corpora(catalog) == ["a"]
    assert sorted(path.name for path in catalog.parent.iterdir()) == ["catalog.duckdb"]


def test_a_catalog_left_half_made_is_swept_with_its_log(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for name in ("catalog.duckdb.0a1b2c3d.partial", "catalog.duckdb.0a1b2c3d.partial.wal"):
        (tmp_path / name).touch()
    with held(store, "test"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]
