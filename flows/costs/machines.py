"""Machines for which a run can be planned before they are rented, by what their makers say of them."""

from typing import NamedTuple

from configs.run import RunConfig
from flows.costs.rates import Rates


class Machine(NamedTuple):
    """The speed and memory of a machine."""

    float32: float
    """Peak rate of float32 products without rounding of factors, operations a second."""
    bfloat16: float
    """Operations per second of bfloat16 products with float32 sums."""
    bandwidth: float
    """Bytes a second between processor and its memory."""
    memory: float
    """Bytes of that memory."""
    is_gpu: bool = True
    workers: int = 8
    """Tasks at once of the steps that are the CPU's: a core each, as such machines are rented out."""


REACHED = 0.6
"""Share of the peak that float32 products of a run's shapes reach: on the CPUs measured 0.55 to 0.9."""

MACHINES = {
    "h100": Machine(67e12, 989e12, 3.35e12, 80e9),
    "h200": Machine(67e12, 989e12, 4.8e12, 141e9),
    "a100": Machine(19.5e12, 312e12, 2.0e12, 80e9),
    "4090": Machine(82.6e12, 165e12, 1.01e12, 24e9),
    "cpu-16": Machine(16 * 110e9, 16 * 220e9, 200e9, 64e9, is_gpu=False, workers=16),
}
"""Machines by name. GPUs have the figures of NVIDIA's data sheets (H100 and H200 as SXM, dense products); cpu-16 is
sixteen cores of an EPYC, extrapolated from a measurement of one core."""


def machine_named(name: str) -> Machine:
    """A machine by its name.

    Raises:
        ValueError: none of that name is known.
    """
    if name not in MACHINES:
        raise ValueError(f"no machine {name!r} is known; known are {', '.join(MACHINES)}")
    return MACHINES[name]


def rates_of(name: str, d_model: int, config: RunConfig) -> Rates:
    """The rates of a named machine, to use instead of those measured on this one. Its interpreter and memory are
    assumed to be as fast as on the machine where the constants of costs were fitted."""
    products = REACHED * machine_named(name).float32
    return Rates(products, products)


def on_machine(config: RunConfig, name: str) -> RunConfig:
    """The configuration with as many parallel tasks as the machine has cores, unless it sets their number itself."""
    engine = config.engine.model_copy(
        update={"device": "cpu", "workers": config.engine.workers or machine_named(name).workers}
    )
    return config.model_copy(update={"engine": engine})
