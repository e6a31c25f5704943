"""Run the pipeline from Python."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from circuit_insights.store import Store, open_store
from configs.load import load_config
from configs.run import RunConfig
from flows.compare_checkpoints import compare_checkpoints
from flows.describe_checkpoint import describe_checkpoint, nothing_to_do
from flows.inputs.checkpoint_plan import open_inputs
from flows.inputs.origin import pinned
from flows.running.engine import prefect_at_hand, tell_prefect_all
from flows.running.in_process import run_flow
from interp.drift import DriftSettings
from interp.training.settings import TrainingSettings


def explain(
    config: RunConfig | str | Path | None = None,
    *,
    model: str | Path | None = None,
    transcoders: str | Path | TrainingSettings | None = None,
    corpus: str | Path | list[str] | None = None,
    **sections: Any,
) -> Store:
    """Explain every feature of a model's transcoders, like the command `run`, and open the store.

    `config` is a configuration, a YAML file or a preset's name. Or `model`, `transcoders` and `corpus` name the inputs:
    a folder or file that exists, else a repository of the Hugging Face Hub; `transcoders` may also be the settings with
    which they are trained. `sections` are further settings by name: `store="store/mine"`, `name="mine"`,
    `stages=["weightlens"]`, `engine={"workers": 2}`, or a section's own object, like `weightlens=WeightLensSettings()`.
    Finished stages are not repeated. Progress is shown as in a terminal.

    Raises:
        ValueError: a setting is wrong or missing, or an input cannot be read.
    """
    whole = _configuration(config, {"model": model, "transcoder": transcoders, "corpus": corpus}, sections)
    inputs = open_inputs(pinned(whole))
    checkpoint_id = nothing_to_do(inputs)
    if checkpoint_id is None:
        with prefect_at_hand():
            checkpoint_id = run_flow(describe_checkpoint, inputs.config)
            tell_prefect_all()
    return open_store(inputs.store.root, checkpoint_id)


def compare(store: Store, earlier: str, later: str, settings: DriftSettings | None = None) -> Store:
    """Match every feature of two checkpoints of a store one to one, like the command `compare-checkpoints`, and open
    the store again, at the later one.

    The views `drift` and `feature_origins` then say for each feature whether it was kept, moved, born or died; a report
    with plots is in `reports/` in the store. `settings` define when two features count as one, and on how much text
    they are compared.

    Raises:
        ValueError: a checkpoint does not exist, the two cannot be compared, or another run has locked the store.
    """
    with prefect_at_hand():
        compare_checkpoints(store.root, earlier, later, settings)
        tell_prefect_all()
    return open_store(store.root, later)


def _configuration(config: RunConfig | str | Path | None, given: dict[str, Any], sections: dict[str, Any]) -> RunConfig:
    if config is None:
        values: dict[str, Any] = {}
    else:
        loaded = config if isinstance(config, RunConfig) else load_config(Path(config), [])
        values = loaded.model_dump(exclude_unset=True)
    values |= sections
    for name, value in given.items():
        if value is not None:
            values[name] = _section(name, value)
    if given["model"] is not None:
        values.setdefault("name", Path(str(given["model"])).name)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = [f"  {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ValueError("explain:\n" + "\n".join(problems)) from None


def _section(name: str, value: object) -> dict[str, object]:
    if name == "corpus":
        return {"source": value if isinstance(value, list) else str(value)}
    if isinstance(value, TrainingSettings):
        return {"train": value}
    place = Path(str(value)).expanduser()
    return {"path": place} if isinstance(value, Path) or place.exists() else {"repo": str(value)}
