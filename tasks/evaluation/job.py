"""How a stage judges: all that its tasks have to know, and where they leave what they found."""

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
"""Features a steering task."""


@dataclass(frozen=True)
class JudgeJob:
    """How a stage judges: all that its tasks have to know."""

    checkpoint_id: str
    model_path: Path
    sampled_corpus: SampledCorpus
    counted: ActivationSettings
    """Which positions count, as in the statistics."""
    material_recipe: str
    """Names what is judged on, whoever judges."""
    judged_recipe: str
    """Names what a judge said of it."""
    explainer: str
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    judge: str
    model: str | None
    """Who is asked, as the answers are kept under; None for the judge by rule."""
    instructions: Instructions
    """Instructions for the language model, by kind of question."""
    draw: Draw
    embeddings: tuple[str, str | None] | None
    """A model folder or an address with the model's name; None: likenesses are not worked out."""
    surprisal: Path | None
    """The folder of a language model; None: surprisals are not worked out."""
    how: EvaluateSettings
    evidence: EvidenceSettings
    rule: RuleSettings
    wording: WordingSettings
    arithmetic: Arithmetic = FLOAT32
    n_threads: int = 1
    """Threads that a task may use that has this process to itself."""

    def folder(self, store: Store) -> Path:
        return store.root / "evaluation" / self.material_recipe

    def texts_path(self, store: Store) -> Path:
        return self.folder(store) / "natural" / "texts.npz"

    def natural_path(self, store: Store, layer: int) -> Path:
        return self.folder(store) / "natural" / f"{layer:02d}.npz"

    def steered_path(self, store: Store, key: ShardKey) -> Path:
        return self.folder(store) / "steered" / f"{key.layer:02d}-{key.start}-{key.stop}.npz"

    def judged_path(self, store: Store, layer: int) -> Path:
        return self.folder(store) / "judged" / f"{self.judged_recipe}-{layer:02d}.parquet"

    def steered_keys(self, layer: int) -> list[ShardKey]:
        """Steering is shared out by the place of features in the layer's draw."""
        n, step = min(self.how.faithfulness.features_per_layer, self.how.features_per_layer), FEATURES_STEERED
        return [ShardKey(self.material_recipe, layer, at, min(at + step, n)) for at in range(0, n, step)]
