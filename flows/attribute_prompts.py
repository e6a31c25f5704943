"""Attribute the prompts of a file, distributed over tasks; the graphs go to the catalog's tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import flow
from prefect.futures import PrefectFuture

from configs.run import RunConfig
from flows.one_prompt.graphs import Asked, Wanted, attribution, check_asked, check_wanted, labels
from flows.one_prompt.opened import check_prompt, last_config, open_named
from flows.running.batches import Batch, checkpoint_named, perform_batch, read_lines, run_batch_flow
from interp.circuitlens.graph import MAX_MEMORY_GB
from storage.catalog.parts import write_part
from storage.exchange.graph_rows import GraphRows, Row, graph_rows
from storage.hashing import file_sha256, short_hash
from storage.store import ShardKey, Store
from tasks.shard_task import shard_task

STAGE = "attribute_prompts"

VERSION = 3
"""Raise it when the same prompt would get another graph."""

PROMPTS_A_TASK = 8

TABLES = ("graph_nodes", "graph_edges", "graph_supernodes", "graph_heads", "graph_head_pairs", "graphs")
"""A graph's parts in the order in which they are written: the last one says that all are there."""

KEYS = {"prompt", "targets", "set", "counterfactual"}


@dataclass(frozen=True)
class Line:
    """One prompt of the file."""

    asked: Asked
    prompt_set: str


def read_prompts(file: Path, targets: Sequence[str] = (), *, chat: bool = False) -> list[Line]:
    """Read the prompts of a file. A .jsonl file has `{"prompt": "…", "set": "plural", "targets": [" are| is"]}` on each
    line; `set` (default: the file's name), `targets` (default: those given) and `counterfactual` are optional. Any
    other file has a prompt on each line.

    Raises:
        ValueError: the file or a line has another form; the line is named.
    """
    is_json = file.suffix == ".jsonl"

    def line_of(value: object) -> Line:
        return _line(value if is_json else {"prompt": value}, file.stem, targets, chat)

    return read_lines(file, line_of, is_json=is_json, holds="prompts")


def _line(value: object, name: str, targets: Sequence[str], chat: bool) -> Line:
    if not isinstance(value, dict) or not {"prompt"} <= set(value) <= KEYS:
        raise ValueError('expected {"prompt": "…", "set": "…", "targets": ["…"], "counterfactual": "…"}')
    prompt, prompt_set, own = value["prompt"], value.get("set", name), value.get("targets", list(targets))
    counterfactual = value.get("counterfactual")
    for what, one in (("the prompt", prompt), ("set", prompt_set), ("counterfactual", counterfactual)):
        if not isinstance(one, str) and not (what == "counterfactual" and one is None):
            raise ValueError(f"{what} is {one!r}; expected a text")
    check_prompt(prompt)
    if not isinstance(own, list) or not all(isinstance(one, str) for one in own):
        raise ValueError(f"targets are {own!r}; expected a list of texts")
    return Line(Asked(prompt, tuple(own), chat, counterfactual), prompt_set)


@shard_task("attribute", "attribute {key.name}")
def attribute_lines(store: Store, checkpoint_id: str, lines: Sequence[Line], wanted: Wanted, key: ShardKey) -> ShardKey:
    """Attribute some prompts, and test their graphs if wanted; each graph is written when it is finished.

    Memory: the model, its transcoders as far as they are cached, and one graph with its rows, or what testing it takes.
    """
    left = [
        number for number in range(key.start, key.stop) if not _part(store, TABLES[-1], key.recipe, number).exists()
    ]
    if not left:
        return key
    opened = open_named(store.root, checkpoint_id)
    for number in left:
        line = lines[number - key.start]
        found = graph_rows(*attribution(opened, line.asked, wanted), len(opened.texts))
        named = {"checkpoint_id": checkpoint_id, "batch": key.recipe, "number": number}
        for table in TABLES:
            rows, more = _rows_of(found, table), {"prompt_set": line.prompt_set} if table == "graphs" else {}
            columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
            write_part(_part(store, table, key.recipe, number), table, {**named, **more, **columns}, len(rows))
    return key


def _rows_of(found: GraphRows, table: str) -> list[Row]:
    return [found.graphs] if table == "graphs" else getattr(found, table)


def _part(store: Store, table: str, batch: str, number: int) -> Path:
    return store.parts(table, batch) / f"prompt-{number:08d}.parquet"


def _batch(store: Store, checkpoint_id: str, lines: list[Line], wanted: Wanted) -> str:
    """The recipe of the results: prompts, settings, files of directions, and the features' descriptions."""
    targets = {target.split("@")[0] for line in lines for target in line.asked.targets}
    files = [Path(one.removeprefix("direction:")) for one in sorted(targets) if one.startswith("direction:")]
    said = [[*place, text] for place, text in sorted(labels(store, checkpoint_id).items())]
    return short_hash(
        version=VERSION,
        checkpoint=checkpoint_id,
        lines=lines,
        wanted=_named(wanted),
        directions=[file_sha256(file) for file in files if file.is_file()],
        labels=said,
    )


def _named(wanted: Wanted) -> list[object]:
    """The part of a batch's name for what is wanted. Settings that earlier versions did not have are left out at their
    default, so that names stay the same."""
    graph = wanted.graph[:-1] if wanted.graph.max_memory_gb == MAX_MEMORY_GB else wanted.graph
    return [graph, *(wanted[1:] if wanted.heads else wanted[1:-1])]


@flow(name="attribute", flow_run_name="attribute {file}")
def attribute_prompts(config: RunConfig, checkpoint_id: str, file: Path, lines: list[Line], wanted: Wanted) -> str:
    """Attribute every prompt of a file; returns the batch's name in the tables. Finished prompts are not repeated."""
    store = Store(Path(str(config.store)))
    batch = Batch(STAGE, checkpoint_id, _batch(store, checkpoint_id, lines, wanted), f"attribute {file}")

    def submit() -> list[PrefectFuture[ShardKey]]:
        keys = batch.shards(len(lines), PROMPTS_A_TASK)
        return [attribute_lines.submit(store, checkpoint_id, lines[key.start : key.stop], wanted, key) for key in keys]

    parts = {table: [_part(store, table, batch.name, at) for at in range(len(lines))] for table in TABLES}
    return perform_batch(config, batch, submit, parts)


def run_prompts(root: Path, checkpoint: str | None, file: Path, lines: list[Line], wanted: Wanted) -> str:
    """Attribute the prompts of a file on a checkpoint of a store (by id or name), with the engine of its last run.

    Raises:
        ValueError: another run has locked the store, a prompt is too long, or a target is not valid.
    """
    check_wanted(wanted)
    for line in lines:
        check_asked(line.asked, wanted)
    store = Store(root)
    checkpoint_id = checkpoint_named(store, checkpoint)
    config = last_config(root, checkpoint_id)
    return run_batch_flow(
        store, f"attribute {file.name}", lambda: attribute_prompts(config, checkpoint_id, file, lines, wanted)
    )
