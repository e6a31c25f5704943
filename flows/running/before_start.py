"""Checks before anything starts: stages whose inputs are missing, keys, judges and addresses.

Without them, the run would fail after minutes or hours of work.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from urllib.parse import urlsplit

from configs.run import RunConfig
from configs.stages import StageName
from flows.costs.sizes import sizes_of
from flows.costs.streaming import check_model_fits
from flows.inputs.checkpoint_plan import CheckpointPlan, store_path
from flows.inputs.language_model import Who, check_answers, check_can_ask
from flows.inputs.machine import arithmetic, n_workers
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.describe import NEEDS, DescribeRecipe
from flows.recipes.evaluate import EvaluateRecipe
from flows.recipes.weightlens import WeightLensRecipe
from flows.running.engine import SCHEDULER_PATIENCE_S
from flows.running.prefect_api import check_prefect_answers
from storage.catalog.database import loaded_recipe, loaded_subject
from storage.store import Store

Check = Callable[[], None]


def check_before_start(config: RunConfig, plan: CheckpointPlan | None, left: Sequence[str]) -> None:
    """Refuse a run that would fail. `left` are the unfinished stages; `plan` is None if the model or its transcoders
    are not on this machine.

    Raises:
        ValueError: with a line for every problem.
    """
    found = problems(config, plan, left)
    if found:
        raise ValueError("\n".join(found))
    check_respondents(config, left)


def check_respondents(config: RunConfig, stages: Sequence[str]) -> None:
    """Refuse a run whose language model does not answer.

    Raises:
        ValueError: a setting or the key is missing or not accepted, or the model is not known or cannot be reached.
    """
    for who in sorted(_asked(config, stages)):
        check_answers(config, who)


def problems(config: RunConfig, plan: CheckpointPlan | None, left: Sequence[str]) -> list[str]:
    """Everything that prevents a run, each with what to do about it. Language models are not asked."""
    checks: list[Check] = [partial(check_order, config, plan, left)]
    checks += [partial(check_can_ask, config, who) for who in sorted(_asked(config, left))]
    checks.append(partial(_check_engine, config))
    if plan is not None:
        checks.append(partial(check_model_fits, sizes_of(plan), config, left))
    checks.append(check_prefect_answers)
    return list(_failed(checks))


def _failed(checks: Sequence[Check]) -> Iterator[str]:
    for check in checks:
        try:
            check()
        except ValueError as error:
            yield str(error)


def _asked(config: RunConfig, stages: Sequence[str]) -> set[Who]:
    """The models that have to answer questions."""
    who: dict[str, Who] = {"describe": config.describe.explainer, "evaluate": config.evaluate.judge}
    return {who[name] for name in stages if name in who}


def _check_engine(config: RunConfig) -> None:
    arithmetic(config.engine)
    n_workers(config.engine)
    address = config.engine.dask_address
    if address is None:
        return
    try:
        place = urlsplit(address if "://" in address else f"tcp://{address}")
        socket.create_connection((place.hostname or "", place.port or 8786), SCHEDULER_PATIENCE_S).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"engine.dask_address: no Dask workers at {address}: {error}") from None


def check_order(config: RunConfig, plan: CheckpointPlan | None, left: Sequence[str]) -> None:
    """Refuse stages whose inputs are neither in the store nor produced by another stage of the run.

    For a store with a catalog, this cannot be known before the model and its transcoders are on this machine.

    Raises:
        ValueError: says which stage lacks what.
    """
    if plan is None and Store(store_path(config)).catalog.is_file():
        return
    for name in left:
        for stages, is_there in _needed(name, config):
            if not any(stage in left for stage in stages) and not (plan is not None and is_there(plan)):
                raise ValueError(
                    f"stages: {name} reads results of {' or '.join(stages)}, which are neither in the store, with "
                    f"these settings, nor among the stages to run ({', '.join(left)}); add {stages[0]}, or run it first"
                )


def _needed(name: str, config: RunConfig) -> Iterator[tuple[list[StageName], Callable[[CheckpointPlan], bool]]]:
    """The inputs of a stage: the stages that produce them, one of which is enough, and whether the store has them
    already."""
    if name == "circuitlens":
        yield ["activations"], _is_sampled
    if name == "coactivation" and config.coactivation.pairs == "edges":
        yield ["weightlens"], _has_edges
    if name == "describe":
        for method in config.describe.methods or ():
            for stage in NEEDS[method]:
                yield [stage], partial(_has_evidence, stage)
        yield ["weightlens", "activations"], lambda plan: bool(DescribeRecipe(plan).methods)
    if name == "evaluate":
        yield ["describe", "weightlens"], lambda plan: bool(EvaluateRecipe(plan).methods)


def _is_sampled(plan: CheckpointPlan) -> bool:
    recipe, loaded = ActivationsRecipe(plan), loaded_subject
    held = loaded_recipe(plan.store.catalog, loaded(plan.checkpoint_id, recipe.corpus_id), "activations")
    return held == recipe.recipe


def _has_edges(plan: CheckpointPlan) -> bool:
    held = loaded_recipe(plan.store.catalog, loaded_subject(plan.checkpoint_id), "weightlens")
    return held == WeightLensRecipe(plan).recipe


def _has_evidence(stage: StageName, plan: CheckpointPlan) -> bool:
    return DescribeRecipe(plan).evidence[stage] is not None
