"""The recipes of the texts that descriptions are judged on, of a judge's answers, and of the scores."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.inputs.language_model import JUDGING, model_name, prompts
from flows.recipes.activations import ActivationsRecipe
from storage.catalog.database import loaded_recipe, loaded_subject, open_catalog
from storage.hashing import fingerprints, short_hash
from storage.store import ShardKey
from tasks.describe.describe import loaded_name as loaded_descriptions
from tasks.evaluation import held_out, judge, score


@dataclass(frozen=True)
class EvaluateRecipe:
    """What is judged, and its recipes."""

    plan: CheckpointPlan

    @cached_property
    def activations(self) -> ActivationsRecipe:
        """The recipe of the samples, which says which features fire and how strongly."""
        return ActivationsRecipe(self.plan)

    @property
    def explainer(self) -> str:
        """The explainer whose descriptions are judged."""
        config = self.plan.config
        return config.evaluate.explainer or config.describe.explainer

    @property
    def corpus_id(self) -> str:
        """The id of the corpus, or of several together."""
        return self.activations.corpus_id

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods asked for, or all that have descriptions."""
        asked, catalog = self.plan.config.evaluate.methods, self.plan.store.catalog
        if asked is not None or not catalog.is_file():
            return tuple(asked or ())
        query = """SELECT DISTINCT method FROM descriptions WHERE checkpoint_id = ? AND method <> 'weightlens-soft'
                   AND ((explainer = ? AND corpus_id = ?) OR corpus_id IS NULL) ORDER BY method"""
        with open_catalog(catalog) as connection:
            parameters = [self.plan.checkpoint_id, self.explainer, self.corpus_id]
            return tuple(row[0] for row in connection.execute(query, parameters).fetchall())

    @cached_property
    def model(self) -> str | None:
        """The language model that is asked; None for the judge by rule."""
        return model_name(self.plan.config, self.plan.store, self.plan.config.evaluate.judge)

    @property
    def surprisal_model(self) -> Path | None:
        """The folder of the model whose surprisal is computed."""
        asked = self.plan.config.evaluate.surprisal
        return self.plan.inputs.model.path if asked == "subject" else asked

    @property
    def _embedder(self) -> tuple[str, str | None] | None:
        """The embedding model; for a folder, by its content."""
        embedder = self.plan.config.evaluate.embedder
        if embedder is None or "://" in embedder[0]:
            return embedder
        return self._content(Path(embedder[0])), None

    def _content(self, folder: Path) -> str:
        """A hash of a model folder's files.

        Raises:
            ValueError: it is not a folder with a config.json.
        """
        if not (folder / "config.json").is_file():
            raise ValueError(f"evaluate: {folder} holds no config.json; expected a transformers model folder")
        files = sorted(path for path in folder.rglob("*") if path.suffix in {".json", ".safetensors", ".txt", ".model"})
        return short_hash(files=fingerprints(self.plan.store, files))

    @cached_property
    def material(self) -> str:
        """The recipe of the material: it depends on which features have descriptions, not on the judge."""
        config, catalog, checkpoint_id = self.plan.config, self.plan.store.catalog, self.plan.checkpoint_id
        described = [
            loaded_recipe(catalog, loaded_subject(checkpoint_id), "weightlens"),
            loaded_recipe(catalog, loaded_subject(checkpoint_id, self.corpus_id), loaded_descriptions(self.explainer)),
        ]
        return short_hash(
            checkpoint=checkpoint_id,
            corpora=[one.corpus_id for one in self.activations.passes],
            counted=config.activations.counted,
            described=described,
            methods=self.methods,
            explainer=self.explainer,
            how=config.evaluate.how,
            sample=config.evaluate.sample,
            version=held_out.VERSION,
            **config.transcoder.narrowed,
        )

    @cached_property
    def judged(self) -> str:
        """The recipe of the judge's answers."""
        config = self.plan.config
        return short_hash(
            material=self.material,
            judge=config.evaluate.judge,
            model=self.model,
            controls=config.evaluate.controls,
            embeddings=self._embedder,
            surprisal=None if self.surprisal_model is None else self._content(self.surprisal_model),
            version=judge.VERSION,
            prompts=prompts(config, JUDGING) if self.model else None,
        )

    @cached_property
    def recipe(self) -> str:
        """The recipe of the whole stage: scores from the judge's answers, and from descriptions of halves of the
        samples. It is separate, so that no question is asked again if only scores change."""
        config = self.plan.config
        halves = [config.describe.evidence, config.describe.rule, config.wording]
        return short_hash(judged=self.judged, halves=halves, version=score.VERSION)

    def keys(self, recipe: str) -> list[ShardKey]:
        """A task for each layer."""
        return [ShardKey(recipe, layer, 0, self.plan.attributes.d_transcoder) for layer in self.plan.layers]
