"""What a run does where an earlier one was killed after its work was done."""

from pathlib import Path

from flows.running.in_process import settle
from storage.bucket.working_copy import hold
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import open_published
from storage.catalog.runs import any_unended, now
from storage.store import Store, open_store


def _killed(folder: Path) -> Store:
    """A store in which a run was killed between loading its last rows and recording its end."""
    store = open_store(folder)
    with open_catalog(store.catalog, write=True) as connection:
        for run_id, status in (("whole", "completed"), ("killed", "running")):
            insert_row(
                connection, "runs", {"run_id": run_id, "stage": "evaluate", "status": status, "started_at": now()}
            )
    return store


def _statuses(store: Store) -> list[tuple[str, str]]:
    with open_published(store.catalog) as connection:
        return connection.execute("SELECT run_id, status FROM runs ORDER BY ALL").fetchall()


def test_a_run_that_was_killed_after_its_work_is_called_killed(tmp_path: Path) -> None:
    store = _killed(tmp_path / "store")
    assert any_unended(store.catalog)
    settle(store)
    assert not any_unended(store.catalog)
    assert _statuses(store) == [("killed", "killed"), ("whole", "completed")]
    before = store.catalog.stat().st_mtime_ns
    settle(store)
    assert store.catalog.stat().st_mtime_ns == before


def test_a_run_of_another_process_goes_on(tmp_path: Path) -> None:
    store = _killed(tmp_path / "store")
    with hold(store, "evaluate"):
        settle(store)
    assert any_unended(store.catalog)
