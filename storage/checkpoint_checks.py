"""Check the files of a checkpoint for damage."""

from pathlib import Path

from storage.arrays import has_checksums, open_array, read_attributes
from storage.checkpoints import EMBEDDINGS, Checkpoint, compare_with_sha256
from storage.checksums import DamagedError


def check_layers(path: Path) -> None:
    """Check that a finished checkpoint has its embeddings, every layer's receipt, and the arrays that these name.

    Raises:
        DamagedError: one is missing, or a receipt is damaged.
    """
    checkpoint = Checkpoint(path)
    folders = [path / name for name in EMBEDDINGS]
    for layer in checkpoint.layers:
        folders += [checkpoint.layer_path(layer) / name for name in checkpoint.sha256(layer)]
    for folder in folders:
        if not (folder / "zarr.json").is_file():
            raise DamagedError(folder / "zarr.json", "missing")


def check_array(path: Path) -> bool:
    """Read a whole array of a checkpoint and compare it with its SHA-256; returns whether its chunks have checksums.

    Raises:
        DamagedError: it is damaged.
    """
    has = has_checksums(open_array(path))
    if "sha256" in read_attributes(path):
        compare_with_sha256(path, (path / "zarr.json").stat().st_mtime_ns)
    return has
