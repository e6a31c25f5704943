"""Answers of language models, stored by the hash of the question, so that none is asked or paid for twice.

answers/<ab>/<sha256>.json      an answer and what it cost
answers/batches/<name>.json     a batch that was sent and whose answers have not been fetched
answers/ledger/<run_id>.jsonl   reserved and spent amounts: `storage.llm_ledger`
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from interp.descriptions.llm_questions import Answer, Prompt, parsed
from storage.store import Store, read_as, write_json

_SHA256 = re.compile("[0-9a-f]{64}")

MAX_ANSWERS = 2
"""How often a question is asked if its answers are truncated or malformed."""


@dataclass(frozen=True)
class Call:
    """One question that was sent, or answered from the store: a row of `llm_calls`."""

    call_id: str
    run_id: str
    purpose: str
    model: str
    prompt_sha256: str
    latency_s: float = 0.0
    cached: bool = False
    """Whether the answer came from the store."""
    status: str = "ok"
    """`ok`, or why there is no usable answer."""
    error: str | None = None
    characters: int = 0
    """Length of the question, instructions included; 0 where it is no longer known."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    set_aside_usd: float = 0.0
    """USD reserved for a question that may have been answered and charged although no answer arrived."""


class Kept(NamedTuple):
    """A stored answer to one question."""

    text: str | None
    """The answer, unparsed; None if `problem` says why there is none."""
    problem: str | None
    detail: str
    attempts: int
    """How many times the model answered; after a malformed answer the question is asked again."""
    calls: list[Call]
    """The paid calls, one for each answer."""


class OpenBatch(NamedTuple):
    """A message batch that was sent, or was about to be sent."""

    batch_id: str | None
    """The server's id; None if the process ended after sending the batch and before the id arrived."""
    sha256: list[str]
    sent_at: str
    """Time of sending, UTC, in ISO format."""
    model: str | None = None
    """The model that was asked; None in files of earlier versions."""


@dataclass(frozen=True)
class AnswerStore:
    """The answers in a store."""

    store: Store

    @property
    def folder(self) -> Path:
        """The folder of the answers."""
        return self.store.root / "answers"

    def path(self, sha256: str) -> Path:
        """The file of the answer to a question."""
        if not _SHA256.fullmatch(sha256):  # nothing in a server's answer may become part of a path
            raise ValueError(f"expected the SHA-256 of a question, found {sha256[:80]!r}")
        return self.folder / sha256[:2] / f"{sha256}.json"

    def read(self, sha256: str) -> Kept | None:
        """Read a stored answer.

        Raises:
            DamagedError: the file is damaged.
        """
        path = self.path(sha256)
        if not path.is_file():
            return None
        return read_as(path, Kept)

    def write(self, sha256: str, kept: Kept) -> None:
        """Store an answer."""
        calls = [asdict(call) for call in kept.calls]
        write_json(self.path(sha256), {**kept._asdict(), "calls": calls})

    def batches(self) -> Iterator[tuple[Path, OpenBatch]]:
        """Batches whose answers have not been fetched, the oldest first."""
        found = [(path, read_as(path, OpenBatch)) for path in (self.folder / "batches").glob("*.json")]
        yield from sorted(found, key=lambda pair: pair[1].sent_at)

    def batch_path(self, name: str) -> Path:
        """The file of an open batch."""
        return self.folder / "batches" / f"{name}.json"


def look_up(answers: AnswerStore, model: str, prompt: Prompt, unanswered: dict[str, Answer]) -> Answer | None:
    """The stored answer to a question, if there is one."""
    sha256 = prompt.sha256(model)
    kept = answers.read(sha256)
    if kept is None or (asked_again(kept, prompt) and sha256 not in unanswered):
        return unanswered.get(sha256)
    if kept.text is None:
        return Answer(None, kept.problem, kept.detail)
    value = parsed(kept.text, prompt.schema)
    return Answer(value) if value is not None else Answer(None, "malformed", kept.text[:500])


def asked_again(kept: Kept, prompt: Prompt) -> bool:
    """Whether a question with an unusable answer is worth asking again."""
    useless = kept.problem == "truncated" or (kept.text is not None and parsed(kept.text, prompt.schema) is None)
    return useless and kept.attempts < MAX_ANSWERS
