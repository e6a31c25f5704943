"""Maintenance of the store and checks of the installation: `vacuum`, `doctor`."""

import os
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from flows.cli.app import (
    AnswerOption,
    Overrides,
    StoreOption,
    app,
    load,
    out,
    print_quality,
    report_errors,
    size_text,
    store_root,
)
from flows.cli.doctor_report import DoctorReport
from flows.reports.tables import Table
from flows.running.progress import working
from interp.display import visible

if TYPE_CHECKING:
    from configs.run import RunConfig
    from flows.inputs.checkpoint_plan import CheckpointPlan
    from flows.inputs.origin import Origin


@app.command()
def vacuum(
    store: StoreOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    answers: Annotated[
        bool, typer.Option("--answers", help="Also remove answers of language models that were paid for.")
    ] = False,
) -> None:
    """List files that nothing in the catalog needs, and remove them."""
    from storage.bucket.working_copy import files_there, hold
    from storage.catalog.vacuum import remove, unneeded
    from storage.store import Store, open_store

    with report_errors():
        place = Store(store_root(store))
        found = unneeded(place, answers=answers, there=files_there(place))
        if not found:
            out.print("Nothing to remove: the catalog needs every file in the store")
            return
        table = Table("folder or file", "size", "why", title="Not needed")
        for item in found:
            table.add_row(visible(str(item.path.relative_to(place.root))), size_text(item.n_bytes), item.why)
        out.print(table)
        if not yes and not typer.confirm("Remove them?"):
            return
        open_store(place.root)
        with hold(place, "vacuum", everything=False):
            shown = {item.path for item in found}
            still = unneeded(place, answers=answers, there=files_there(place))
            remove([item for item in still if item.path in shown])
        out.print(f"{size_text(sum(item.n_bytes for item in found))} removed")


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="Also check the inputs of this configuration.")] = None,
    overrides: Overrides = None,
    store: StoreOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged files that can be computed again, never ingested weights.")
    ] = False,
    as_json: AnswerOption = False,
) -> None:
    """Check the installation, the store and, with a configuration, its model, corpus and transcoders.

    With --store or --repair, every file of the store is read and compared with its checksum.
    """
    with report_errors():
        report = DoctorReport(as_json)
        try:
            _check_installation(report)
            root = store_root(store) if config is None else _check_named(report, load(config, overrides, store))
            is_read = store is not None or repair
            _check_store(report, root, is_read)
            if is_read and root.exists():
                _examine(report, root, repair)
        except ValueError as error:
            if as_json:
                report.bad("error", str(error))
            raise
        finally:
            report.finish()


def _check_named(report: DoctorReport, loaded: "RunConfig") -> Path:
    """Check the inputs of a configuration; returns where its store is."""
    from flows.ingest import measured_layers
    from flows.inputs.checkpoint_plan import identify, open_inputs

    inputs = open_inputs(loaded)
    model = inputs.model
    size = f"{model.n_layers} layers, d_model {model.d_model}, {model.n_tokens} tokens"
    report.good("model", f"{_place(inputs.model_from)}: {', '.join([model.family.model_type, size, *model.folded])}")
    names = ", ".join(corpus.source for corpus in inputs.corpora)
    report.good("corpus", f"{names}, rows of {inputs.corpus.n_pos} tokens, BOS {inputs.bos}")
    if inputs.must_train:
        report.good("transcoders", "none yet; `run` trains them")
        return inputs.store.root
    plan = identify(inputs)
    a = plan.attributes
    what = f"{a.transcoder_format}, {a.d_transcoder} features a layer, {a.activation}"
    report.good("transcoders", f"{a.transcoder_name}: {what}, checkpoint {a.checkpoint_id}")
    _report_hooks(report, plan)
    layers = list(measured_layers(plan))
    report.figures["quality"] = [asdict(layer) for layer in layers]
    if not report.as_json:
        print_quality(layers)
    return inputs.store.root


def _report_hooks(report: DoctorReport, plan: "CheckpointPlan") -> None:
    """Measure the release under every plausible pair of hooks, and say which fits best."""
    from flows.hook_candidates import measure_candidates

    with working("measure the release at every plausible pair of hooks"):
        found = measure_candidates(plan)
    layers = [f"layer {layer.layer}" for layer in found.every[0].layers]
    title = "Explained variance and L0, by where the transcoders read and write"
    table = Table("input", "output", *layers, "", title=title)
    for reading in found.every:
        figures = [f"{layer.explained_variance:.3f}, {layer.l0:.1f}" for layer in reading.layers]
        table.add_row(*reading.hooks, *figures, "as read" if reading.hooks == found.used else "")
    report.say(table)
    report.figures["readings"] = [
        {**reading.hooks._asdict(), "used": reading.hooks == found.used, "layers": list(map(asdict, reading.layers))}
        for reading in found.every
    ]
    if found.advice is None:
        used = f"input {found.used.feature_input}, output {found.used.feature_output}"
        report.good("hooks", f"{used}: no other pair of hooks explains more")
    else:
        report.bad("hooks", found.advice)


def _place(origin: "Origin") -> str:
    return f"{origin.name} at {origin.commit[:12]}" if origin.commit else origin.name


def _check_installation(report: DoctorReport) -> None:
    import duckdb
    import prefect
    import torch
    import transformers
    import zarr

    from flows.costs.rates import gemm_flops

    versions = (
        ("torch", torch),
        ("transformers", transformers),
        ("prefect", prefect),
        ("zarr", zarr),
        ("duckdb", duckdb),
    )
    report.good(
        "python", f"{sys.version.split()[0]}; " + ", ".join(f"{name} {module.__version__}" for name, module in versions)
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    rate = gemm_flops(768, os.cpu_count() or 1) / 1e9
    report.good("machine", f"{os.cpu_count()} cores, float32 matrix products at {rate:.0f} GFLOP/s, {device}")
    server = os.environ.get("PREFECT_API_URL")
    report.good("prefect", server or "no server is set: each run starts its own, which takes some seconds")


def _examine(report: DoctorReport, root: Path, repairing: bool) -> None:
    """Check the whole store, report damage, and repair it if wanted.

    Raises:
        ValueError: something is damaged and not repaired.
    """
    from storage.bucket.working_copy import hold
    from storage.catalog.database import check_database
    from storage.damage import advice, examine
    from storage.repair import repair
    from storage.store import Store

    found = list(examine(root, check_database))
    damaged = [one for one in found if one.problem]
    n_unchecked = sum(not one.has_checksum for one in found)
    if n_unchecked:
        report.say(f"{n_unchecked} files were written by an earlier version without a checksum; they can be read")
    report.figures["n_without_checksum"] = n_unchecked
    if not damaged:
        report.good("store", f"{len(found)} files read, nothing is damaged")
        return
    for one in damaged:
        what = f"{one.path.relative_to(root)}: {one.problem}; {advice(one)}"
        report.bad(one.kind.name, what)
    left = damaged
    if repairing:
        with hold(Store(root), "doctor --repair", everything=False):
            for sentence in repair(Store(root), damaged):
                report.say(Text(sentence))
        left = [one for one in damaged if not one.kind.is_repaired]
    if left:
        n_repaired = sum(one.kind.is_repaired for one in left)
        how = f"; --repair repairs {n_repaired} of them" if n_repaired else ""
        raise ValueError(f"store: {root} is damaged in {len(left)} places{how}")


def _check_store(report: DoctorReport, root: Path, is_examined: bool) -> None:
    from storage.bucket.mirror import name_of
    from storage.catalog.database import check_catalog
    from storage.checksums import DamagedError
    from storage.store import Store, check_place, is_held

    check_place(root)
    existing = next(path for path in (root, *root.resolve().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"store: {root} cannot be written; choose another with --store")
    with suppress(*[DamagedError] * is_examined):  # reported with the rest
        check_catalog(root / "catalog.duckdb")
    free = shutil.disk_usage(existing).free
    where = name_of(Store(root))
    if where != str(root):
        report.good("store", f"{where} can be reached; its local copy is {root}")
    state = "new" if not root.exists() else "a run holds it" if is_held(Store(root)) else "no run holds it"
    report.good("store", f"{root}: {state}, {size_text(free)} free")
