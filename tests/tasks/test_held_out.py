"""Texts that are read on their own, against the rows of the corpus pass: the same positions count."""

from pathlib import Path

import numpy as np
import pytest

from flows.recipes.activations import ActivationsRecipe
from storage.activations import open_block
from storage.checkpoints import open_checkpoint
from storage.corpora.corpus import read_rows
from storage.models import open_model
from tasks.activations.corpus_pass import PassJob, activations_block
from tasks.evaluation.text_activations import Wanted, counted_tokens, read_activations
from tests.tasks.demo_store import ingested


@pytest.mark.parametrize("bos", ["auto", "none"])
def test_a_row_read_as_a_text_is_active_where_the_corpus_pass_says(tmp_path: Path, bos: str) -> None:
    """Also in a model without BOS, whose first token does not count in either."""
    plan = ingested(tmp_path, "corpus.max_tokens=400", "corpus.n_pos=16", f"model.bos={bos}")
    store, checkpoint_id, layer = plan.store, plan.checkpoint_id, 1
    [corpus_pass] = ActivationsRecipe(plan).passes
    block = corpus_pass.blocks(store)[0]
    model = plan.inputs.model.path
    activations_block.fn(store, PassJob(checkpoint_id, model, plan.config.activations), corpus_pass, block)
    every = open_block(store, corpus_pass.recipe, block).features(layer, 0, 1024)
    checkpoint, settings = open_checkpoint(store, checkpoint_id), plan.config.activations
    rows = read_rows(store, corpus_pass.corpus_id, block.start, block.stop).tokens
    special = open_model(model).tokenizer.all_special_ids
    whole = [row for row in range(len(rows)) if not np.isin(rows[row, 1:], [-1, *special]).any()]
    before = int(bos == "auto")  # of a text, what stands before it is put there and not counted as its own
    texts = [rows[row, before:].tolist() for row in whole]
    found = read_activations(Wanted(checkpoint, model, {layer: np.arange(1024)}, settings), texts)[layer]

    place = {row: text for text, row in enumerate(whole)}
    feature = np.repeat(np.arange(1024), np.diff(every.indptr))
    row, at = np.divmod(every.token, 16)
    expected = {(f, place[r], p - before) for f, r, p in zip(feature, row, at, strict=True) if r in place}
    got = set(zip(found.feature.tolist(), found.text.tolist(), found.place.tolist(), strict=True))
    assert len(expected) > 1000
    assert len(expected ^ got) < 0.001 * len(expected)  # those whose activation is about 0
    counted = counted_tokens(checkpoint, model, texts, 16 - before, settings)
    assert counted.all(0).tolist() == [bos == "auto", *[True] * (15 - before)]
