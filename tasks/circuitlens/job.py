"""The common inputs of all tasks of CircuitLens, and the choice of features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from interp.activations.settings import ActivationSettings
from interp.circuitlens.settings import CircuitLensSettings
from storage.activations import Block
from storage.attributions import attributions_path, qk_path
from storage.catalog.parts import read_parts
from storage.corpora.rows import CorpusRows, read_numbered_rows
from storage.store import ShardKey, Store, shards
from tasks.activations.corpus_pass import counted_positions

VERSION = 9
"""Raise it when the same samples and settings would give other contributions, clusters, effects or scores."""

TABLES = ("contributions", "logit_effects", "qk_contributions", "clusters", "samples", "scores", "failures")
"""Tables for which gathering a shard writes parts, in this order."""

SIGNED = {"method": "circuitlens", "explainer": "none", "judge": "none"}
"""Values of `explainer` and `judge` in scores of attributions, which have neither."""

BATCH_BYTES = 256_000_000
"""Memory of the gradients and contributions of the targets that are attributed together, in bytes."""


@dataclass(frozen=True)
class CircuitLensJob:
    """What is attributed, how, and where results are stored."""

    checkpoint_id: str
    corpus_id: str
    """The corpus id in the tables; for several corpora, a hash of them all."""
    model_path: Path
    recipe: str
    """The recipe of the attributions."""
    samples: str
    """The recipe of the samples."""
    layers: tuple[int, ...]
    """The ingested layers."""
    d_transcoder: int
    shard_size: int
    """Features in a shard of the samples."""
    corpora: tuple[CorpusRows, ...]
    """The corpora with the samples' rows."""
    blocks: tuple[Block, ...]
    """Blocks of rows, counted through all corpora, one for each task."""
    settings: CircuitLensSettings
    counting: ActivationSettings
    """Settings with which the corpora were read; they decide which positions count."""
    device: str = "cpu"
    only: dict[int, tuple[int, ...]] | None = None
    """By layer, the features that may be chosen; None: all."""

    @property
    def shared(self) -> dict[str, str]:
        """Columns with the same value in all rows of the tables."""
        return {"checkpoint_id": self.checkpoint_id, "corpus_id": self.corpus_id}

    def sampled_shards(self, layer: int) -> list[ShardKey]:
        """The shards of a layer's samples."""
        return shards(self.samples, layer, self.d_transcoder, self.shard_size)

    def attributed_paths(self, store: Store) -> list[Path]:
        """The files with the blocks' attributed samples."""
        return [attributions_path(store, self.recipe, *block) for block in self.blocks]

    def qk_paths(self, store: Store) -> list[Path]:
        """The files with the pairs that explain where the heads of each block attended."""
        return [qk_path(store, self.recipe, *block) for block in self.blocks]

    def rows(self, store: Store, sequences: Int64[np.ndarray, " n"]) -> dict[int, Int32[np.ndarray, " n_pos"]]:
        """Read rows of the corpora by number."""
        return read_numbered_rows(store, self.corpora, sequences)

    def counted(self, store: Store, sequence: int, special: Sequence[int]) -> Bool[np.ndarray, " n_pos"]:
        """Which positions of a row count; the row is given by its number through all corpora."""
        corpus = next(one for one in reversed(self.corpora) if one.first_row <= sequence)
        row = sequence - corpus.first_row
        return counted_positions(store, corpus.corpus_id, Block(row, row + 1), special, self.counting)[0]

    def chosen_features(self, store: Store, layer: int) -> Int64[np.ndarray, " n"]:
        """The features of a layer that are attributed: as many as the settings say of those that fired, drawn at random
        (seeded), in the order of the draw."""
        fired = _fired(store, tuple(self.sampled_shards(layer)))
        order = np.random.default_rng([self.settings.seed, layer]).permutation(self.d_transcoder)
        if self.only is not None:
            fired = np.intersect1d(fired, np.array(self.only.get(layer, ()), np.int64))
        return order[np.isin(order, fired)][: self.settings.features_per_layer]


@lru_cache(maxsize=128)
def _fired(store: Store, keys: tuple[ShardKey, ...]) -> Int64[np.ndarray, " n"]:
    """Features that were active at least once."""
    table = read_parts([store.part("features", key) for key in keys], ["feature", "n_active"])
    return table["feature"].to_numpy()[table["n_active"].to_numpy() > 0]


def as_tensor(values: np.ndarray, device: str) -> Tensor:
    """An array as a tensor on a device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
