"""The stage `evaluate`: judge every description on text that it was not made from."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from configs.run import RunConfig
from flows.costs.evaluate import evaluate_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.import_notes import HUMAN
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.inputs.machine import threads_of_a_lone_task
from flows.recipes.evaluate import EvaluateRecipe
from flows.reports.evaluation import write_report
from flows.running.corpus import tokenise
from flows.running.engine import wait_for_all
from flows.running.llm_budget import Respondent, answer_all
from flows.running.stage import StageOutput, is_loaded, perform_alone
from storage.checkpoints import open_checkpoint
from storage.shared_shards import ReuseCount
from storage.store import missing_shards
from tasks.describe.draw import Draw
from tasks.describe.evidence import SampledCorpus
from tasks.evaluation.held_out import read_layers, steer_features
from tasks.evaluation.job import JudgeJob
from tasks.evaluation.judge import forget_unjudged, is_judged, judge_layer
from tasks.evaluation.score import load_scores, loaded_name, score_layer
from tasks.evaluation.texts import draw_texts
from tasks.evaluation.written import read_written
from tasks.llm.instructions import instructions
from tasks.loaded_models import layers_together


class EvaluateStage:
    """Descriptions judged on held-out text, together with ones that are known to be wrong."""

    name = "evaluate"

    def output(self, plan: CheckpointPlan) -> StageOutput:
        recipe = EvaluateRecipe(plan)
        name = loaded_name(recipe.explainer, plan.config.evaluate.judge)
        return StageOutput(name, recipe.recipe, recipe.corpus_id)

    def is_done(self, plan: CheckpointPlan) -> bool:
        return is_loaded(plan, self.output(plan))

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]:
        recipe, store = EvaluateRecipe(plan), plan.store
        job = _job(recipe)
        left = [key.layer for key in recipe.keys(recipe.judged) if not is_judged(store, job, key)]
        unscored = missing_shards(store, recipe.keys(recipe.recipe), ("scores",))
        return {
            "draw texts": int(bool(left) and not job.texts_path(store).exists()),
            "read held-out": sum(not job.natural_path(store, layer).exists() for layer in left),
            "steer": sum(not job.steered_path(store, key).exists() for one in left for key in job.steered_keys(one)),
            "judge": len(left),
            "read written": sum(not job.written_path(store, key.layer).exists() for key in unscored),
            "score": len(unscored),
        }

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return evaluate_costs(sizes, config, rates)

    def run(self, plan: CheckpointPlan, run_id: str, reuse: ReuseCount) -> None:
        """Read held-out text, steer the model, judge every description, compute the scores.

        Raises:
            ValueError: nothing is described, or the questions cost more than the budget.
        """
        config, store, recipe = plan.config, plan.store, EvaluateRecipe(plan)
        open_checkpoint(store, plan.checkpoint_id)
        if not recipe.methods:
            raise ValueError("evaluate: the catalog has no descriptions; run weightlens or describe first")
        if recipe.explainer == HUMAN and HUMAN not in recipe.methods:
            raise ValueError(
                "evaluate.explainer is human, and the catalog has no descriptions by people; import them with "
                "circuit-insights import FILE --format notes-jsonl"
            )
        tokenise(plan)
        job, judged, scored = _job(recipe), recipe.keys(recipe.judged), recipe.keys(recipe.recipe)
        for key, scores in zip(judged, scored, strict=True):
            forget_unjudged(store, job, key, scores)
        wait_for_all([draw_texts.submit(store, job)], "evaluate: draw texts")
        reading = [read_layers.submit(store, job, one) for one in layers_together(plan.attributes, plan.layers)]
        wait_for_all(reading, "evaluate: read held-out")
        steering = [key for layer in plan.layers for key in job.steered_keys(layer)]
        wait_for_all([steer_features.submit(store, job, key) for key in steering], "evaluate: steer")
        answer_all(
            Respondent(config, store, config.evaluate.judge, run_id),
            judged,
            lambda key, unanswered: judge_layer.submit(store, job, key, unanswered),
            "evaluate: judge",
        )
        unscored = missing_shards(store, scored, ("scores",))
        wait_for_all([read_written.submit(store, job, key.layer) for key in unscored], "evaluate: read written")
        wait_for_all([score_layer.submit(store, job, key) for key in unscored], "evaluate: score")

    def load(self, plan: CheckpointPlan, run_id: str) -> None:
        """Load the catalog, and write the report from it."""
        recipe = EvaluateRecipe(plan)
        job = _job(recipe)
        load_scores(plan.store, job, run_id, recipe.keys(recipe.recipe), recipe.keys(recipe.judged))
        shown = [plan.checkpoint_id, recipe.corpus_id, job.explainer, job.judge]
        create_markdown_artifact(write_report(plan.store, recipe.recipe, shown), key="descriptions-judged")


EVALUATE = EvaluateStage()


def _job(recipe: EvaluateRecipe) -> JudgeJob:
    plan, config = recipe.plan, recipe.plan.config
    corpora = tuple(one.corpus_id for one in recipe.activations.passes)
    return JudgeJob(
        checkpoint_id=plan.checkpoint_id,
        model_path=plan.inputs.model.path,
        sampled_corpus=SampledCorpus(recipe.corpus_id, corpora),
        counted=config.activations,
        material_recipe=recipe.material,
        judged_recipe=recipe.judged,
        explainer=recipe.explainer,
        methods=recipe.methods,
        controls=config.evaluate.controls,
        judge=config.evaluate.judge,
        model=recipe.model,
        instructions=instructions(config.prompts.own),
        draw=Draw(
            config.evaluate.how.features_per_layer,
            config.evaluate.sample,
            plan.layers,
            config.transcoder.only_features,
        ),
        embeddings=config.evaluate.embedder,
        surprisal=recipe.surprisal_model,
        how=config.evaluate.how,
        evidence=config.describe.evidence,
        rule=config.describe.rule,
        wording=config.wording,
        arithmetic=plan.arithmetic,
        n_threads=threads_of_a_lone_task(config.engine),
    )


@flow(name="evaluate", flow_run_name="evaluate descriptions of {config.name}")
def evaluate(config: RunConfig, force: bool = False) -> str:
    """Judge the descriptions of a checkpoint; returns its id."""
    return perform_alone(EVALUATE, config, force).checkpoint_id
