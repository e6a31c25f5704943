"""How far a configuration travels through one stage: python -m tests.config_trip FOLDER [--stage circuitlens]

A *stop* is a function called with the configuration or with something made from it: a section, settings, the inputs,
the plan of a checkpoint, a recipe or a job. A *climb* is a call with such an argument to a function in a package that
stands above the caller's in docs/design.md. The stage is run on the demo's checkpoint, made small, in FOLDER; what it
builds on is done first and not counted.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from configs.load import load_config
from configs.run import RunConfig
from configs.section import Section
from configs.stages import StageName
from flows.describe_checkpoint import STAGES, stages
from flows.inputs.checkpoint_plan import CheckpointPlan, Inputs, identify, open_inputs
from storage.catalog.published import publish
from storage.shared_shards import ReuseCount
from tests.bit_flips import SMALL, run, without_prefect
from tests.conftest import ROOT

ORDER = ("interp", "storage", "tasks", "flows.inputs", "flows.recipes", "flows.costs", "flows.running", "flows")
"""Packages, the lowest first."""
CARRIERS = ("Recipe", "Job", "Settings")
"""Ends of the names of classes that carry what a configuration says."""


def package(module: str) -> str:
    return next((name for name in reversed(ORDER[:-1]) if module.startswith(f"{name}.")), module.partition(".")[0])


def carries(value: object) -> bool:
    kind = type(value)
    return isinstance(value, Section | Inputs | CheckpointPlan) or (
        kind.__name__.endswith(CARRIERS)
        and kind.__module__.partition(".")[0] in ("interp", "storage", "tasks", "flows")
    )


@contextmanager
def counting(stops: Counter[str], climbs: Counter[str]) -> Iterator[None]:
    """Note every call of a function of the product with such an argument, in this thread."""

    def note(frame: FrameType, event: str, _: object) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        if event != "call" or module.partition(".")[0] not in ("interp", "storage", "tasks", "flows"):
            return
        code = frame.f_code
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if "<" in code.co_qualname or not any(carries(frame.f_locals.get(name)) for name in given):
            return
        name = f"{module}.{code.co_qualname}"
        stops[name] += 1
        above = frame.f_back
        caller = str(above.f_globals.get("__name__", "")) if above else ""
        if caller.partition(".")[0] in ORDER and ORDER.index(package(module)) > ORDER.index(package(caller)):
            climbs[f"{caller} -> {name}"] += 1

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stage", choices=list(STAGES), default="circuitlens")
    arguments = parser.parse_args()
    stage: StageName = arguments.stage
    before = list(STAGES)[: list(STAGES).index(stage)]

    def config(*names: str) -> RunConfig:
        changes = [*SMALL, f"stages=[{','.join(names)}]"]
        return load_config(ROOT / "configs" / "demo.yaml", changes, str(arguments.folder))

    stops, climbs = Counter[str](), Counter[str]()
    with without_prefect():
        run(config(*before))
        asked = config(*before, stage)
        with counting(stops, climbs):
            plan = identify(open_inputs(asked))
            [wanted] = [one for one in stages(asked) if one.name == stage]
            if not wanted.is_done(plan):
                wanted.run(plan, "run", ReuseCount())
                wanted.load(plan, "run")
        publish(plan.store.catalog)
    modules = {name.rsplit(".", 1)[0] for name in stops}
    for name in sorted(stops):
        print(name)
    for name in sorted(climbs):
        print("climb:", name)
    packages = set(map(package, modules))
    print(f"{len(stops)} stops in {len(modules)} files and {len(packages)} packages, {len(climbs)} climbs")


if __name__ == "__main__":
    main()
