"""Who may read a store."""

from pathlib import Path

from storage.store import open_store


def test_a_new_store_is_its_owners_alone_and_one_that_was_opened_stays_so(tmp_path: Path) -> None:
    root = tmp_path / "below" / "store"
    open_store(root)
    assert root.stat().st_mode & 0o777 == 0o700
    root.chmod(0o750)
    open_store(root)
    assert root.stat().st_mode & 0o777 == 0o750
