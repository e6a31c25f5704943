"""How good every description is, on text that it was not made from."""

from dataclasses import dataclass
from functools import cached_property

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from configs.run import RunConfig
from flows import activations
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.reports.evaluation import write_report
from flows.running.engine import n_workers, wait_for_all
from flows.running.llm_budget import answer_all, model_name
from flows.running.stage import stage_recorded, store_held
from flows.subject.subject import Subject, identify, open_source
from interp.descriptions.llm_questions import PROMPT_VERSION
from interp.fade.model_judge import TEXTS_PER_WRITING
from storage.catalog.database import loaded_recipe, open_catalog
from storage.catalog.runs import new_run_id
from storage.checkpoints import open_checkpoint
from storage.recipes import short_hash
from storage.store import ShardKey
from tasks.describe.describe import loaded_name as loaded_descriptions
from tasks.describe.evidence import SampledCorpus
from tasks.evaluation import held_out, judge, score
from tasks.evaluation.held_out import JudgeJob, read_layer, steer_features
from tasks.evaluation.judge import forget_unjudged, is_judged, judge_layer
from tasks.evaluation.score import load_scores, loaded_name, score_layer
from tasks.llm.anthropic_prices import estimate

JUDGE_S = 0.004
"""Seconds to judge one description by rule."""

SCORE_S = 0.004
"""Seconds to work out the figures of one."""

CHARACTERS_PER_TEXT = 160
"""Of a natural text."""

CHARACTERS_OF_TASK = 900
"""Of a question's instructions."""

MIN_METHODS = 8
"""Methods that are judged where the configuration does not say which."""


@dataclass(frozen=True)
class Work:
    """What is judged, under which recipe."""

    subject: Subject

    @property
    def explainer(self) -> str:
        config = self.subject.config
        return config.evaluate.explainer or config.describe.explainer

    @property
    def corpus_id(self) -> str:
        return activations.Work(self.subject).corpus_id

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Those asked for, or all that have descriptions."""
        asked, catalog = self.subject.config.evaluate.methods, self.subject.store.catalog
        if asked is not None or not catalog.is_file():
            return tuple(asked or ())
        query = """SELECT DISTINCT method FROM descriptions WHERE checkpoint_id = ? AND method <> 'weightlens-soft'
                   AND ((explainer = ? AND corpus_id = ?) OR corpus_id IS NULL) ORDER BY method"""
        with open_catalog(catalog) as connection:
            parameters = [self.subject.checkpoint_id, self.explainer, self.corpus_id]
            return tuple(row[0] for row in connection.execute(query, parameters).fetchall())

    @cached_property
    def material_recipe(self) -> str:
        """Names what is judged on: it depends on which features have descriptions, not on who judges."""
        config, store, checkpoint_id = self.subject.config, self.subject.store, self.subject.checkpoint_id
        words = loaded_recipe(store.catalog, f"{checkpoint_id} {self.corpus_id}", loaded_descriptions(self.explainer))
        described = [loaded_recipe(store.catalog, checkpoint_id, "weightlens"), words]
        return short_hash(
            checkpoint=checkpoint_id,
            corpora=[one.corpus_id for one in activations.Work(self.subject).passes],
            held_out=config.corpus.held_out,
            described=described,
            methods=self.methods,
            explainer=self.explainer,
            how=config.evaluate.how,
            version=held_out.VERSION,
        )

    @cached_property
    def judged_recipe(self) -> str:
        """Names what the judge says of it."""
        config = self.subject.config
        return short_hash(
            material=self.material_recipe,
            judge=config.evaluate.judge,
            model=model_name(config, self.subject.store, config.evaluate.judge),
            controls=config.evaluate.controls,
            version=[judge.VERSION, PROMPT_VERSION],
        )

    @cached_property
    def recipe(self) -> str:
        """The recipe of the whole stage: figures that follow from what the judge said."""
        config = self.subject.config
        halves = [config.describe.evidence, config.describe.rule, config.wording]
        return short_hash(judged=self.judged_recipe, halves=halves, version=score.VERSION)

    @property
    def task(self) -> JudgeJob:
        config = self.subject.config
        work = activations.Work(self.subject)
        return JudgeJob(
            checkpoint_id=self.subject.checkpoint_id,
            model_path=self.subject.source.model.path,
            sampled_corpus=SampledCorpus(work.corpus_id, tuple(one.corpus_id for one in work.passes)),
            held_out=config.corpus.held_out,
            material_recipe=self.material_recipe,
            judged_recipe=self.judged_recipe,
            explainer=self.explainer,
            methods=self.methods,
            controls=config.evaluate.controls,
            judge=config.evaluate.judge,
            model=model_name(config, self.subject.store, config.evaluate.judge),
            how=config.evaluate.how,
            evidence=config.describe.evidence,
            rule=config.describe.rule,
            wording=config.wording,
        )

    @property
    def layers(self) -> range:
        return range(self.subject.attributes.n_layers)

    def keys(self, recipe: str) -> list[ShardKey]:
        """A task a layer."""
        return [ShardKey(recipe, layer, 0, self.subject.attributes.d_transcoder) for layer in self.layers]


def is_done(subject: Subject) -> bool:
    """Whether the catalog already holds what the configuration asks for."""
    work = Work(subject)
    name = loaded_name(work.explainer, subject.config.evaluate.judge)
    return loaded_recipe(subject.store.catalog, f"{subject.checkpoint_id} {work.corpus_id}", name) == work.recipe


def todo(subject: Subject) -> dict[str, int]:
    """Step by step, how many tasks are left."""
    work, store = Work(subject), subject.store
    task = work.task
    left = [key.layer for key in work.keys(work.judged_recipe) if not is_judged(store, task, key)]
    steering = [key for layer in left for key in task.steered_keys(layer)]
    return {
        "read held-out": sum(not task.natural_path(store, layer).exists() for layer in left),
        "steer": sum(not task.steered_path(store, key).exists() for key in steering),
        "judge": len(left),
        "score": sum(not store.part("scores", key).exists() for key in work.keys(work.recipe)),
    }


def costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """What each step takes, by its name."""
    how, workers = config.evaluate.how, n_workers(config.engine)
    steering = how.faithfulness
    n_features = min(how.features_per_layer, sizes.d_transcoder)
    n_steered = min(steering.features_per_layer, n_features) * sizes.n_layers
    layer = sizes.d_transcoder * sizes.d_model * 8
    read = how.n_texts * how.text_tokens * (sizes.model_flops / 2 + 2 * n_features * sizes.d_model)
    rows = n_steered * len(steering.factors) * steering.n_prompts
    written = rows * (steering.prompt_tokens + steering.new_tokens) * sizes.model_flops
    n_descriptions = n_described(config, sizes)
    n_own = n_descriptions / (2 if "shuffled" in config.evaluate.controls else 1)
    synthetic = n_own * how.n_synthetic * 12 * sizes.model_flops / 2
    usd = 0.0
    if config.evaluate.judge == "anthropic":
        usd = questions_usd(config, n_own, n_descriptions, n_steered / max(1, n_features * sizes.n_layers))
    tokens = 8 * how.n_texts * how.text_tokens
    return {
        "read held-out": Cost(
            sizes.n_layers, sizes.n_layers * read / rates.products, 0, sizes.model_bytes, layer + tokens
        ),
        "steer": Cost(
            sizes.n_layers * -(-min(steering.features_per_layer, n_features) // 5),
            written / rates.products,
            4 * rows * steering.new_tokens / 3,
            sizes.model_bytes,
            layer,
        ),
        "judge": Cost(
            sizes.n_layers,
            n_descriptions * JUDGE_S / workers + synthetic / rates.products,
            n_descriptions * 2_500,
            sizes.model_bytes,
            layer + 500e6,
            usd,
        ),
        "score": Cost(sizes.n_layers, n_descriptions * SCORE_S / workers, n_descriptions * 400, 0, 200e6),
    }


def n_described(config: RunConfig, sizes: Sizes) -> float:
    """Descriptions that are judged, wrong ones included."""
    n_features = min(config.evaluate.how.features_per_layer, sizes.d_transcoder) * sizes.n_layers
    methods = len(config.evaluate.methods or ()) or MIN_METHODS
    shuffled = 2 if "shuffled" in config.evaluate.controls else 1
    return n_features * (methods * shuffled + ("constant" in config.evaluate.controls))


def questions_usd(config: RunConfig, n_own: float, n_descriptions: float, steered_share: float) -> float:
    """What a language model as judge costs, about."""
    how, step = config.evaluate.how, config.evaluate.how.texts_per_question
    texts = how.n_rated + how.n_fuzzed + how.n_simulated
    texts += steered_share * len(how.faithfulness.factors) * how.faithfulness.n_prompts
    n_writing, n_rating = n_own * -(-how.n_synthetic // TEXTS_PER_WRITING), n_descriptions * texts / step
    characters = (n_writing + n_rating) * CHARACTERS_OF_TASK + n_descriptions * texts * CHARACTERS_PER_TEXT
    tokens = n_writing * 600 + n_rating * (40 + 20 * step)
    return estimate(round(n_writing + n_rating), characters, tokens, config.anthropic).usd


def perform(subject: Subject, run_id: str) -> None:
    """Read held-out text, steer the model, have every description judged, load the catalog.

    Raises:
        ValueError: nothing is described, or the questions cost more than the budget.
    """
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    open_checkpoint(store, checkpoint_id)
    work = Work(subject)
    if not work.methods:
        raise ValueError("evaluate: the catalog holds no descriptions; run weightlens or describe first")
    recipe, corpus_id = work.recipe, work.corpus_id
    with stage_recorded(config, store, "evaluate", run_id, recipe, checkpoint_id=checkpoint_id, corpus_id=corpus_id):
        activations.tokenise(subject)
        task, judged, scored = work.task, work.keys(work.judged_recipe), work.keys(recipe)
        for key, scores in zip(judged, scored, strict=True):
            forget_unjudged(store, task, key, scores)
        wait_for_all([read_layer.submit(store, task, layer) for layer in work.layers], "evaluate: read held-out")
        steering = [key for layer in work.layers for key in task.steered_keys(layer)]
        wait_for_all([steer_features.submit(store, task, key) for key in steering], "evaluate: steer")
        answer_all(
            config, store, config.evaluate.judge, run_id, judged,
            lambda key, unanswered: judge_layer.submit(store, task, key, unanswered), "evaluate: judge",
        )  # fmt: skip
        wait_for_all([score_layer.submit(store, task, key) for key in scored], "evaluate: score")
        load_scores(store, task, run_id, scored, judged)
        text = write_report(store, recipe, [checkpoint_id, corpus_id, task.explainer, task.judge])
        create_markdown_artifact(text, key="descriptions-judged")


@flow(name="evaluate", flow_run_name="evaluate descriptions of {config.name}")
def evaluate(config: RunConfig) -> str:
    """Judge the descriptions of a checkpoint; returns its id."""
    subject = identify(open_source(config))
    open_checkpoint(subject.store, subject.checkpoint_id)
    if not is_done(subject):
        with store_held(config, subject.store, f"evaluate {config.name}"):
            perform(subject, new_run_id())
    return subject.checkpoint_id
