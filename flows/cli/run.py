"""`run`, `plan`, and commands for each stage."""

import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.cli.app import (
    AnswerOption,
    Config,
    Overrides,
    StoreOption,
    app,
    duration_text,
    err,
    load,
    load_to_run,
    out,
    print_json,
    print_quality,
    report_errors,
    run_flow,
    size_text,
)
from flows.reports.tables import Table
from flows.running.progress import working
from interp.display import visible

if TYPE_CHECKING:
    from configs.run import RunConfig
    from flows.costs.plan import Step
    from flows.costs.sizes import Sizes
    from flows.inputs.checkpoint_plan import CheckpointPlan
    from flows.reports.summary import Summary


Force = Annotated[bool, typer.Option("--force", help="Start even if the disk seems too small.")]


@app.command()
def run(config: Config, overrides: Overrides = None, store: StoreOption = None, force: Force = False) -> None:
    """Run the whole pipeline: train transcoders if needed, ingest, and every stage."""
    began = time.monotonic()
    with report_errors():
        loaded = load_to_run(config, overrides, store)
        with working("load libraries"):
            from flows.costs.plan import check_room, planned
            from flows.describe_checkpoint import describe_checkpoint, is_complete, stages, unfinished
            from flows.inputs.checkpoint_plan import identify, open_inputs
            from flows.inputs.origin import pinned, to_download
            from flows.running.before_start import check_before_start
            from flows.running.in_process import settle, with_catalog_mended
            from flows.running.stage import PLANNED, planned_stages
            from storage.bucket.mirror import name_of

        with working("look for finished work"):
            loaded = pinned(loaded)
            downloads = to_download(loaded)
        steps: list[Step] = []
        print_remarks(loaded, err)
        if downloads:
            check_before_start(loaded, None, unfinished(loaded, None))
            with working("plan"):
                found = planned(loaded, stages(loaded))
            steps = found.steps
            print_plan(steps, err)
            print_streaming(found.sizes, loaded, err)
            if not force:
                check_room(loaded, steps)
        with working("open model and transcoders"):
            inputs = open_inputs(loaded)
            checkpoint_plan = None if inputs.must_train else identify(inputs)
        print_left_out(loaded, checkpoint_plan, err)
        if checkpoint_plan is not None and with_catalog_mended(inputs.store, lambda: is_complete(checkpoint_plan)):
            settle(inputs.store)
            err.print(
                f"Nothing to do: checkpoint {checkpoint_plan.checkpoint_id} is complete in {name_of(inputs.store)}"
            )
            return
        check_before_start(inputs.config, checkpoint_plan, unfinished(inputs.config, checkpoint_plan))
        if not downloads:
            with working("plan"):
                found = planned(loaded, stages(loaded))
            steps = found.steps
            print_plan(steps, err)
            print_streaming(found.sizes, loaded, err)
            if not force:
                check_room(loaded, steps)
        PLANNED.set(planned_stages(steps))
        checkpoint_id = run_flow(describe_checkpoint, loaded, force=True)  # the disk space was checked above
        _print_summary(inputs.store.root, checkpoint_id, time.monotonic() - began)


@app.command("train-transcoders")
def train_transcoders(
    config: Config, overrides: Overrides = None, store: StoreOption = None, force: Force = False
) -> None:
    """Train transcoders for a model that has none, and print their quality and folder."""
    with report_errors():
        loaded = load_to_run(config, overrides, store)
        from flows import train_transcoders as flow
        from tasks.training import trained_quality

        folder = run_flow(flow.train_transcoders, loaded, force)
        print_quality(trained_quality(Path(folder)))
        out.print(folder, soft_wrap=True)


@app.command()
def ingest(config: Config, overrides: Overrides = None, store: StoreOption = None, force: Force = False) -> None:
    """Measure a model's transcoders, and add the model and transcoders to the store."""
    with report_errors():
        loaded = load_to_run(config, overrides, store)
        from flows import ingest as flow
        from flows.inputs.checkpoint_plan import store_path
        from flows.reports.summary import layer_quality
        from storage.store import Store

        checkpoint_id = run_flow(flow.ingest, loaded, force)
        print_quality(layer_quality(Store(store_path(loaded)), checkpoint_id))
        out.print(f"checkpoint {checkpoint_id}")


@app.command()
def weightlens(config: Config, overrides: Overrides = None, store: StoreOption = None, force: Force = False) -> None:
    """Describe every feature of an ingested checkpoint from its weights."""
    with report_errors():
        loaded = load_to_run(config, overrides, store)
        from flows import weightlens as flow

        out.print(f"checkpoint {run_flow(flow.weightlens, loaded, force)}")


@app.command()
def activations(config: Config, overrides: Overrides = None, store: StoreOption = None, force: Force = False) -> None:
    """Run the corpus through an ingested checkpoint: statistics and samples of every feature."""
    with report_errors():
        loaded = load_to_run(config, overrides, store)
        from flows import activations as flow

        out.print(f"corpus {run_flow(flow.activations, loaded, force)}")


@app.command()
def coactivation(config: Config, overrides: Overrides = None, store: StoreOption = None, force: Force = False) -> None:
    """Sum up which features fire together on the corpus, and find each feature's strongest edges by TWERA."""
    with report_errors():
        loaded = load_to_run(config, overrides, store)
        from flows import coactivation as flow

        out.print(f"corpus {run_flow(flow.coactivation, loaded, force)}")


@app.command()
def circuitlens(config: Config, overrides: Overrides = None, store: StoreOption = None, force: Force = False) -> None:
    """Find out what made features fire at their samples, and what effects they had."""
    with report_errors():
        loaded = load_to_run(config, overrides, store)
        from flows import circuitlens as flow

        out.print(f"corpus {run_flow(flow.circuitlens, loaded, force)}")


Sample = Annotated[
    int | None,
    typer.Option(
        "--sample",
        min=1,
        help="Only this many features, drawn at random; the estimated cost of all is printed at the end.",
    ),
]


@app.command()
def describe(
    config: Config,
    overrides: Overrides = None,
    store: StoreOption = None,
    sample: Sample = None,
    force: Force = False,
) -> None:
    """Describe every feature by every method, from the results of earlier stages."""
    with report_errors():
        drawn = [] if sample is None else [f"describe.sample={sample}", "describe.features_per_layer=null"]
        loaded = load_to_run(config, [*(overrides or []), *drawn], store)
        from flows import describe as flow

        checkpoint_id = run_flow(flow.describe, loaded, force)
        _print_extrapolation(loaded, checkpoint_id, "describe", "described")
        out.print(f"checkpoint {checkpoint_id}")


@app.command()
def evaluate(
    config: Config,
    overrides: Overrides = None,
    store: StoreOption = None,
    sample: Sample = None,
    force: Force = False,
    as_json: AnswerOption = False,
) -> None:
    """Judge descriptions on held-out text."""
    with report_errors():
        drawn = [] if sample is None else [f"evaluate.sample={sample}"]
        loaded = load_to_run(config, [*(overrides or []), *drawn], store)
        from flows import evaluate as flow

        checkpoint_id = run_flow(flow.evaluate, loaded, force)
        if loaded.evaluate.decoys:
            from flows import describe_checkpoint as whole

            run_flow(whole.decoys, loaded, force)
        _print_extrapolation(loaded, checkpoint_id, "evaluate", "judged")
        if as_json:
            from flows.cli.answers import evaluation_answer
            from flows.inputs.checkpoint_plan import store_path

            print_json(evaluation_answer(store_path(loaded) / "catalog.duckdb", checkpoint_id))
            return
        out.print(f"checkpoint {checkpoint_id}")


def _print_extrapolation(config: "RunConfig", checkpoint_id: str, stage: str, verb: str) -> None:
    """After a random sample, print the estimated cost for all features."""
    if getattr(config, stage).sample is None:
        return
    from flows.inputs.checkpoint_plan import store_path
    from flows.reports.extrapolation import extrapolated
    from storage.store import Store

    found = extrapolated(Store(store_path(config)), checkpoint_id, stage)
    if found is not None:
        err.print(found.sentence(verb), markup=False)


@app.command("plan")
def plan_(
    config: Config,
    overrides: Overrides = None,
    store: StoreOption = None,
    machine: Annotated[
        str | None,
        typer.Option(
            help="Plan for another machine than this, by its maker's figures: h100, h200, a100, 4090 (one GPU and "
            "eight cores) or cpu-16."
        ),
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option(
            help="Also print the cheapest way to attribute that agrees with a sweep in float32 to at least this degree "
            "(0 to 1: significant features found by both, as a share of those found by either)."
        ),
    ] = None,
    as_json: AnswerOption = False,
) -> None:
    """Print what `run` would do, with estimates of time, disk and memory. Nothing is done."""
    with report_errors():
        loaded = load(config, overrides, store)
        from flows.costs.circuitlens import SETTING, cheapest_mode
        from flows.costs.plan import planned
        from flows.describe_checkpoint import stages, unfinished
        from flows.inputs.checkpoint_plan import store_path
        from flows.running.before_start import check_order, problems
        from storage.bucket.mirror import name_of
        from storage.store import Store

        found = planned(loaded, stages(loaded), machine)
        cheapest = None if agreement is None else cheapest_mode(found.sizes, loaded.corpus.row_tokens(), agreement)
        left = unfinished(loaded, found.checkpoint_plan)
        check_order(loaded, found.checkpoint_plan, left)
        if as_json:
            from configs.remarks import remarks
            from flows.cli.answers import plan_answer
            from flows.costs.streaming import streaming

            where, not_ready = name_of(Store(store_path(loaded))), problems(loaded, found.checkpoint_plan, left)
            notes = [*remarks(loaded), *filter(None, [streaming(found.sizes, loaded, machine)])]
            print_json(plan_answer(found, where, not_ready, notes))
            return
        print_plan(found.steps, out)
        print_streaming(found.sizes, loaded, out, machine)
        print_left_out(loaded, found.checkpoint_plan, out)
        print_remarks(loaded, out)
        if cheapest is not None:
            out.print(f"Cheapest attribution with this agreement: {SETTING[cheapest]}", soft_wrap=True, markup=False)
        if found.from_records:
            out.print(
                "The Hugging Face Hub cannot be reached: sizes are those recorded for this preset", soft_wrap=True
            )
        for problem in problems(loaded, found.checkpoint_plan, left):
            out.print(f"[bold yellow]not ready:[/] {escape(visible(problem))}", soft_wrap=True, highlight=False)
        root = store_path(loaded)
        out.print(f"Store: {name_of(Store(root))}, local copy in {root}", soft_wrap=True, markup=False)


def print_plan(steps: "list[Step]", console: Console) -> None:
    """Print the steps of a plan as a table, with their sums."""
    from flows.costs.plan import STARTUP_S

    costs_money = any(step.usd for step in steps)
    table = Table("step", "to do", "of", "about", "disk", "memory", *["money"] * costs_money, title="Plan")
    for step in steps:
        memory = size_text(step.memory_bytes) if step.todo else "-"
        cells = step.name, str(step.todo), str(step.total), duration_text(step.seconds), size_text(step.disk_bytes)
        table.add_row(*cells, memory, *[f"${step.usd:,.2f}"] * costs_money)
    seconds = sum(step.seconds for step in steps) + STARTUP_S * any(step.todo for step in steps)
    size = sum(step.disk_bytes for step in steps)
    memory = size_text(max((step.memory_bytes for step in steps if step.todo), default=0))
    money = [f"${sum(step.usd for step in steps):,.2f}"] * costs_money
    table.add_row("total", "", "", duration_text(seconds), size_text(size), memory, *money, style="bold")
    console.print(table)


def print_streaming(sizes: "Sizes", config: "RunConfig", console: Console, machine: str | None = None) -> None:
    """Print that a model's layers are streamed, if they are."""
    from flows.costs.streaming import streaming

    said = streaming(sizes, config, machine)
    if said is not None:
        console.print(f"[bold yellow]note:[/] {escape(said)}", soft_wrap=True, highlight=False)


def print_left_out(config: "RunConfig", checkpoint_plan: "CheckpointPlan | None", console: Console) -> None:
    """Say which stages of a configuration have nothing to do for its checkpoint."""
    for name, reason in ({} if checkpoint_plan is None else checkpoint_plan.left_out).items():
        if name in config.stages:
            console.print(f"[bold]left out:[/] {name}: {escape(reason)}", soft_wrap=True, highlight=False)


def print_remarks(config: "RunConfig", console: Console) -> None:
    """Print the remarks on a configuration."""
    from configs.remarks import remarks

    for remark in remarks(config):
        console.print(f"[bold yellow]note:[/] {escape(remark)}", soft_wrap=True, highlight=False)


def _print_summary(root: Path, checkpoint_id: str, seconds: float) -> None:
    from flows.reports.summary import score, summarise
    from storage.bucket.mirror import name_of
    from storage.store import Store

    summary = summarise(Store(root), checkpoint_id)
    table = Table("layer", "features", "described", "share", "explained variance", "L0", title="Layers")
    for layer, n_features, n_described, share, variance, l0 in summary.layers:
        table.add_row(str(layer), str(n_features), str(n_described), f"{share:.0%}", f"{variance:.3f}", f"{l0:.1f}")
    out.print(table)
    table = Table("layer", "feature", "description", "clarity", "detection", title="Some convincing features")
    for one in summary.features:
        scores = score(one.clarity), score(one.detection)
        table.add_row(str(one.layer), str(one.feature), visible(one.text), *scores)
    out.print(table)
    if summary.reuse:
        out.print(summary.reuse)
    where = name_of(Store(root))
    there = "" if where == str(root) else f"{where}, here "
    out.print(f"Checkpoint {checkpoint_id} in {there}{root / 'catalog.duckdb'}, {seconds:.0f} s", soft_wrap=True)
    for name, what in _next_steps(summary, where):
        out.print(f"  {name:<10}{what}", soft_wrap=True, markup=False, highlight=False)


def _next_steps(summary: "Summary", store: str) -> Iterator[tuple[str, str]]:
    """Suggestions of what to look at, as commands to copy."""
    from flows.reports.summary import quoted_words

    program = sys.argv[0] if Path(sys.argv[0]).name == "circuit-insights" else "circuit-insights"
    program, place = shlex.quote(program), f"--store {shlex.quote(_short(store))}"
    if summary.report is not None:
        yield "report", _short(str(summary.report))
    if summary.example is not None:
        layer, feature, text = summary.example
        yield "feature", f"{program} show {layer} {feature} {place}"
        for word in quoted_words(text)[:1]:
            query = (
                f"SELECT layer, feature, text FROM descriptions WHERE method = 'weightlens' AND text LIKE '%{word}%'"
            )
            yield "query", f'{program} sql "{query}" {place}'
    yield "explorer", f"{program} serve {place}"


def _short(path: str) -> str:
    """A path in the shortest form for the working folder; URLs are not changed."""
    return path if "://" in path else min(path, os.path.relpath(path), key=len)
