"""Batch sizes that were found to fit on a GPU, kept for later runs on this machine."""

import time
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from storage.bucket.mirror import cache_folder
from storage.checksums import DamagedError
from storage.hashing import short_hash
from storage.store import read_as, write_json

KEPT_S = 24 * 3600
"""Seconds after which sizes are found again: a GPU's memory may have been taken by others."""


class KeptSizes(MutableMapping[str, int]):
    """Sizes by what was done in batches, in a file that is written whenever one is found. They save time only, so where
    the file cannot be read or written, they are of this process alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            is_new = path.is_file() and time.time() - path.stat().st_mtime < KEPT_S
            self._sizes = read_as(path, dict[str, int]) if is_new else {}
        except (DamagedError, OSError):
            self._sizes = {}

    def __getitem__(self, key: str) -> int:
        return self._sizes[key]

    def __setitem__(self, key: str, tokens: int) -> None:
        self._sizes[key] = tokens
        self._write()

    def __delitem__(self, key: str) -> None:
        del self._sizes[key]
        self._write()

    def _write(self) -> None:
        with suppress(OSError):
            write_json(self.path, self._sizes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


def sizes_for(model: nn.Module, device: str) -> MutableMapping[str, int]:
    """The sizes found for models of these shapes on a GPU of this kind; on other devices new ones, for this process."""
    if not device.startswith("cuda"):
        return {}
    name, memory = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1]
    shapes = [[key, str(weight.dtype), *weight.shape] for key, weight in model.named_parameters()]
    return KeptSizes(cache_folder() / "batches" / f"{short_hash(device=name, memory=memory, shapes=shapes)}.json")
