"""Compare a description with natural texts by models other than the judge: similarity of embeddings, and how much the
description raises the texts' likelihood."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from interp.fade.judging import Compared, Material
from interp.fade.surprisal import gains
from storage.search.embedders import Embedder, open_embedder
from tasks.device_memory import turn_on
from tasks.evaluation.job import JudgeJob
from tasks.loaded_models import loaded_model


class Comparison:
    """Compares descriptions with a layer's texts; a text is embedded once.

    Memory: the models, and a vector for each text and description.
    """

    def __init__(self, task: JudgeJob, texts: Sequence[str]) -> None:
        self._texts = texts
        self._embedder = None if task.embeddings is None else _embedder(*task.embeddings)
        self._vectors = None if self._embedder is None else self._embedder.embed(texts)
        self._of_description = lru_cache(maxsize=None)(self._embedded)
        self._surprisal, self._device = task.surprisal, task.arithmetic.device
        self._gains: dict[tuple[str, int], float] = {}

    def _embedded(self, description: str) -> np.ndarray:
        assert self._embedder is not None
        return self._embedder.embed([description])[0]

    def __call__(self, description: str, of: Material) -> Compared:
        likeness = None if self._vectors is None else self._vectors[of.rated] @ self._of_description(description)
        return Compared(likeness, None if self._surprisal is None else self._gain(self._surprisal, description, of))

    def _gain(self, path: Path, description: str, of: Material) -> np.ndarray:
        new = [int(text) for text in of.compared if (description, int(text)) not in self._gains]
        folder, model = loaded_model(path, self._device)
        with turn_on(self._device):
            found = gains(model, folder.tokenizer, description, [self._texts[text] for text in new])
        self._gains |= {(description, text): gain for text, gain in zip(new, found.tolist(), strict=True)}
        return np.array([self._gains[description, int(text)] for text in of.compared], np.float32)


@lru_cache(maxsize=1)
def _embedder(place: str, model: str | None) -> Embedder:
    return open_embedder(place, model)
