"""Loops that set-up compiles are all that a run calls."""

from pathlib import Path

import pytest
from numba.core.registry import CPUDispatcher

from configs.load import load_config
from interp.kernels import activations, attribution, coactivation, entries, sampling, selection
from interp.kernels.compile import compile_all
from tests.bit_flips import run, without_prefect
from tests.conftest import planted_overrides

MODULES = (activations, attribution, coactivation, entries, sampling, selection)

STAGES = "[weightlens, activations, coactivation, circuitlens, describe]"


def variants() -> dict[str, int]:
    """By loop that Python calls, for how many types of arguments it is compiled."""
    loops = [loop for module in MODULES for loop in vars(module).values() if isinstance(loop, CPUDispatcher)]
    return {
        f"{one.__module__}.{one.__name__}": len(one.signatures) for one in loops if not one.__name__.startswith("_")
    }


@pytest.mark.whole
def test_a_run_compiles_nothing_that_set_up_could_have_compiled(tmp_path: Path) -> None:
    compile_all()
    before = variants()
    settings = [*planted_overrides(tmp_path, STAGES), "corpus.n_pos=16", "engine.workers=1", f"store={tmp_path}/store"]
    with without_prefect():
        run(load_config(Path("configs/demo.yaml"), settings))
    assert variants() == before
