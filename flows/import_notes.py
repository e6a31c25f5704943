"""Import descriptions that a person wrote in the explorer, as the method `human`."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import duckdb
from pydantic import BaseModel, Field, ValidationError

from flows.inputs.named import chosen_checkpoint
from storage.bucket.working_copy import hold
from storage.catalog.database import (
    check_catalog,
    first_line,
    insert_row,
    loaded_subject,
    mark_loaded,
    open_catalog,
)
from storage.catalog.published import open_published, publish
from storage.foreign import parse_json, read_bytes
from storage.hashing import short_hash
from storage.store import Store
from tasks.describe.describe import loaded_name

HUMAN = "human"
MAX_BYTES = 256_000_000


class Description(BaseModel):
    """A line of the file that describes a feature; its other fields are ignored."""

    layer: Annotated[int, Field(ge=0, le=1000)]
    feature: Annotated[int, Field(ge=0, le=100_000_000)]
    text: Annotated[str, Field(min_length=1, max_length=2000)]
    created_at: datetime


def import_notes(store: Store, file: Path, checkpoint: str | None) -> int:
    """Import the descriptions in a file of notes, the newest for each feature; returns their number.

    They get the id of the corpus that the checkpoint's features were run on last, like those of other methods.

    Raises:
        ValueError: the file is not one of notes, or none of them is about the checkpoint.
    """
    check_catalog(store.catalog)
    with open_published(store.catalog) as connection:
        chosen = chosen_checkpoint(connection, checkpoint)
        checkpoint_id, name = chosen.checkpoint_id, chosen.name
        query = """SELECT f.corpus_id FROM (SELECT DISTINCT corpus_id FROM features WHERE checkpoint_id = ?) f
                   ORDER BY (SELECT max(started_at) FROM runs r WHERE r.corpus_id = f.corpus_id) DESC NULLS LAST"""
        corpus = connection.execute(query, [checkpoint_id]).fetchone()
    found: dict[tuple[int, int], Description] = {}
    for note in _descriptions(file, checkpoint_id):
        if (problem := chosen.no_feature(note.layer, note.feature)) is not None:
            raise ValueError(f"{file}: {problem}")
        found[note.layer, note.feature] = note
    if not found:
        raise ValueError(f"{file} has no description of a feature of {name} ({checkpoint_id})")
    with hold(store, "import notes", everything=False):
        with open_catalog(store.catalog, write=True) as connection:
            for note in found.values():
                insert_row(connection, "descriptions", {
                    "checkpoint_id": checkpoint_id, "corpus_id": corpus[0] if corpus else None, "layer": note.layer,
                    "feature": note.feature, "method": HUMAN, "explainer": HUMAN, "cluster": -1, "text": note.text,
                    "tokens": [], "created_at": note.created_at.replace(tzinfo=None),
                })  # fmt: skip
            _name_what_is_said(connection, checkpoint_id, corpus[0] if corpus else None)
        publish(store.catalog)
    return len(found)


def _name_what_is_said(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, corpus_id: str | None) -> None:
    """Record people's descriptions as a stage's output, so that they are judged again when they change."""
    query = """SELECT layer, feature, text FROM descriptions WHERE checkpoint_id = ? AND method = ?
               AND corpus_id IS NOT DISTINCT FROM ? ORDER BY layer, feature"""
    said = connection.execute(query, [checkpoint_id, HUMAN, corpus_id]).fetchall()
    mark_loaded(connection, loaded_subject(checkpoint_id, corpus_id), loaded_name(HUMAN), short_hash(said=said))


def _descriptions(file: Path, checkpoint_id: str) -> list[Description]:
    """The descriptions of a checkpoint's features in a file of notes, in its order."""
    found = []
    for number, line in enumerate(read_bytes(file, MAX_BYTES).splitlines(), 1):
        note = parse_json(line, f"{file}: line {number}") if line.strip() else {}
        if not isinstance(note, dict):
            raise ValueError(f"{file}: line {number} is not a JSON object; expected a file exported by the explorer")
        if note.get("kind") == "description" and note.get("checkpoint_id") == checkpoint_id:
            try:
                found.append(Description.model_validate(note))
            except ValidationError as error:
                raise ValueError(f"{file}: line {number} is not a description ({first_line(error)})") from None
    return found
