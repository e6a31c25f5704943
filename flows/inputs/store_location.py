"""Open a store by its folder or URL, for reading."""

from pathlib import Path

from storage.bucket.mirror import local_root
from storage.bucket.working_copy import refresh
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.store import Store


def store_at(place: str | Path) -> Store:
    """The store in a folder, or at s3://BUCKET/PREFIX; for a URL, the local folder, with its catalog updated.

    Raises:
        ValueError: the URL has an unsupported form, or the bucket cannot be reached.
    """
    store = Store(local_root(place))
    refresh(store)
    return store


def checkpoint_at(store: Store, checkpoint_id: str) -> Checkpoint:
    """A checkpoint's arrays, fetched first if the store is in a bucket.

    Raises:
        ValueError: it is not in the store, or its ingestion did not finish.
    """
    refresh(store, f"checkpoints/{checkpoint_id}")
    return open_checkpoint(store, checkpoint_id)
