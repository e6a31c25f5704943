"""The estimated cost of describing or judging every feature, from the cost of a random sample of features."""

from typing import NamedTuple

from flows.inputs.language_model import EXPLAINING, JUDGING
from storage.catalog.database import open_catalog
from storage.store import Store

PURPOSES = {"describe": EXPLAINING, "evaluate": JUDGING}
"""The purposes for which a stage asks language models."""


class Extrapolation(NamedTuple):
    """Cost and number of features of the newest run of a stage, and the number of all features that fire."""

    usd: float
    n_sampled: int
    n_all: int

    @property
    def usd_for_all(self) -> float:
        """Estimated cost in USD for every feature that fires on the corpus."""
        return self.usd / max(1, self.n_sampled) * self.n_all

    def sentence(self, verb: str) -> str:
        """For people."""
        return (
            f"{self.n_sampled} features {verb} for ${self.usd:,.4f}; all {self.n_all:,} that fire on the corpus would "
            f"cost about ${self.usd_for_all:,.2f}"
        )


def extrapolated(store: Store, checkpoint_id: str, stage: str) -> Extrapolation | None:
    """The cost of the stage under its newest recipe, over all its runs; None if it has not finished."""
    with open_catalog(store.catalog) as connection:
        newest = connection.execute(
            "SELECT recipe, corpus_id FROM runs WHERE stage = ? AND checkpoint_id = ? AND status = 'completed' "
            "ORDER BY started_at DESC LIMIT 1",
            [stage, checkpoint_id],
        ).fetchone()
        if newest is None:
            return None
        recipe, corpus_id = newest
        usd = connection.execute(
            "SELECT coalesce(sum(cost_usd), 0) FROM llm_calls WHERE purpose IN (SELECT unnest(?)) AND run_id IN "
            "(SELECT run_id FROM runs WHERE stage = ? AND recipe = ?)",
            [list(PURPOSES[stage]), stage, recipe],
        ).fetchone()
        table = "descriptions" if stage == "describe" else "scores"
        who = "explainer NOT IN ('tokens', 'authors')" if stage == "describe" else "judge NOT IN ('rule', 'none')"
        sampled = connection.execute(
            f"SELECT count(DISTINCT (layer, feature)) FROM {table} WHERE checkpoint_id = ? AND corpus_id = ? AND {who}",
            [checkpoint_id, corpus_id],
        ).fetchone()
        every = connection.execute(
            "SELECT count(*) FROM features WHERE checkpoint_id = ? AND corpus_id = ? AND NOT is_dead",
            [checkpoint_id, corpus_id],
        ).fetchone()
    assert usd is not None
    assert sampled is not None
    assert every is not None
    return Extrapolation(float(usd[0]), int(sampled[0]), int(every[0]))
