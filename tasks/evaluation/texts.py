"""Draw the natural texts that descriptions are judged on: held out, and without near-duplicates of other text."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from interp.duplicates import shares_found
from interp.fade.settings import EvaluateSettings
from interp.fade.texts import pieces, rows_of
from storage.archives import read_arrays, write_arrays
from storage.checkpoints import open_checkpoint
from storage.corpora.corpus import HELD_OUT, corpus_attributes, read_chosen_rows, read_rows
from storage.store import Store
from tasks.evaluation.job import JudgeJob
from tasks.shard_task import shard_task

POSITIONS_AT_ONCE = 1 << 17
"""Positions of the text for statistics that are compared at a time."""


class LeftOut(NamedTuple):
    """The number of texts before any was left out, and of those left out."""

    n_texts: int
    n_near_duplicates: int
    """Texts that also occur in the part of the corpus that statistics and samples are computed from."""
    n_repeated: int
    """Texts that occur a second time in the held-out part."""


class DrawnTexts(NamedTuple):
    """Natural texts as tokens, and how many were left out."""

    texts: list[list[int]]
    left_out: LeftOut


class TextsJob(NamedTuple):
    """The corpora that texts are drawn from, and how many."""

    corpora: tuple[str, ...]
    bos: int | None
    how: EvaluateSettings


@shard_task("draw-texts", "draw held-out texts")
def draw_texts(store: Store, task: JudgeJob) -> int:
    """Draw texts of documents that no statistic or sample was computed from, an equal share from each corpus; returns
    their number. Memory: twice as many texts, and the memory of `shares_found`."""
    path = task.texts_path(store)
    if not path.exists():
        corpora, bos = task.sampled_corpus.corpora, open_checkpoint(store, task.checkpoint_id).bos
        found = [of_corpus(store, TextsJob(corpora, bos, task.how), at) for at in range(len(corpora))]
        texts = [text for one in found for text in one.texts]
        left_out = np.array([one.left_out for one in found], np.int64).sum(0)
        write_arrays(path, {"texts": rows_of(texts, [], task.how.text_tokens), "left_out": left_out})
    return len(drawn_texts(store, task).texts)


def drawn_texts(store: Store, task: JudgeJob) -> DrawnTexts:
    """Read the texts that `draw_texts` wrote."""
    arrays = read_arrays(task.texts_path(store))
    return DrawnTexts([row[row >= 0].tolist() for row in arrays["texts"]], LeftOut(*arrays["left_out"].tolist()))


def of_corpus(store: Store, job: TextsJob, at: int) -> DrawnTexts:
    """Texts from one of the corpora.

    Raises:
        ValueError: none of its documents are held out.
    """
    corpus_id, how = job.corpora[at], job.how
    share = -(-how.n_texts // len(job.corpora))
    attributes = corpus_attributes(store, corpus_id)
    n_held_out = attributes.n_held_out_sequences
    if not n_held_out:
        why = f"found no documents to hold out in {attributes.source}" if attributes.held_out else "is 0"
        raise ValueError(f"corpus.held_out {why}; descriptions are judged on held-out text only")
    random = np.random.default_rng([how.seed, at])
    n_rows = min(n_held_out, 2 * (-(-share * how.text_tokens // attributes.n_pos)) + 1)
    rows = np.sort(random.choice(n_held_out, n_rows, replace=False))
    read = read_chosen_rows(store, corpus_id, rows, HELD_OUT)
    texts = list(pieces(read.tokens, read.documents, job.bos, how.text_tokens))
    copied = np.zeros(len(texts), bool)
    if how.max_copied < 1:
        copied = shares_found(texts, _explained_rows(store, corpus_id)) > how.max_copied
    first = {tuple(text): place for place, text in reversed(list(enumerate(texts)))}
    repeated = np.array([first[tuple(text)] != place for place, text in enumerate(texts)], bool)
    kept = np.flatnonzero(~copied & ~repeated)
    chosen = np.sort(random.permutation(kept)[:share])
    left_out = LeftOut(len(texts), int(copied.sum()), int((repeated & ~copied).sum()))
    return DrawnTexts([texts[place] for place in chosen], left_out)


def _explained_rows(store: Store, corpus_id: str) -> Iterator[np.ndarray]:
    """The tokens of the rows that statistics, samples and so descriptions are computed from."""
    attributes = corpus_attributes(store, corpus_id)
    step = max(1, POSITIONS_AT_ONCE // attributes.n_pos)
    for start in range(0, attributes.n_sequences, step):
        yield read_rows(store, corpus_id, start, min(start + step, attributes.n_sequences)).tokens
