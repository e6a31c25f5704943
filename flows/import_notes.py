"""Descriptions that a person wrote in the explorer, brought into the catalog as the method `human`."""

import json
from pathlib import Path
from typing import Any

from flows.subject.named import chosen_checkpoint
from storage.bucket.working_copy import hold
from storage.catalog.database import check_catalog, insert_row, open_catalog
from storage.catalog.published import open_published, publish
from storage.store import Store

HUMAN = "human"
MAX_TEXT = 2000


def import_notes(store: Store, file: Path, checkpoint: str | None) -> int:
    """Bring the descriptions of a file of notes into the catalog, the newest of each feature; returns how many.

    They stand under the corpus that the checkpoint's features were run on last, beside what other methods say of it.

    Raises:
        ValueError: the file is not one of notes, or none of them is about the checkpoint.
    """
    check_catalog(store.catalog)
    with open_published(store.catalog) as connection:
        checkpoint_id, name, n_layers, d_transcoder = chosen_checkpoint(connection, checkpoint)[:4]
        query = """SELECT f.corpus_id FROM (SELECT DISTINCT corpus_id FROM features WHERE checkpoint_id = ?) f
                   ORDER BY (SELECT max(started_at) FROM runs r WHERE r.corpus_id = f.corpus_id) DESC NULLS LAST"""
        corpus = connection.execute(query, [checkpoint_id]).fetchone()
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for number, note in enumerate(_notes(file), 1):
        if note.get("kind") != "description" or note.get("checkpoint_id") != checkpoint_id:
            continue
        layer, feature, text = note.get("layer"), note.get("feature"), note.get("text")
        fits = isinstance(layer, int) and isinstance(feature, int) and isinstance(text, str)
        if not fits or not (0 <= layer < n_layers and 0 <= feature < d_transcoder and 0 < len(text) <= MAX_TEXT):
            raise ValueError(f"{file}: line {number} is no description of a feature of {name}: {str(note)[:200]}")
        found[layer, feature] = note
    if not found:
        raise ValueError(f"{file} has no description of a feature of {name} ({checkpoint_id})")
    with hold(store, "import notes", everything=False):
        with open_catalog(store.catalog, write=True) as connection:
            for (layer, feature), note in found.items():
                insert_row(connection, "descriptions", {
                    "checkpoint_id": checkpoint_id, "corpus_id": corpus[0] if corpus else None, "layer": layer,
                    "feature": feature, "method": HUMAN, "explainer": HUMAN, "cluster": -1, "text": note["text"],
                    "tokens": [], "created_at": note.get("created_at"),
                })  # fmt: skip
        publish(store.catalog)
    return len(found)


def _notes(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not a file of notes as the explorer exports them ({str(error)[:200]})") from None
    if not all(isinstance(line, dict) for line in lines):
        raise ValueError(f"{file}: expected one JSON object a line")
    return lines
