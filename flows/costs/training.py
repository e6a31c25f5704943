"""The cost of training transcoders, and which layers train together in one pass of the model."""

from itertools import pairwise

import psutil

from configs.run import RunConfig
from flows.costs.rates import LIBRARIES_BYTES, Cost, Rates
from flows.costs.sizes import Sizes
from flows.inputs.machine import n_workers, threads_of_a_lone_task
from interp.training.settings import TrainingSettings

SHARE_OF_FREE_MEMORY = 0.75
"""Share of the free memory that training may use, if `transcoder.train.max_memory` is left out."""

SPARSE_SHARE = 0.6
"""Time of the sums over TopK's few active features, as a share of the time of a dense product; they replace four
products."""

DENSE_PRODUCTS, SPARSE_PRODUCTS = 5, 1 + 4 * SPARSE_SHARE
"""Number of dense products: encode, decode, and backward to activations and both matrices."""

STREAMS_OF_A_STEP = 4
"""Arrays of the size of a layer's inputs that a step needs besides them."""


def training_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> tuple[str, Cost]:
    """The name of the step in the plan, with the number of groups if there are several, and its cost."""
    training = _settings(config)
    groups = training_groups(sizes, config)
    products = SPARSE_PRODUCTS if training.activation == "topk" else DENSE_PRODUCTS
    coders = sizes.n_layers * products * 2 * sizes.d_transcoder * sizes.d_model
    tokens = training.n_steps * training.batch_tokens
    seconds = tokens * (len(groups) * sizes.block_flops + coders) / rates.products
    weights = sizes.d_transcoder * sizes.d_model * 8
    held = sizes.model_bytes + _shared_bytes(sizes, config) + max(map(len, groups)) * _layer_bytes(sizes, training)
    name = "train transcoders" if len(groups) == 1 else f"train transcoders in {len(groups)} groups"
    return name, Cost(len(groups), seconds, sizes.n_layers * weights, held, 0)


def training_groups(sizes: Sizes, config: RunConfig) -> list[tuple[int, ...]]:
    """Groups of layers whose weights, optimiser states and streams fit into `transcoder.train.max_memory` together;
    with Dask at least one group for each worker.

    Raises:
        ValueError: not even one layer fits.
    """
    training, n_layers = _settings(config), sizes.n_layers
    fixed = LIBRARIES_BYTES + sizes.model_bytes + _shared_bytes(sizes, config)
    needed = _layer_bytes(sizes, training)
    if training.max_memory is not None:
        room = training.max_memory * 1e9
    else:
        room = max(SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available, fixed + needed)
    at_once = int((room - fixed) // needed)
    if at_once < 1:
        raise ValueError(
            f"transcoder.train.max_memory is {training.max_memory:g} GB; the model and what training a single layer of "
            f"{training.d_transcoder} features takes are {(fixed + needed) / 1e9:.2g} GB: raise it, or lower "
            "transcoder.train.d_transcoder or batch_tokens"
        )
    n_groups = -(-n_layers // at_once)
    if config.engine.runner == "dask":
        n_groups = max(n_groups, min(n_layers, n_workers(config.engine)))
    ends = [round(n_layers * number / n_groups) for number in range(n_groups + 1)]
    return [tuple(range(start, stop)) for start, stop in pairwise(ends)]


def _settings(config: RunConfig) -> TrainingSettings:
    assert config.transcoder.train is not None
    return config.transcoder.train


def _layer_bytes(sizes: Sizes, training: TrainingSettings) -> float:
    """Memory of a layer: weights and Adam's two moments; inputs and outputs of a step."""
    weights = 2 * training.d_transcoder * sizes.d_model + (sizes.d_model**2 if training.skip else 0)
    return 4 * (3 * weights + 2 * training.batch_tokens * sizes.d_model)


def _shared_bytes(sizes: Sizes, config: RunConfig) -> float:
    """Memory of each thread: gradients, and the intermediate arrays of a step."""
    training = _settings(config)
    gradients = 2 * training.d_transcoder * sizes.d_model
    step = STREAMS_OF_A_STEP * training.batch_tokens * sizes.d_model
    return 4 * threads_of_a_lone_task(config.engine) * (gradients + step)
