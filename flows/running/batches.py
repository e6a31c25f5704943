"""The common part of flows that read a file of lines, divide it among tasks, and load the rows under one name."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from prefect.futures import PrefectFuture

from configs.run import RunConfig
from flows.inputs.named import chosen_checkpoint
from flows.running.engine import prefect_at_hand, wait_for_all
from flows.running.progress import working
from flows.running.stage import StageRun, stage_recorded, store_held
from storage.bucket.working_copy import push_rest
from storage.catalog.database import loaded_recipe, mark_loaded, open_catalog, replace_rows
from storage.catalog.published import open_published
from storage.catalog.runs import new_run_id
from storage.store import ShardKey, Store

L = TypeVar("L")


class Batch(NamedTuple):
    """The lines of a file, for one checkpoint."""

    stage: str
    """The name of its stage in the table `runs`."""
    checkpoint_id: str
    name: str
    """A hash of everything that the rows depend on; it is in their column `batch`."""
    purpose: str
    """The purpose that other runs see while this one holds the store."""

    def shards(self, n_lines: int, lines_a_task: int) -> list[ShardKey]:
        """The keys of all tasks, each with its range of lines."""
        starts = range(0, n_lines, lines_a_task)
        return [ShardKey(self.name, 0, start, min(start + lines_a_task, n_lines)) for start in starts]


def read_lines(file: Path, line_of: Callable[[object], L], *, is_json: bool, holds: str) -> list[L]:
    """The results of `line_of` for each line that is not blank, parsed as JSON if it is. `holds` names the expected
    content in errors.

    Raises:
        ValueError: the file is not UTF-8 or has no lines, or a line is wrong; the line is named.
    """
    try:
        texts = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    lines = []
    for number, text in enumerate(texts, 1):
        if text.strip():
            try:
                lines.append(line_of(json.loads(text) if is_json else text))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
    if not lines:
        raise ValueError(f"{file} holds no {holds}")
    return lines


def perform_batch(
    config: RunConfig,
    batch: Batch,
    submit: Callable[[], Sequence[PrefectFuture[ShardKey]]],
    parts: Mapping[str, Sequence[Path]],
) -> str:
    """Run the tasks of a batch within a flow, and load its tables from their parts; returns the batch's name.

    A batch that the catalog already has is not repeated.
    """
    store = Store(Path(str(config.store)))
    subject = f"{batch.checkpoint_id} {batch.name}"
    if loaded_recipe(store.catalog, subject, batch.stage) == batch.name:
        return batch.name
    run = StageRun(new_run_id(), batch.stage, batch.name, batch.checkpoint_id)
    with store_held(config, store, batch.purpose), stage_recorded(config, store, run):
        wait_for_all(submit(), batch.purpose)
        with open_catalog(store.catalog, write=True) as connection:
            where = {"checkpoint_id": batch.checkpoint_id, "batch": batch.name}
            for table, files in parts.items():
                replace_rows(connection, table, where, files)
            mark_loaded(connection, subject, batch.stage, batch.name)
    return batch.name


def checkpoint_named(store: Store, checkpoint: str | None) -> str:
    """The id of the checkpoint with this id or name, or of the only one.

    Raises:
        ValueError: there is no such checkpoint.
    """
    with open_published(store.catalog) as connection:
        return chosen_checkpoint(connection, checkpoint)[0]


def run_batch_flow(store: Store, title: str, flow: Callable[[], str]) -> str:
    """Run the flow of a batch in this process, with a Prefect server, and return its result.

    Raises:
        ValueError: another run holds the store, or a line asks for something that does not exist.
    """
    with prefect_at_hand(), working(title):
        name = flow()
    push_rest(store)
    return name
