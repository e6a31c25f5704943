"""The features of a layer that are most similar to those that are judged."""

from typing import NamedTuple

import numpy as np

from interp.fade.harder import LOOK_ALIKES, nearest_by_decoder, nearest_by_tokens
from storage.catalog.database import open_catalog
from storage.checkpoints import open_checkpoint
from storage.store import Store
from tasks.evaluation.job import JudgeJob


class NearestFeatures(NamedTuple):
    """For each of some features the nearest others, as (feature, rank); −1 where there is none."""

    by_decoder: np.ndarray
    by_tokens: np.ndarray

    @classmethod
    def none(cls, n: int) -> "NearestFeatures":
        """No similar features, for `n` features."""
        nothing = np.full((n, LOOK_ALIKES), -1)
        return cls(nothing, nothing)


def nearest_features(store: Store, task: JudgeJob, layer: int, features: np.ndarray) -> NearestFeatures:
    """The nearest features in a layer, among those that were active on the corpus.

    Tokens are WeightLens's candidates on the input side; if that stage has not run, no feature is near by tokens.
    """
    checkpoint = open_checkpoint(store, task.checkpoint_id)
    key = [task.checkpoint_id, layer]
    with open_catalog(store.catalog) as connection:
        query = "SELECT feature FROM features WHERE checkpoint_id = ? AND layer = ? AND corpus_id = ? AND is_dead"
        dead = connection.execute(query, [*key, task.sampled_corpus.corpus_id]).fetchall()
        query = """SELECT feature, token_id FROM token_candidates WHERE checkpoint_id = ? AND layer = ?
                   AND side = 'input' AND sign = 1 ORDER BY ALL"""
        found = connection.execute(query, key).fetchnumpy()
    among = np.ones(checkpoint.d_transcoder, bool)
    among[[row[0] for row in dead]] = False
    candidates = np.stack([np.asarray(found[name], np.int64) for name in ("feature", "token_id")], 1)
    W_dec = checkpoint.rows(layer, "W_dec", 0, checkpoint.d_transcoder).float().numpy()
    return NearestFeatures(nearest_by_decoder(W_dec, features, among), nearest_by_tokens(candidates, features, among))
