"""Two checkpoints of a store that can be compared."""

from dataclasses import dataclass

from configs.run import RunConfig
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from flows.inputs.named import chosen_checkpoint
from interp.drift import DriftSettings
from storage.bucket.working_copy import refresh
from storage.catalog.published import open_published
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.store import Store


@dataclass(frozen=True)
class Pair:
    """Two checkpoints of a store, the earlier first, and how they are compared."""

    store: Store
    a: Checkpoint
    b: Checkpoint
    config: RunConfig
    """The configuration with which the later one was ingested."""
    plans: tuple[CheckpointPlan, CheckpointPlan] | None
    """Both, as read on the later one's corpus; None: only weights are compared."""
    settings: DriftSettings

    @property
    def ids(self) -> tuple[str, str]:
        """The ids of the two checkpoints, the earlier first."""
        return self.a.checkpoint_id, self.b.checkpoint_id


def open_pair(store: Store, a: str, b: str, settings: DriftSettings) -> Pair:
    """Open two checkpoints by id or name, if they can be compared.

    Raises:
        ValueError: one does not exist, or they differ in shape, hooks or tokenizer.
    """
    refresh(store)
    with open_published(store.catalog) as connection:
        ids = [chosen_checkpoint(connection, wanted)[0] for wanted in (a, b)]
        query = """SELECT config FROM runs WHERE checkpoint_id = ? AND stage = 'ingest' AND status = 'completed'
                   ORDER BY finished_at DESC LIMIT 1"""
        found = [connection.execute(query, [checkpoint_id]).fetchone() for checkpoint_id in ids]
    if ids[0] == ids[1]:
        raise ValueError(f"{a} and {b} are the same checkpoint, {ids[0]}")
    if None in found:
        raise ValueError(f"checkpoint {ids[found.index(None)]} was imported: there are no weights to compare")
    refresh(store, *(f"checkpoints/{checkpoint_id}" for checkpoint_id in ids))
    first, second = (open_checkpoint(store, checkpoint_id) for checkpoint_id in ids)
    for what, value, other in (
        ("layers", first.n_layers, second.n_layers),
        ("ingested layers", first.layers, second.layers),
        ("width", first.attributes.d_model, second.attributes.d_model),
        ("hooks", first.hooks, second.hooks),
    ):
        if value != other:
            raise ValueError(f"{a} and {b} cannot be compared: their {what} are {value} and {other}")
    changes = {"store": store.root}
    configs = [RunConfig.model_validate_json(row[0]).model_copy(update=changes) for row in found if row is not None]
    plans = _on_the_same_text(*configs) if settings.n_positions else None
    for checkpoint_id, plan in zip(ids, plans or (), strict=False):
        if plan.checkpoint_id != checkpoint_id:
            raise ValueError(
                f"checkpoint {checkpoint_id} was read from {plan.inputs.model.path} and {plan.transcoders.path}, "
                "where other files are now; to compare weights only, use --positions 0"
            )
    return Pair(store, first, second, configs[1], plans, settings)


def _on_the_same_text(a: RunConfig, b: RunConfig) -> tuple[CheckpointPlan, CheckpointPlan]:
    shared = {"corpus": b.corpus, "activations": b.activations}
    first, second = (identify(open_inputs(config.model_copy(update=shared))) for config in (a, b))
    if first.inputs.corpus.corpus_id != second.inputs.corpus.corpus_id:
        raise ValueError(
            f"{a.name} and {b.name} have different tokenizers, so their activations cannot be compared token by token; "
            "to compare weights only, use --positions 0"
        )
    return first, second
