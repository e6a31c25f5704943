"""A series of checkpoints: `compare-checkpoints`, `watch-checkpoints`."""

from typing import Annotated

import typer

from flows.cli.app import (
    Config,
    Overrides,
    StoreOption,
    app,
    load_to_run,
    out,
    report_errors,
    store_root,
)


@app.command("compare-checkpoints")
def compare_checkpoints(
    a: Annotated[str, typer.Argument(help="The earlier checkpoint, by id or name.")],
    b: Annotated[str, typer.Argument(help="The later one.")],
    store: StoreOption = None,
    match_cosine: Annotated[
        float,
        typer.Option(help="Two features match if the mean of the encoders' and decoders' cosine is at least this."),
    ] = 0.7,
    kept_cosine: Annotated[
        float, typer.Option(help="A match was kept if both cosines are at least this; otherwise it moved.")
    ] = 0.95,
    positions: Annotated[
        int, typer.Option(help="Positions of the corpus on which activations are compared; 0: weights only.")
    ] = 65_536,
) -> None:
    """Match every feature of two checkpoints one to one: kept, moved, born or died. Writes a report with plots."""
    with report_errors():
        from flows import compare_checkpoints as flow
        from flows.running.engine import prefect_at_hand
        from interp.drift import DriftSettings

        settings = DriftSettings(match_cosine, kept_cosine, positions)
        with prefect_at_hand():
            out.print(flow.compare_checkpoints(store_root(store), a, b, settings), soft_wrap=True, markup=False)


@app.command("watch-checkpoints")
def watch_checkpoints(
    config: Config,
    place: Annotated[str, typer.Argument(help="A folder of checkpoint folders, or hf://OWNER/NAME for its branches.")],
    overrides: Overrides = None,
    store: StoreOption = None,
    pattern: Annotated[
        str, typer.Option(help="Names of the folders or branches; the last number in a name is the step.")
    ] = "step*",
    transcoders: Annotated[bool, typer.Option("--transcoders", help="The series is of transcoders.")] = False,
    settle_s: Annotated[
        float | None, typer.Option(help="Seconds without a change after which a folder is complete; 10 if left out.")
    ] = None,
) -> None:
    """Look once for new complete checkpoints of a series: describe each, and compare it with the one before."""
    with report_errors():
        loaded = load_to_run(config, overrides, store)
        from flows import watch_checkpoints as flow
        from flows.inputs.series import HUB
        from flows.running.engine import prefect_at_hand

        if settle_s is not None and place.startswith(HUB):
            raise ValueError(
                f"--settle-s: {place} is on the Hub, where every commit is complete; the option is for folders"
            )
        with prefect_at_hand():
            series = "transcoder" if transcoders else "model"
            settle_s = 10.0 if settle_s is None else settle_s
            for checkpoint_id in flow.watch_checkpoints(loaded, place, pattern, series, settle_s):
                out.print(f"checkpoint {checkpoint_id}")
