"""Run fake features through the pipeline: their descriptions that pass are false positives."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from configs.inputs import TranscoderConfig
from configs.run import RunConfig
from configs.stages import StageName
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from flows.recipes.activations import ActivationsRecipe
from flows.running.engine import wait_for_all
from flows.running.stage import Stage, perform
from storage.catalog.database import open_catalog
from storage.checksums import UNSTAMPED, stamp
from storage.formats.circuit_tracer import folder_config
from storage.hashing import short_hash
from storage.store import whole_file
from tasks.decoys import VERSION, DecoysJob, load_decoys, make_layer

LEFT_OUT: tuple[StageName, ...] = ("coactivation",)
"""Stages that decoys do not need, since no description of a decoy depends on them."""


@dataclass(frozen=True)
class DecoyRun:
    """The decoys of a checkpoint, and the configuration that describes and judges them."""

    plan: CheckpointPlan

    @cached_property
    def job(self) -> DecoysJob:
        """The job that draws the decoys of each layer."""
        config, activations = self.plan.config, ActivationsRecipe(self.plan)
        per_layer, seed = config.evaluate.decoys, config.evaluate.how.seed
        recipe = short_hash(samples=activations.recipe, per_layer=per_layer, seed=seed, decoys=VERSION)
        first = self.plan.inputs.corpus.corpus_id
        ids = (recipe, self.plan.checkpoint_id, self.plan.inputs.model.path, activations.corpus_id, first)
        return DecoysJob(*ids, config.activations, per_layer, seed)

    @property
    def config(self) -> RunConfig:
        """The checkpoint's configuration, with the decoys in place of its transcoders."""
        config = self.plan.config
        only_layers = self.plan.config.transcoder.only_layers
        folder = self.job.folder(self.plan.store)
        transcoder = TranscoderConfig(path=folder, accept_poor_quality=True, only_layers=only_layers)
        model = config.model.model_copy(update={"step": None})
        describe = config.describe.model_copy(update={"features_per_layer": None, "sample": None})
        evaluate = config.evaluate.model_copy(update={"decoys": 0, "sample": None})
        stages = tuple(name for name in config.stages if name not in LEFT_OUT)
        changed = {"transcoder": transcoder, "model": model, "describe": describe, "evaluate": evaluate}
        return config.model_copy(update={"name": f"{config.name} decoys", "stages": stages, **changed})

    @property
    def is_made(self) -> bool:
        """Whether the store has the decoys' transcoders."""
        return (self.job.folder(self.plan.store) / "config.yaml").is_file()

    def is_done(self, stages: Sequence[Stage]) -> bool:
        """Whether there are none to judge, or all are judged and in the catalog."""
        if not self.plan.config.evaluate.decoys:
            return True
        if not self.is_made:
            return False
        decoys = identify(open_inputs(self.config))
        query = "SELECT count(*) FROM decoys WHERE (checkpoint_id, decoy_checkpoint_id) = (?, ?)"
        with open_catalog(self.plan.store.catalog) as connection:
            (n,) = connection.execute(query, [self.plan.checkpoint_id, decoys.checkpoint_id]).fetchall()[0]
        return n > 0 and all(stage.is_done(decoys) for stage in stages)


def judge_decoys(plan: CheckpointPlan, stages: Sequence[Stage], run_id: str) -> None:
    """Make a checkpoint's decoys and run some stages on them. The caller must hold the store's lock.

    Raises:
        ValueError: the activations of the checkpoint, which determine the decoys' densities, are not in the catalog.
    """
    run, store = DecoyRun(plan), plan.store
    if not run.is_made:
        with open_catalog(store.catalog) as connection:
            query = "SELECT 1 FROM features WHERE (checkpoint_id, corpus_id) = (?, ?) LIMIT 1"
            if not connection.execute(query, [plan.checkpoint_id, run.job.corpus_id]).fetchall():
                raise ValueError("evaluate.decoys: decoys get the densities of real features; run activations first")
        wait_for_all([make_layer.submit(store, run.job, layer) for layer in plan.layers], "decoys: make")
        text = folder_config(run.config.name, plan.transcoders.hooks, "relu", None)
        with whole_file(run.job.folder(store) / "config.yaml") as path:
            path.write_text(f"{text}# {UNSTAMPED}\n", encoding="utf-8")
            stamp(path)
    decoys = identify(open_inputs(run.config))
    for stage in stages:
        if not stage.is_done(decoys):
            perform(stage, decoys, run_id)
    wait_for_all([load_decoys.submit(store, run.job, decoys.checkpoint_id, list(plan.layers))], "decoys: load")
