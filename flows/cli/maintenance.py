"""The store and the installation looked after: `vacuum`, `doctor`."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli.app import Overrides, StoreOption, app, load, out, print_quality, report_errors, size_text, store_root


@app.command()
def vacuum(
    store: StoreOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, remove.")] = False,
    answers: Annotated[bool, typer.Option("--answers", help="Also what language models were paid for.")] = False,
) -> None:
    """Show what nothing in the catalog rests on, and remove it."""
    from storage.bucket.working_copy import files_there, hold
    from storage.catalog.vacuum import remove, unneeded
    from storage.store import Store

    with report_errors():
        place = Store(store_root(store))
        found = unneeded(place, answers=answers, there=files_there(place))
        if not found:
            out.print("Nothing to remove: the catalog rests on everything that the store holds")
            return
        table = Table("folder", "size", "why", title="Not needed")
        for item in found:
            table.add_row(escape(str(item.path.relative_to(place.root))), size_text(item.n_bytes), item.why)
        out.print(table)
        if not yes and not typer.confirm("Remove them?"):
            return
        with hold(place, "vacuum", everything=False):
            shown = {item.path for item in found}
            still = unneeded(place, answers=answers, there=files_there(place))
            remove([item for item in still if item.path in shown])
        out.print(f"{size_text(sum(item.n_bytes for item in found))} removed")


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="Also check what this configuration names.")] = None,
    overrides: Overrides = None,
    store: StoreOption = None,
) -> None:
    """Check the installation, the store and, with a configuration, its model, corpus and transcoders."""
    with report_errors():
        _check_installation()
        if config is None:
            root = store_root(store)
        else:
            loaded = load(config, overrides, store)
            from flows.ingest import measured_layers
            from flows.subject.subject import identify, open_source

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
                what = f"{a.transcoder_format}, {a.d_transcoder} features a layer, {a.activation}"
                _good("transcoders", f"{a.transcoder_name}: {what}, checkpoint {a.checkpoint_id}")
                print_quality(list(measured_layers(subject)))
        _check_store(root)


def _place(origin: Any) -> str:
    return f"{origin.name} at {origin.commit[:12]}" if origin.commit else origin.name


def _good(name: str, text: str) -> None:
    out.print(f"[green]✓[/] [bold]{name}[/] {escape(text)}", soft_wrap=True, highlight=False)


def _check_installation() -> None:
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
    _good(
        "python", f"{sys.version.split()[0]}; " + ", ".join(f"{name} {module.__version__}" for name, module in versions)
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    rate = gemm_flops(768, os.cpu_count() or 1) / 1e9
    _good("machine", f"{os.cpu_count()} cores, float32 matrix products at {rate:.0f} GFLOP/s, {device}")
    server = os.environ.get("PREFECT_API_URL")
    _good("prefect", server or "no server set: each run starts one of its own, which costs some seconds")


def _check_store(root: Path) -> None:
    from storage.bucket.mirror import name_of
    from storage.catalog.database import check_catalog
    from storage.store import Store, check_place

    check_place(root)
    existing = next(path for path in (root, *root.resolve().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"store: {root} cannot be written; choose another with --store")
    check_catalog(root / "catalog.duckdb")
    free = shutil.disk_usage(existing).free
    where = name_of(Store(root))
    if where != str(root):
        _good("store", f"{where}, reached; worked with in {root}")
    _good("store", f"{root}: {'in use' if root.exists() else 'new'}, {size_text(free)} free")
