"""Query a store: `sql`, `show`, `show-head`, `search`, `agreement`; `export` results, and `import` those of others."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import (
    AnswerOption,
    CheckpointOption,
    JsonOption,
    StoreOption,
    app,
    err,
    out,
    print_json,
    report_errors,
    size_text,
    store_root,
)
from flows.reports.query import Format, ask

EmbeddingsOption = Annotated[
    str | None,
    typer.Option(
        envvar="CIRCUIT_INSIGHTS_EMBEDDINGS",
        help="Also compare meanings, by this embedding model: a folder, or an OpenAI-compatible address (…/v1).",
    ),
]
EmbeddingModelOption = Annotated[
    str | None,
    typer.Option(envvar="CIRCUIT_INSIGHTS_EMBEDDING_MODEL", help="Name of the model, if --embeddings is an address."),
]


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="A query; docs/schema.md lists the tables.")],
    store: StoreOption = None,
    format: Annotated[Format, typer.Option(help="table, csv, json, or parquet with --output.")] = Format.table,
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which a query is stopped.")] = 600.0,
) -> None:
    """Query the catalog in SQL, read-only. Rows are written as they are found.

    In a terminal, a table is folded to its width, or printed with one row in each block; in a file or pipe it is
    complete. In a terminal, control characters in texts are escaped, in every format. In a file or pipe, csv, json and
    parquet contain the texts unchanged; a table has them escaped there too.
    """
    with report_errors():
        ask(store_root(store) / "catalog.duckdb", query, format, output, timeout)


@app.command()
def attach(
    stores: Annotated[list[Path], typer.Argument(help="Folders of stores, two or more.")],
    query: Annotated[
        str | None,
        typer.Option("--sql", help="A query over all stores; default: the view `models`. See docs/queries.md."),
    ] = None,
    format: Annotated[Format, typer.Option(help="table, csv, json, or parquet with --output.")] = Format.table,
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which a query is stopped.")] = 600.0,
) -> None:
    """Query several stores together, read-only: every table gets the column `store` before its own, and the views
    `models` and `by_depth` compare models."""
    from flows.reports.several_stores import ask_several

    with report_errors():
        ask_several(stores, query or "SELECT * FROM models", format, output, timeout)


@app.command()
def show(
    layer: int,
    feature: int,
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    as_json: AnswerOption = False,
) -> None:
    """Print all results about one feature. Control characters in texts are escaped."""
    from flows.reports.card import feature_card

    with report_errors():
        if as_json:
            from flows.cli.answers import feature_answer

            print_json(feature_answer(store_root(store) / "catalog.duckdb", layer, feature, checkpoint))
            return
        for part in feature_card(store_root(store) / "catalog.duckdb", layer, feature, checkpoint):
            out.print(part)


@app.command()
def show_head(layer: int, head: int, store: StoreOption = None, checkpoint: CheckpointOption = None) -> None:
    """Print what an attention head does: which features it contributes to, from which tokens, why it attends there."""
    from flows.reports.head_card import head_card

    with report_errors():
        for part in head_card(store_root(store) / "catalog.duckdb", layer, head, checkpoint):
            out.print(part)


@app.command()
def search(
    words: Annotated[str, typer.Argument(help='Words, "phrases" in double quotes, beginnings of words with a star.')],
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    layer: Annotated[int | None, typer.Option(min=0, help="Only features of this layer.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Number of features in each list.")] = 10,
    embeddings: EmbeddingsOption = None,
    embedding_model: EmbeddingModelOption = None,
) -> None:
    """Search for features by words in their descriptions and in the texts on which they fire."""
    from flows.reports.search_results import Wanted, found

    with report_errors():
        wanted = Wanted(words, checkpoint, layer, limit, embeddings, embedding_model)
        for part in found(store_root(store) / "catalog.duckdb", wanted):
            out.print(part)


@app.command()
def agreement(
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    embeddings: EmbeddingsOption = None,
    embedding_model: EmbeddingModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare descriptions and scores with imported ones, method by method."""
    from flows.reports.agreement import agreement as compared
    from flows.reports.agreement import agreement_table

    with report_errors():
        embedder = None
        if embeddings is not None:
            from storage.search.embedders import open_embedder  # transformers takes seconds to import

            embedder = open_embedder(embeddings, embedding_model)
        rows = compared(store_root(store) / "catalog.duckdb", checkpoint, embedder)
        if not as_json:
            out.print(agreement_table(rows))
        for row in rows if as_json else []:
            print_json(row)


class Imported(StrEnum):
    """What `import` reads."""

    weightlens_json = "weightlens-json"
    descriptions = "descriptions"
    notes_jsonl = "notes-jsonl"


class Exported(StrEnum):
    """The formats of `export`."""

    weightlens_json = "weightlens-json"
    parquet = "parquet"
    hf = "hf"
    neuronpedia = "neuronpedia"
    delphi = "delphi"
    site = "site"


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    format: Annotated[
        Exported,
        typer.Option(
            help="weightlens-json: feature_analysis_layer_N.json; parquet: every table, with a manifest; hf: a dataset "
            "for the Hugging Face Hub, with a card; neuronpedia: the layout of its bulk exports; delphi: folders of "
            "latents and explanations; site: the explorer's pages, which need no server."
        ),
    ],
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder that has files, replacing those of the same name.")
    ] = False,
    features: Annotated[
        str | None, typer.Option(help="For a site: all, top (the 100 best described of each layer), or 2/899,2/902,…")
    ] = None,
    graphs: Annotated[Path | None, typer.Option(help="For a site: a folder of attribution graphs to include.")] = None,
) -> None:
    """Write results in the format of another tool, or as pages to share."""
    from flows.exchange import (
        expect_empty,
        export_hub_dataset,
        export_parquet,
        export_to_delphi,
        export_to_neuronpedia,
        export_weightlens,
    )
    from storage.store import Store

    with report_errors():
        root = store_root(store)
        expect_empty(folder, overwrite)
        if format is Exported.site:
            _export_site(root, checkpoint, features or "top", folder, graphs)
            return
        for option, given in (("--features", features), ("--graphs", graphs)):
            if given is not None:
                raise ValueError(f"{option} needs --format site, and has no effect with {format.value}")
        writers = {
            Exported.weightlens_json: export_weightlens,
            Exported.parquet: export_parquet,
            Exported.hf: export_hub_dataset,
            Exported.neuronpedia: export_to_neuronpedia,
            Exported.delphi: export_to_delphi,
        }
        for path in writers[format](Store(root), checkpoint, folder):
            out.print(str(path), soft_wrap=True, markup=False)


def _export_site(root: Path, checkpoint: str | None, features: str, folder: Path, graphs: Path | None) -> None:
    from rich.progress import Progress

    from explorer.catalog import Place
    from explorer.site import write_site
    from flows.inputs.named import chosen_checkpoint
    from storage.catalog.published import open_published

    if graphs is not None and not graphs.is_dir():
        raise ValueError(f"--graphs: no folder {graphs}")
    with open_published(root / "catalog.duckdb") as connection:
        checkpoint_id = chosen_checkpoint(connection, checkpoint)[0]
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("pages of features")
        site = write_site(
            Place(root, graphs),
            checkpoint_id,
            features,
            folder,
            lambda done, of: bar.update(task, completed=done, total=of),
        )
    sizes = f"{size_text(site.feature_bytes)} each, {size_text(site.feature_bytes_compressed)} compressed"
    out.print(f"{folder / 'index.html'}", soft_wrap=True, markup=False)
    out.print(f"{site.n_features} features, {sizes}; {site.n_files} files, {size_text(site.n_bytes)}")


@app.command("import")
def import_(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="The folder with the files, hub:OWNER/NAME[@REVISION], or the file of notes."
        ),
    ],
    format: Annotated[
        Imported,
        typer.Option(
            help="weightlens-json: feature_analysis_layer_N.json; descriptions: tables of descriptions and scores in "
            "Parquet or JSON; notes-jsonl: descriptions by hand."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the other tool's results in the catalog.")] = None,
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Import another tool's results about an ingested checkpoint, as a checkpoint of their own, or descriptions that
    people wrote in the explorer, as the method `human`."""
    from flows.exchange import import_weightlens
    from flows.import_notes import import_notes
    from flows.import_published import import_descriptions, local_folder
    from storage.store import Store

    with report_errors():
        if format is Imported.notes_jsonl:
            n = import_notes(Store(store_root(store)), Path(place), checkpoint)
            out.print(f"{n} descriptions by hand")
            return
        if name is None:
            raise ValueError("--name: give the name that they get in the catalog")
        bring_in = import_descriptions if format is Imported.descriptions else import_weightlens
        out.print(f"checkpoint {bring_in(Store(store_root(store)), local_folder(place), checkpoint, name)}")
