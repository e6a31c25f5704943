"""The common inputs of the tasks of judging, and the paths of their outputs."""

from dataclasses import dataclass
from pathlib import Path

from interp.activations.settings import ActivationSettings
from interp.descriptions.llm_questions import Instructions
from interp.descriptions.settings import EvidenceSettings, RuleSettings
from interp.fade.settings import EvaluateSettings
from interp.projection import FLOAT32, Arithmetic
from interp.weightlens.settings import WordingSettings
from storage.store import ShardKey, Store
from tasks.describe.draw import Draw
from tasks.describe.evidence import SampledCorpus

FEATURES_STEERED = 5
"""Features in a steering task."""


@dataclass(frozen=True)
class JudgeJob:
    """Everything that the tasks of judging need."""

    checkpoint_id: str
    model_path: Path
    sampled_corpus: SampledCorpus
    counted: ActivationSettings
    """Settings that decide which positions count, as for the statistics."""
    material_recipe: str
    """The recipe of the material, which does not depend on the judge."""
    judged_recipe: str
    """The recipe of the judge's answers."""
    explainer: str
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    judge: str
    model: str | None
    """The model under whose name answers are stored; None for the judge by rule."""
    instructions: Instructions
    """Instructions for the language model, by kind of question."""
    draw: Draw
    embeddings: tuple[str, str | None] | None
    """An embedding model: a folder, or an address with the model's name; None: embeddings are not compared."""
    surprisal: Path | None
    """The folder of a language model; None: surprisals are not computed."""
    how: EvaluateSettings
    evidence: EvidenceSettings
    rule: RuleSettings
    wording: WordingSettings
    arithmetic: Arithmetic = FLOAT32
    n_threads: int = 1
    """Threads of a task that has this process to itself."""

    def folder(self, store: Store) -> Path:
        """The folder of the material, the judge's answers and the scores."""
        return store.root / "evaluation" / self.material_recipe

    def texts_path(self, store: Store) -> Path:
        """The file of the held-out texts."""
        return self.folder(store) / "natural" / "texts.npz"

    def natural_path(self, store: Store, layer: int) -> Path:
        """The file of a layer's activations on the held-out texts."""
        return self.folder(store) / "natural" / f"{layer:02d}.npz"

    def steered_path(self, store: Store, key: ShardKey) -> Path:
        """The file of continuations of some features."""
        return self.folder(store) / "steered" / f"{key.layer:02d}-{key.start}-{key.stop}.npz"

    def judged_path(self, store: Store, layer: int) -> Path:
        """The file of the judge's answers about a layer."""
        return self.folder(store) / "judged" / f"{self.judged_recipe}-{layer:02d}.parquet"

    def written_path(self, store: Store, layer: int) -> Path:
        """The file with features' activations on the texts that were written from a layer's descriptions."""
        return self.folder(store) / "judged" / f"{self.judged_recipe}-{layer:02d}-written.parquet"

    def steered_keys(self, layer: int) -> list[ShardKey]:
        """The tasks of steering, which divide the features by their index in the layer's draw."""
        n, step = min(self.how.faithfulness.features_per_layer, self.how.features_per_layer), FEATURES_STEERED
        return [ShardKey(self.material_recipe, layer, at, min(at + step, n)) for at in range(0, n, step)]
