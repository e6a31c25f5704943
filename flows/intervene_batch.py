"""Thousands of interventions from a file, distributed over tasks; the results go to the table `interventions`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from prefect import flow
from prefect.futures import PrefectFuture

from configs.run import RunConfig
from flows.one_prompt.asked import asked_change
from flows.one_prompt.intervene import Intervened, Question, intervene
from flows.one_prompt.opened import check_prompt, last_config, open_named
from flows.running.batches import Batch, checkpoint_named, perform_batch, read_lines, run_batch_flow
from storage.catalog.parts import write_part
from storage.hashing import short_hash
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
        """The question that all lines of the same prompt, targets and source share."""
        return Question(self.prompt, self.targets, self.swap_from)


def read_interventions(file: Path) -> list[Line]:
    """Read the interventions of a JSONL file: `{"prompt": "…", "changes": ["12/345=off"], "targets": [" Paris"]}` on
    each line; `targets` and `swap_from` are optional.

    Raises:
        ValueError: the file or a line has another form; the line is named.
    """
    return read_lines(file, _line, is_json=True, holds="interventions")


def _line(value: object) -> Line:
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

    Memory: the model, its transcoders as far as they are cached, and the memory of `flows.one_prompt.intervene`.
    """
    path = _part(store, key)
    if path.exists():
        return key
    opened = open_named(store.root, checkpoint_id)
    numbered = sorted(enumerate(lines, key.start), key=lambda pair: (str(pair[1].question), pair[0]))
    rows: list[dict[str, object]] = []
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


def _rows(number: int, question: Question, found: Intervened) -> Iterator[dict[str, object]]:
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
    lines = read_interventions(file)
    name = short_hash(version=VERSION, checkpoint=checkpoint_id, lines=lines)
    batch = Batch(STAGE, checkpoint_id, name, f"intervene {file}")
    keys = batch.shards(len(lines), LINES_A_TASK)

    def submit() -> list[PrefectFuture[ShardKey]]:
        return [intervene_lines.submit(store, checkpoint_id, lines[key.start : key.stop], key) for key in keys]

    return perform_batch(config, batch, submit, {"interventions": [_part(store, key) for key in keys]})


def run_batch(root: Path, checkpoint: str | None, file: Path) -> str:
    """Make every intervention of a file on a checkpoint of a store (by id or name), with the engine of its last run.

    Raises:
        ValueError: the file has another form, another run has locked the store, or an intervention is not valid.
    """
    read_interventions(file)
    store = Store(root)
    checkpoint_id = checkpoint_named(store, checkpoint)
    config = last_config(root, checkpoint_id)
    return run_batch_flow(store, f"intervene {file.name}", lambda: intervene_batch(config, checkpoint_id, file))
