"""Thousands of interventions from a file, distributed over tasks; the results go to the table `interventions`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from prefect import flow

from configs.run import RunConfig
from flows.prompts.asked import asked_change
from flows.prompts.intervene import Intervened, Question, intervene
from flows.prompts.opened import check_prompt, last_config, open_named
from flows.running.engine import prefect_at_hand, wait_for_all
from flows.running.progress import working
from flows.running.stage import StageRun, stage_recorded, store_held
from flows.subject.named import chosen_checkpoint
from storage.bucket.working_copy import push_rest
from storage.catalog.database import loaded_recipe, mark_loaded, open_catalog, replace_rows
from storage.catalog.parts import write_part
from storage.catalog.published import open_published
from storage.catalog.runs import new_run_id
from storage.recipes import short_hash
from storage.store import ShardKey, Store
from tasks.shard_task import shard_task

STAGE = "intervene"

VERSION = 2
"""Raise it when the same line would get other results."""

LINES_A_TASK = 256

KEYS = {"prompt", "changes", "targets", "swap_from"}


@dataclass(frozen=True)
class Line:
    """One line of the file."""

    prompt: str
    changes: tuple[str, ...]
    targets: tuple[str, ...] = ()
    swap_from: str | None = None

    @property
    def question(self) -> Question:
        return Question(self.prompt, self.targets, self.swap_from)


def read_lines(file: Path) -> list[Line]:
    """Read the interventions of a JSONL file: `{"prompt": "…", "changes": ["12/345=off"], "targets": [" Paris"]}` on
    each line; `targets` and `swap_from` are optional.

    Raises:
        ValueError: the file or a line has another form; the line is named.
    """
    lines = []
    try:
        texts = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    for number, text in enumerate(texts, 1):
        if text.strip():
            try:
                lines.append(_line(json.loads(text)))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
    if not lines:
        raise ValueError(f"{file} holds no interventions")
    return lines


def _line(value: Any) -> Line:
    if not isinstance(value, dict) or not {"prompt", "changes"} <= set(value) <= KEYS:
        raise ValueError('expected {"prompt": "…", "changes": ["LAYER/FEATURE=VALUE", …], "targets": […]}')
    prompt, swap_from = value["prompt"], value.get("swap_from")
    changes, targets = value["changes"], value.get("targets", [])
    for one in (prompt, *([] if swap_from is None else [swap_from])):
        if not isinstance(one, str):
            raise ValueError(f"a prompt is {one!r}; expected a text")
        check_prompt(one)
    for some in (changes, targets):
        if not isinstance(some, list) or not all(isinstance(one, str) for one in some):
            raise ValueError(f"{some!r}: expected a list of texts")
    if not changes:
        raise ValueError("changes are empty; name a feature or a head")
    for one in changes:
        asked_change(one)
    return Line(prompt, tuple(changes), tuple(targets), swap_from)


@shard_task("intervene", "intervene {key.name}")
def intervene_lines(store: Store, checkpoint_id: str, lines: Sequence[Line], key: ShardKey) -> ShardKey:
    """Make the interventions of some lines, those of one prompt together.

    Memory: the model, its transcoders as far as they are cached, and the memory of `flows.prompts.intervene`.
    """
    path = _part(store, key)
    if path.exists():
        return key
    opened = open_named(store.root, checkpoint_id)
    numbered = sorted(enumerate(lines, key.start), key=lambda pair: (str(pair[1].question), pair[0]))
    rows: list[dict[str, Any]] = []
    for _, group in groupby(numbered, key=lambda pair: str(pair[1].question)):
        some = list(group)
        asked = [[asked_change(text) for text in line.changes] for _, line in some]
        question = some[0][1].question
        for (number, _), found in zip(some, intervene(opened, question, asked), strict=True):
            rows += _rows(number, question, found)
    rows.sort(key=lambda row: (row["number"], row["target"]))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    write_part(path, "interventions", {"checkpoint_id": checkpoint_id, "batch": key.recipe, **columns}, len(rows))
    return key


def _rows(number: int, question: Question, found: Intervened) -> Iterator[dict[str, Any]]:
    for effect in found.effects:
        yield {
            "number": number, "prompt": question.prompt, "swap_from": question.swap_from,
            "intervention": ", ".join(found.interventions), **effect._asdict(), "next_before": found.next_before,
            "next_after": found.next_after, "kl": found.kl,
        }  # fmt: skip


def _part(store: Store, key: ShardKey) -> Path:
    return store.parts("interventions", key.recipe) / f"lines-{key.start:08d}-{key.stop:08d}.parquet"


@flow(name="intervene", flow_run_name="intervene {file}")
def intervene_batch(config: RunConfig, checkpoint_id: str, file: Path) -> str:
    """Make every intervention of a file; returns the batch's name in the table. Finished ones are not repeated."""
    store = Store(Path(str(config.store)))
    lines = read_lines(file)
    batch = short_hash(version=VERSION, checkpoint=checkpoint_id, lines=lines)
    subject = f"{checkpoint_id} {batch}"
    if loaded_recipe(store.catalog, subject, STAGE) == batch:
        return batch
    starts = range(0, len(lines), LINES_A_TASK)
    keys = [ShardKey(batch, 0, start, min(start + LINES_A_TASK, len(lines))) for start in starts]
    run = StageRun(new_run_id(), STAGE, batch, checkpoint_id)
    with store_held(config, store, f"intervene {file}"), stage_recorded(config, store, run):
        futures = [intervene_lines.submit(store, checkpoint_id, lines[key.start : key.stop], key) for key in keys]
        wait_for_all(futures, "intervene")
        with open_catalog(store.catalog, write=True) as connection:
            where = {"checkpoint_id": checkpoint_id, "batch": batch}
            replace_rows(connection, "interventions", where, [_part(store, key) for key in keys])
            mark_loaded(connection, subject, STAGE, batch)
    return batch


def run_batch(root: Path, checkpoint: str | None, file: Path) -> str:
    """Make every intervention of a file on a checkpoint of a store (by id or name), with the engine of its last run.

    Raises:
        ValueError: the file has another form, another run has locked the store, or an intervention is not valid.
    """
    read_lines(file)
    store = Store(root)
    with open_published(store.catalog) as connection:
        checkpoint_id = chosen_checkpoint(connection, checkpoint)[0]
    with prefect_at_hand(), working(f"intervene {file.name}"):
        batch = intervene_batch(last_config(root, checkpoint_id), checkpoint_id, file)
    push_rest(store)
    return batch
