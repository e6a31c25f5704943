"""Make a layer's decoys, and record in the catalog what they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.activations.positions import counted_in_rows
from interp.activations.settings import ActivationSettings
from interp.capture import HookedModel, read_inputs
from interp.decoys import biases_for, make_decoys
from interp.transcoder import Transcoder
from storage.catalog.database import insert_row, open_catalog
from storage.checkpoints import open_checkpoint
from storage.checksums import NAME, UNSTAMPED, stamp
from storage.corpora.corpus import corpus_attributes, read_chosen_rows
from storage.corpora.packing import PADDING
from storage.formats.circuit_tracer import layer_tensors
from storage.store import Store, read_as, whole_file, write_json
from tasks.activations.corpora import TOKENS_PER_BATCH
from tasks.loaded_models import loaded_model
from tasks.shard_task import shard_task

VERSION = 1
"""Raise it when the same features would get other decoys."""

CALIBRATION_TOKENS = 1 << 16
"""Tokens of the corpus on which decoys are given the density of real features."""


@dataclass(frozen=True)
class DecoysJob:
    """What decoys are made from, and how many of them."""

    recipe: str
    checkpoint_id: str
    model_path: Path
    corpus_id: str
    """The corpus id in the tables."""
    first_corpus: str
    """The corpus on which their densities are set."""
    counted: ActivationSettings
    per_layer: int
    seed: int

    def folder(self, store: Store) -> Path:
        """The folder of the decoys."""
        return store.trained_transcoders(self.recipe)


@shard_task("make-decoys", "make decoys L{layer:02d}")
def make_layer(store: Store, job: DecoysJob, layer: int) -> int:
    """Write a layer's decoys as a transcoder, and a file that says what they are.

    Memory: the model, the layer's transcoder, and `CALIBRATION_TOKENS` pre-activations of each decoy.

    Raises:
        ValueError: the layer has only one feature.
    """
    weights, about = job.folder(store) / f"layer_{layer}.safetensors", _about(store, job, layer)
    if weights.exists() and about.exists():
        return layer
    checkpoint = open_checkpoint(store, job.checkpoint_id)
    query = """SELECT feature, density FROM features WHERE checkpoint_id = ? AND corpus_id = ? AND layer = ?
               AND n_active > 0 ORDER BY feature"""
    with open_catalog(store.catalog) as connection:
        densities = dict(connection.execute(query, [job.checkpoint_id, job.corpus_id, layer]).fetchall())
    if not densities:  # in a layer without active features, decoys are active once
        densities = dict.fromkeys(range(checkpoint.d_transcoder), 0.0)
    transcoder = checkpoint.transcoder(layer)
    among = torch.tensor(list(densities), dtype=torch.int64)
    decoys = make_decoys(transcoder.W_enc, transcoder.W_dec, among, job.per_layer, job.seed + layer)
    density = torch.tensor([densities[feature] for feature in decoys.source.tolist()])
    b_enc = biases_for(_pre_activations(store, job, layer, decoys.W_enc), density)
    zeros = torch.zeros(decoys.W_dec.shape[1])
    fake = Transcoder(W_enc=decoys.W_enc, b_enc=b_enc, W_dec=decoys.W_dec, b_dec=zeros, activation="relu")
    weights.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(weights) as partial:
        save_file(layer_tensors(fake), partial, {NAME: UNSTAMPED})
        stamp(partial)
    columns = zip(decoys.kind, decoys.source.tolist(), decoys.decoder.tolist(), density.tolist(), strict=True)
    rows = [
        {
            "decoy": at, "kind": kind, "source_feature": source,
            "decoder_feature": decoder if kind == "recombined" else None, "density": share,
        }
        for at, (kind, source, decoder, share) in enumerate(columns)
    ]  # fmt: skip
    write_json(about, {"decoys": rows})
    return layer


def _about(store: Store, job: DecoysJob, layer: int) -> Path:
    return job.folder(store) / f"layer_{layer}.decoys.json"


def _pre_activations(store: Store, job: DecoysJob, layer: int, W_enc: Tensor) -> Tensor:
    """The products of encoder rows with the inputs at the tokens that count, in some rows that statistics are from."""
    attributes = corpus_attributes(store, job.first_corpus)
    n_rows = min(attributes.n_sequences, max(1, CALIBRATION_TOKENS // attributes.n_pos))
    chosen = np.sort(np.random.default_rng([job.seed, layer]).choice(attributes.n_sequences, n_rows, replace=False))
    rows = read_chosen_rows(store, job.first_corpus, chosen)
    folder, model = loaded_model(job.model_path)
    special = folder.tokenizer.all_special_ids
    counted = counted_in_rows(rows.tokens, rows.documents, rows.documents[:0], special, job.counted)
    hooked = HookedModel(model, folder.family, open_checkpoint(store, job.checkpoint_id).hooks)
    found: list[Tensor] = []
    step = max(1, TOKENS_PER_BATCH // attributes.n_pos)
    for start in range(0, n_rows, step):
        tokens = rows.tokens[start : start + step]
        real = torch.from_numpy(np.where(tokens == PADDING, 0, tokens))
        kept = torch.from_numpy(counted[start : start + step])
        read_inputs(hooked, real, [layer], lambda _, x, kept=kept: found.append(x[kept].float() @ W_enc.T))
    return torch.cat(found)


class _About(NamedTuple):
    """The stored description of a layer's decoys."""

    decoys: list[dict[str, object]]
    """Rows of the table, without the checkpoints and the layer."""


@shard_task("load-decoys", "load decoys")
def load_decoys(store: Store, job: DecoysJob, decoy_checkpoint_id: str, layers: Sequence[int]) -> int:
    """Record in the catalog what the decoys are, replacing the checkpoint's earlier ones; returns their number."""
    key = {"checkpoint_id": job.checkpoint_id, "decoy_checkpoint_id": decoy_checkpoint_id}
    rows: list[dict[str, object]] = [
        {**key, "layer": layer, **row} for layer in layers for row in read_as(_about(store, job, layer), _About).decoys
    ]
    with open_catalog(store.catalog, write=True) as connection:
        connection.execute("DELETE FROM decoys WHERE checkpoint_id = ?", [job.checkpoint_id])
        for row in rows:
            insert_row(connection, "decoys", row)
    return len(rows)
