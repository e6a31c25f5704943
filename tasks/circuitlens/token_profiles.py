"""Read the profiles of tokens from a checkpoint, for the lowest layer with features."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Int64

from interp.circuitlens.token_profiles import Probes, TokenProfiles, probes_of, token_profiles
from storage.checkpoints import Checkpoint
from storage.store import ShardKey
from tasks.weightlens.project import COLUMN_BLOCKS, encoder_directions

MOST_FEATURES, MOST_TOKENS = 1024, 4096
"""Largest number of features in a profile, and of tokens over which scores have a mean; evenly spaced if there are
more."""


ROWS = 4096
"""Encoder rows that are read at a time."""


def read_token_profiles(checkpoint: Checkpoint, layer: int, tokens: Int64[np.ndarray, " n"]) -> TokenProfiles | None:
    """Profiles of the tokens by a layer's features; None if there are features below it, or if features do not read the
    residual stream. Memory: `ROWS` encoder rows; `MOST_FEATURES` numbers of 8 bytes, twice, for each token, and the
    tokens' embeddings."""
    if layer != min(checkpoint.layers) or not checkpoint.hooks.reads_stream:
        return None
    wanted = np.unique(tokens)
    return token_profiles(wanted, _embeddings(checkpoint, wanted), _probes(checkpoint, layer))


@lru_cache(maxsize=1)
def _probes(checkpoint: Checkpoint, layer: int) -> Probes:
    feature, parts = _spaced(checkpoint.d_transcoder, MOST_FEATURES), []
    for start in range(0, checkpoint.d_transcoder, ROWS):
        key = ShardKey("", layer, start, min(start + ROWS, checkpoint.d_transcoder))
        here = feature[(feature >= key.start) & (feature < key.stop)]
        parts.append(encoder_directions(checkpoint, key, fold_norms=True)[here - start].numpy())
    vocabulary = _embeddings(checkpoint, _spaced(checkpoint.n_tokens, MOST_TOKENS))
    return probes_of(feature, np.concatenate(parts), vocabulary)


def _spaced(n: int, most: int) -> Int64[np.ndarray, " k"]:
    """Evenly spaced indices below `n`, at most `most`."""
    return np.arange(n) if n <= most else np.arange(most) * n // most


def _embeddings(checkpoint: Checkpoint, tokens: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d_model"]:
    parts = [np.zeros((0, checkpoint.attributes.d_model), np.float32)]
    for start, tile in COLUMN_BLOCKS.tiles(checkpoint, None, "W_E", checkpoint.n_tokens):
        here = tokens[(tokens >= start) & (tokens < start + len(tile))]
        parts.append(tile[here - start].float().numpy())
    return np.concatenate(parts)
