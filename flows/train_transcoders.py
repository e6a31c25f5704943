"""Train transcoders for a model that has none."""

from prefect import flow

from configs.run import RunConfig
from flows.costs.plan import check_room_for
from flows.costs.sizes import sizes_to_train
from flows.costs.training import training_groups
from flows.inputs.checkpoint_plan import Inputs, open_inputs
from flows.inputs.machine import device, threads_of_a_lone_task
from flows.recipes.checkpoint import TRAINED_HOOKS
from flows.running.before_start import check_before_start
from flows.running.engine import wait_for_all
from flows.running.progress import working
from flows.running.stage import StageRun, stage_recorded, store_held
from storage.bucket.working_copy import check_held
from storage.catalog.runs import new_run_id
from storage.checksums import UNSTAMPED, stamp
from storage.formats.circuit_tracer import folder_config
from storage.hashing import remember_fingerprints
from storage.store import Store, whole_file
from tasks.activations.corpora import tokenise_corpus
from tasks.shard_task import PROGRESS
from tasks.training import TrainingJob, train_layers


def train(inputs: Inputs, run_id: str) -> None:
    """Train every layer; the folder's config.yaml, written last, marks it as complete."""
    config, store, recipe = inputs.config, inputs.store, inputs.training_recipe
    settings = config.transcoder.train
    assert settings is not None
    run = StageRun(run_id, "train-transcoders", recipe, corpus_id=inputs.corpus.corpus_id)
    with stage_recorded(config, store, run):
        remember_fingerprints(store, inputs.files)
        tokenise_corpus(store, inputs.corpus, inputs.model.path)
        job = TrainingJob(
            recipe=recipe,
            model_path=inputs.model.path,
            corpus_id=inputs.corpus.corpus_id,
            hooks=TRAINED_HOOKS,
            settings=settings,
            counted=config.activations,
            n_threads=threads_of_a_lone_task(config.engine),
            device=device(config.engine),
        )
        _train_groups(store, job, training_groups(sizes_to_train(inputs), config), config)
        text = folder_config(config.name, TRAINED_HOOKS, settings.activation, _k(settings.activation, settings.k))
        with whole_file(store.trained_transcoders(recipe) / "config.yaml") as path:
            path.write_text(f"{text}# {UNSTAMPED}\n", encoding="utf-8")
            stamp(path)


def _train_groups(store: Store, job: TrainingJob, groups: list[tuple[int, ...]], config: RunConfig) -> None:
    """Train one group after the other, each with all cores; Dask workers take a group each."""
    if config.engine.runner == "dask":
        wait_for_all([train_layers.submit(store, job, layers) for layers in groups], "train transcoders")
        return
    n_steps = job.settings.n_steps
    with working("train transcoders", n_steps * len(groups)) as step:
        for number, layers in enumerate(groups):
            token = PROGRESS.set(lambda done, before=number * n_steps: step.advance(before + done))
            try:
                train_layers.submit(store, job, layers).result()
            finally:
                PROGRESS.reset(token)
            check_held()


def _k(activation: str, k: int) -> int | None:
    return k if activation == "topk" else None


@flow(name="train-transcoders", flow_run_name="train-transcoders {config.name}")
def train_transcoders(config: RunConfig, force: bool = False) -> str:
    """Train the transcoders that a configuration asks for; returns their folder."""
    inputs = open_inputs(config)
    if config.transcoder.train is None:
        raise ValueError("transcoder.train is not set: there is nothing to train")
    if inputs.must_train:
        check_before_start(config, None, [])
        if not force:
            check_room_for(inputs, None, [])
        with store_held(config, inputs.store, f"train-transcoders {config.name}"):
            train(inputs, new_run_id())
    return str(inputs.transcoder_path)
