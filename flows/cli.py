"""The command line, `circuit-insights`."""

import atexit
import errno
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.query import Format, ask

if TYPE_CHECKING:
    from configs.run import RunConfig

for _name, _value in {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # errors are told here, once, without tracebacks
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 are too few for a busy machine
}.items():
    os.environ.setdefault(_name, _value)

# Torch, transformers and Prefect take seconds to import, so each command imports what it needs.

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
out = Console()
err = Console(stderr=True)

BAD_INPUT = 2
INTERRUPTED = 130
INTERRUPTED_MESSAGE = "interrupted; the store is whole, run the same command again to go on"

BASE_MEMORY_BYTES = 0.6e9
"""What the libraries take, whatever is computed."""

Config = Annotated[Path, typer.Argument(help="A YAML configuration; see configs/.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to it, like engine.workers=2.")]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="The store; else the config's, else $CIRCUIT_INSIGHTS_STORE, else ./store."),
]


CheckpointOption = Annotated[
    str | None, typer.Option(help="Checkpoint id or name; needed when the store holds several.")
]


@contextmanager
def errors_told() -> Iterator[None]:
    """Bad input ends with one message and exit code 2; a full disk and Ctrl-C say what to do."""
    try:
        yield
    except ValueError as error:
        _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        _fail(INTERRUPTED_MESSAGE, INTERRUPTED)
    except Exception as error:
        if not _disk_is_full(error):
            raise
        _fail(f"disk full: {error}\nWhat was finished is kept; make room and run the same command again", BAD_INPUT)


def _disk_is_full(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def _fail(message: str, code: int) -> None:
    from interp.weightlens.description import visible

    lines = (" " * (len(line) - len(line.lstrip(" "))) + visible(line.strip(" ")) for line in message.splitlines())
    err.print("[bold red]error:[/] " + escape("\n".join(lines)), soft_wrap=True)
    raise typer.Exit(code)


def _load(config: Path, overrides: list[str] | None, store: Path | None) -> "RunConfig":
    from configs.run import load_config

    return load_config(config, list(overrides or []), store)


@app.command()
def run(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Run the whole pipeline: train transcoders if need be, ingest, and every stage."""
    with errors_told():
        loaded = _load(config, overrides, store)
        began = time.monotonic()
        from flows.describe_checkpoint import describe_checkpoint, nothing_to_do
        from flows.origin import pinned, to_download
        from flows.plan import plan
        from flows.subject import open_source

        loaded = pinned(loaded)
        downloads = to_download(loaded)
        if downloads:
            _print_plan(plan(loaded), err)
        source = open_source(loaded)
        checkpoint_id = nothing_to_do(source)
        if checkpoint_id is not None:
            err.print(f"Nothing to do: checkpoint {checkpoint_id} is complete in {source.store.root}")
            return
        if not downloads:
            _print_plan(plan(loaded), err)
        checkpoint_id = _with_engine(describe_checkpoint, loaded)
        _print_summary(source.store.root, checkpoint_id, time.monotonic() - began)


@app.command("train-transcoders")
def train_transcoders(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Train transcoders for a model that has none, and say where they are."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import train_transcoders as flow

        out.print(_with_engine(flow.train_transcoders, loaded), soft_wrap=True)


@app.command()
def ingest(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Bring a model and its transcoders into the store, after measuring them."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import ingest as flow
        from flows.subject import store_path
        from flows.summary import layer_quality
        from storage.store import Store

        checkpoint_id = _with_engine(flow.ingest, loaded)
        _print_quality(layer_quality(Store(store_path(loaded)), checkpoint_id))
        out.print(f"checkpoint {checkpoint_id}")


@app.command()
def weightlens(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Describe every feature of an ingested checkpoint from its weights."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import weightlens as flow

        out.print(f"checkpoint {_with_engine(flow.weightlens, loaded)}")


@app.command()
def activations(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Run the corpus through an ingested checkpoint: statistics and samples of every feature."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import activations as flow

        out.print(f"corpus {_with_engine(flow.activations, loaded)}")


@app.command()
def coactivation(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Sum up which features fire together on the corpus, and find each one's strongest edges by TWERA."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import coactivation as flow

        out.print(f"corpus {_with_engine(flow.coactivation, loaded)}")


@app.command()
def circuitlens(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Find out why features fired at their samples, and what they did there."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import circuitlens as flow

        out.print(f"corpus {_with_engine(flow.circuitlens, loaded)}")


@app.command()
def describe(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Describe every feature by every method from what the catalog knows of it."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import describe as flow

        out.print(f"checkpoint {_with_engine(flow.describe, loaded)}")


@app.command()
def evaluate(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Judge descriptions on held-out text."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import evaluate as flow

        out.print(f"checkpoint {_with_engine(flow.evaluate, loaded)}")


def _with_engine(flow: Any, config: "RunConfig") -> Any:
    from flows.engine import prefect_at_hand, task_runner

    _end_at_once_on_signals()
    with prefect_at_hand():
        return flow.with_options(task_runner=task_runner(config.engine))(config)


def _end_at_once_on_signals() -> None:
    """On Ctrl-C and SIGTERM, end the process: tasks cannot be stopped in the middle, and the store needs no farewell.

    A thread does it, told by Python's wake-up descriptor, because Prefect puts handlers of its own in our place and
    then waits for the tasks.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(tell)

    def wait() -> None:
        while (number := os.read(told, 1)[0]) not in (signal.SIGINT, signal.SIGTERM):
            pass
        os.write(2, f"\n{INTERRUPTED_MESSAGE}\n".encode())
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True).start()


@app.command("compare-checkpoints")
def compare_checkpoints(
    a: Annotated[str, typer.Argument(help="The earlier checkpoint, by id or name.")],
    b: Annotated[str, typer.Argument(help="The later one.")],
    store: StoreOption = None,
    match_cosine: Annotated[
        float, typer.Option(help="Mean of the encoders' and decoders' cosine from which two features are one.")
    ] = 0.7,
    kept_cosine: Annotated[float, typer.Option(help="Both cosines from which it was kept; below, it moved.")] = 0.95,
    positions: Annotated[
        int, typer.Option(help="Positions of the corpus on which activations are compared; 0: weights alone.")
    ] = 65_536,
) -> None:
    """Match every feature of two checkpoints one to one: kept, moved, born or died. Writes a report with plots."""
    with errors_told():
        from flows import compare_checkpoints as flow
        from flows.engine import prefect_at_hand
        from interp.drift import DriftSettings

        settings = DriftSettings(match_cosine, kept_cosine, positions)
        _end_at_once_on_signals()
        with prefect_at_hand():
            out.print(flow.compare_checkpoints(_root(store), a, b, settings), soft_wrap=True, markup=False)


@app.command("watch-checkpoints")
def watch_checkpoints(
    config: Config,
    folder: Annotated[Path, typer.Argument(help="Where the folders of the series appear.")],
    overrides: Overrides = None,
    store: StoreOption = None,
    pattern: Annotated[str, typer.Option(help="Names of the folders; the last number in one is its step.")] = "step-*",
    transcoders: Annotated[bool, typer.Option("--transcoders", help="The series is of transcoders.")] = False,
    settle_s: Annotated[float, typer.Option(help="Seconds without a change after which a folder is complete.")] = 10.0,
) -> None:
    """Look once for new complete checkpoints in a folder: describe each, and compare it with the one before."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows import watch_checkpoints as flow
        from flows.engine import prefect_at_hand

        _end_at_once_on_signals()
        with prefect_at_hand():
            series = "transcoder" if transcoders else "model"
            for checkpoint_id in flow.watch_checkpoints(loaded, folder, pattern, series, settle_s):
                out.print(f"checkpoint {checkpoint_id}")


@app.command("plan")
def plan_(config: Config, overrides: Overrides = None, store: StoreOption = None) -> None:
    """Say what `run` would do, and about how much time, disk and memory it would take. Nothing is done."""
    with errors_told():
        loaded = _load(config, overrides, store)
        from flows.plan import plan

        _print_plan(plan(loaded), out)


def _print_plan(steps: list[Any], console: Console) -> None:
    from flows.plan import STARTUP_S

    costs_money = any(step.usd for step in steps)
    table = Table("step", "to do", "of", "about", "disk", "memory", *["money"] * costs_money, title="Plan")
    for step in steps:
        memory = _size(step.memory_bytes) if step.todo else "-"
        cells = (step.name, str(step.todo), str(step.total), _duration(step.seconds), _size(step.disk_bytes), memory)
        table.add_row(*cells, *[f"${step.usd:,.2f}"] * costs_money)
    seconds = sum(step.seconds for step in steps) + STARTUP_S * any(step.todo for step in steps)
    size = sum(step.disk_bytes for step in steps)
    memory = _size(max((step.memory_bytes for step in steps if step.todo), default=0) + BASE_MEMORY_BYTES)
    money = [f"${sum(step.usd for step in steps):,.2f}"] * costs_money
    table.add_row("total", "", "", _duration(seconds), _size(size), memory, *money, style="bold")
    console.print(table)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s" if seconds else "-"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if n_bytes else "-"
        n_bytes /= 1000
    return f"{n_bytes:.0f} PB"


def _print_summary(root: Path, checkpoint_id: str, seconds: float) -> None:
    from flows.summary import summarise
    from interp.weightlens.description import visible
    from storage.store import Store

    summary = summarise(Store(root), checkpoint_id)
    table = Table("layer", "features", "described", "share", "explained variance", "L0", title="Layers")
    for layer, n_features, n_described, share, variance, l0 in summary.layers:
        table.add_row(str(layer), str(n_features), str(n_described), f"{share:.0%}", f"{variance:.3f}", f"{l0:.1f}")
    out.print(table)
    table = Table("layer", "feature", "description", title="Some convincing features")
    for layer, feature, text in summary.features:
        table.add_row(str(layer), str(feature), escape(visible(text)))
    out.print(table)
    out.print(f"Checkpoint {checkpoint_id} in {root / 'catalog.duckdb'}, {seconds:.0f} s", soft_wrap=True)


def _root(store: Path | None) -> Path:
    return store or Path(os.environ.get("CIRCUIT_INSIGHTS_STORE", "store"))


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="A query; docs/schema.md has the tables.")],
    store: StoreOption = None,
    format: Annotated[Format, typer.Option(help="table, csv, json, or parquet with --output.")] = Format.table,
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
) -> None:
    """Ask the catalog, read-only."""
    with errors_told():
        ask(_root(store) / "catalog.duckdb", query, format, output)


@app.command()
def show(
    layer: int,
    feature: int,
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Print everything that is known of one feature."""
    from flows.card import feature_card

    with errors_told():
        for part in feature_card(_root(store) / "catalog.duckdb", layer, feature, checkpoint):
            out.print(part)


class Imported(StrEnum):
    weightlens_json = "weightlens-json"


class Exported(StrEnum):
    weightlens_json = "weightlens-json"
    parquet = "parquet"


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    format: Annotated[
        Exported, typer.Option(help="weightlens-json: feature_analysis_layer_N.json; parquet: every table.")
    ],
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Write results in the format of another tool."""
    from flows.exchange import export_parquet, export_weightlens
    from storage.store import Store

    with errors_told():
        write = export_weightlens if format is Exported.weightlens_json else export_parquet
        for path in write(Store(_root(store)), checkpoint, folder):
            out.print(str(path), soft_wrap=True, markup=False)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Where the files are.")],
    format: Annotated[Imported, typer.Option(help="weightlens-json: feature_analysis_layer_N.json.")],
    name: Annotated[str, typer.Option(help="Name under which the catalog keeps them.")],
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Bring another tool's results about an ingested checkpoint into the catalog, as a checkpoint of their own."""
    from flows.exchange import import_weightlens
    from storage.store import Store

    with errors_told():
        out.print(f"checkpoint {import_weightlens(Store(_root(store)), folder, checkpoint, name)}")


@app.command()
def vacuum(
    store: StoreOption = None, yes: Annotated[bool, typer.Option("--yes", help="Do not ask, remove.")] = False
) -> None:
    """Show what nothing in the catalog rests on, and remove it."""
    from storage.store import Store, held
    from storage.vacuum import remove, unneeded

    with errors_told():
        place = Store(_root(store))
        found = unneeded(place)
        if not found:
            out.print("Nothing to remove: the catalog rests on everything that the store holds")
            return
        table = Table("folder", "size", "why", title="Not needed")
        for item in found:
            table.add_row(escape(str(item.path.relative_to(place.root))), _size(item.n_bytes), item.why)
        out.print(table)
        if not yes and not typer.confirm("Remove them?"):
            return
        with held(place, "vacuum"):
            shown = {item.path for item in found}
            remove([item for item in unneeded(place) if item.path in shown])
        out.print(f"{_size(sum(item.n_bytes for item in found))} removed")


@app.command()
def attribute(
    prompt: Annotated[str, typer.Argument(help="Text whose next token is to be explained.")],
    output: Annotated[Path, typer.Option(help="NAME.json; NAME becomes the graph's slug.")],
    config: Annotated[Path | None, typer.Option(help="Configuration; else that of the checkpoint's last run.")] = None,
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    max_logits: Annotated[int, typer.Option(help="Next tokens explained, at most.")] = 10,
    logit_share: Annotated[float, typer.Option(help="Probability that they have together.")] = 0.95,
    max_features: Annotated[int, typer.Option(help="Features attributed, the most influential first.")] = 7500,
    node_threshold: Annotated[float, typer.Option(help="Share of all influence that the nodes kept have.")] = 0.8,
    edge_threshold: Annotated[float, typer.Option(help="And the edges between them.")] = 0.98,
) -> None:
    """Write the attribution graph of a prompt, in circuit-tracer's format."""
    with errors_told():
        from flows import attribute as flow

        loaded = flow.last_config(_root(store), checkpoint) if config is None else _load(config, None, store)
        settings = flow.GraphSettings(max_logits, logit_share, max_features, node_threshold, edge_threshold)
        n_nodes, n_edges = flow.attribute(loaded, prompt, output, settings)
        out.print(f"{output}: {n_nodes} nodes, {n_edges} edges", soft_wrap=True, markup=False)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="Also check what this configuration names.")] = None,
    overrides: Overrides = None,
    store: StoreOption = None,
) -> None:
    """Check the installation, the store and, with a configuration, its model, corpus and transcoders."""
    with errors_told():
        _check_installation()
        root = _root(store)
        if config is not None:
            loaded = _load(config, overrides, store)
            from flows.ingest import measured_layers
            from flows.subject import identify, open_source

            source = open_source(loaded)
            root = source.store.root
            model = source.model
            size = f"{model.n_layers} layers, d_model {model.d_model}, {model.n_tokens} tokens"
            _good("model", f"{_place(source.model_from)}: {model.family.model_type}, {size}")
            names = ", ".join(corpus.source for corpus in source.corpora)
            _good("corpus", f"{names}, rows of {source.corpus.n_pos} tokens, BOS {source.bos}")
            if source.must_train:
                _good("transcoders", "none yet; `run` trains them")
            else:
                subject = identify(source)
                a = subject.attributes
                what = f"{a['transcoder_format']}, {a['d_transcoder']} features a layer, {a['activation']}"
                _good("transcoders", f"{a['transcoder_name']}: {what}, checkpoint {a['checkpoint_id']}")
                _print_quality(list(measured_layers(subject)))
        _check_store(root)


def _place(origin: Any) -> str:
    return f"{origin.name} at {origin.commit[:12]}" if origin.commit else origin.name


def _print_quality(layers: list[Any]) -> None:
    table = Table("layer", "explained variance", "L0", "dead", "loss", "with it replaced", title="Transcoders")
    for layer in layers:
        shares = f"{layer.explained_variance:.3f}", f"{layer.l0:.1f}", f"{layer.dead_share:.1%}"
        table.add_row(str(layer.layer), *shares, f"{layer.loss:.3f}", f"{layer.loss_replaced:.3f}")
    out.print(table)


def _good(name: str, text: str) -> None:
    out.print(f"[green]✓[/] [bold]{name}[/] {escape(text)}", soft_wrap=True, highlight=False)


def _check_installation() -> None:
    import duckdb
    import prefect
    import torch
    import transformers
    import zarr

    from flows.rates import gemm_flops

    versions = (
        ("torch", torch),
        ("transformers", transformers),
        ("prefect", prefect),
        ("zarr", zarr),
        ("duckdb", duckdb),
    )
    _good(
        "python", f"{sys.version.split()[0]}; " + ", ".join(f"{name} {module.__version__}" for name, module in versions)
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    rate = gemm_flops(768, os.cpu_count() or 1) / 1e9
    _good("machine", f"{os.cpu_count()} cores, float32 matrix products at {rate:.0f} GFLOP/s, {device}")
    server = os.environ.get("PREFECT_API_URL")
    _good("prefect", server or "no server set: each run starts one of its own, which costs some seconds")


def _check_store(root: Path) -> None:
    from storage.catalog import check_catalog
    from storage.store import check_place

    check_place(root)
    existing = next(path for path in (root, *root.resolve().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"store: {root} cannot be written; choose another with --store")
    check_catalog(root / "catalog.duckdb")
    free = shutil.disk_usage(existing).free
    _good("store", f"{root}: {'in use' if root.exists() else 'new'}, {_size(free)} free")


def main() -> None:
    """Entry point. Ends without taking the interpreter apart, over which DuckDB's binding prints pages of warnings."""
    code: Any = 0
    try:
        app()
    except SystemExit as end:
        code = end.code
    except Exception:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # stops the Prefect server that a run may have started
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
