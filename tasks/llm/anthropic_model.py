"""Ask Claude: answers kept before anything else happens, costs counted to the token, a budget that is never passed."""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import httpx2
from anthropic.types import Message

from interp.descriptions.llm_questions import Answer, Prompt
from interp.descriptions.settings import AnthropicSettings
from storage.answers import MAX_ANSWERS, AnswerStore, Kept, OpenBatch, asked_again, look_up
from storage.store import write_json
from tasks.llm.anthropic_prices import CHARACTERS_PER_TOKEN, Estimate, cost_usd, estimate, priced

KEY = "ANTHROPIC_API_KEY"

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that may pass."""

Result = TypeVar("Result")


class Unanswered(Exception):  # noqa: N818
    """A question got no answer, and why."""

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(problem, detail)
        self.problem, self.detail = problem, detail


def client_for(settings: AnthropicSettings) -> anthropic.Anthropic:
    """A client with the key of the environment.

    Raises:
        ValueError: there is none.
    """
    key = os.environ.get(KEY)
    if not key:
        raise ValueError(f"{KEY} is not set in the environment; it is needed to ask {settings.model}")
    # Retries are ours: the library sleeps as long as the server says.
    return anthropic.Anthropic(api_key=key, max_retries=0, timeout=settings.timeout_s)


@dataclass
class AnthropicModel:
    """Asks a model, within a budget; what comes back is in the answer store."""

    settings: AnthropicSettings
    answers: AnswerStore
    run_id: str
    sleep: Callable[[float], None] = time.sleep
    spent_usd: float = 0.0
    """By this run."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `llm_calls` since they were last taken."""
    unanswered: dict[str, Answer] = field(default_factory=dict)
    """By hash, the questions without a kept answer; another run may get one."""

    def __post_init__(self) -> None:
        self.model, self.prices = priced(self.settings)
        self._client: anthropic.Anthropic | None = None
        self._lock = threading.Lock()
        self._reserved = 0.0
        self._lost: set[str] = set()
        """Questions of batches that came back without an answer once."""

    @property
    def client(self) -> anthropic.Anthropic:
        """Made when it is first needed: what is answered already needs no key."""
        if self._client is None:
            self._client = client_for(self.settings)
        return self._client

    def look_up(self, prompt: Prompt) -> Answer | None:
        """The kept answer, or why there is none, or None if the question was not asked yet."""
        return look_up(self.answers, self.model, prompt, self.unanswered)

    def outstanding(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Of some questions, each once, those that have to be asked."""
        different = {prompt.sha256(self.model): prompt for prompt in prompts}
        return [prompt for sha256, prompt in different.items() if self._is_outstanding(sha256, prompt)]

    def _is_outstanding(self, sha256: str, prompt: Prompt) -> bool:
        kept = self.answers.read(sha256)
        return kept is None or asked_again(kept, prompt)

    def estimate(self, prompts: Sequence[Prompt]) -> Estimate:
        """What the outstanding ones of some questions will cost, about; the API counts the tokens of a few of them."""
        left = self.outstanding(prompts)
        characters = sum(len(prompt.system) + len(prompt.user) for prompt in left)
        rough = estimate(len(left), characters, sum(prompt.max_tokens for prompt in left), self.settings)
        sample = left[:: max(1, len(left) // 3)][:3]
        if not sample:
            return rough
        counted = sum(self._retried(lambda p=prompt: self._count(p)) for prompt in sample)
        ratio = counted / (sum(len(prompt.system) + len(prompt.user) for prompt in sample) / CHARACTERS_PER_TOKEN)
        return estimate(len(left), characters * ratio, sum(prompt.max_tokens for prompt in left), self.settings)

    def _count(self, prompt: Prompt) -> int:
        messages, system = _messages(prompt)
        return self.client.messages.count_tokens(model=self.model, system=system, messages=messages).input_tokens

    def ask(self, prompts: Sequence[Prompt]) -> None:
        """Have every question answered, or its reason in `unanswered`.

        Memory: the prompts, and the results of one batch as they stream in.

        Raises:
            ValueError: there is no key, or it is not accepted.
        """
        self._collect_open_batches()
        self._note_cached(prompts)
        for _ in range(MAX_ANSWERS):
            left = [prompt for prompt in self.outstanding(prompts) if self._sha(prompt) not in self.unanswered]
            if not left:
                return
            self._directly(left) if len(left) <= self.settings.batch_above else self._by_batch(left)

    def _sha(self, prompt: Prompt) -> str:
        return prompt.sha256(self.model)

    # One question at a time

    def _directly(self, prompts: Sequence[Prompt]) -> None:
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            list(pool.map(self._ask_one, prompts))

    def _ask_one(self, prompt: Prompt) -> None:
        sha256, began = self._sha(prompt), time.monotonic()
        worst = self._worst_case(prompt, batch=False)
        if not self._reserve(worst):
            self.unanswered[sha256] = Answer(None, "budget", self._budget_reached())
            return
        try:
            message = self._retried(lambda: self.client.messages.create(**self._request(prompt)))
            self._keep(sha256, prompt.purpose, message, time.monotonic() - began, batch=False)
        except Unanswered as error:
            self._failed(sha256, prompt.purpose, error, time.monotonic() - began)
        finally:
            with self._lock:
                self._reserved -= worst

    def _reserve(self, usd: float) -> bool:
        """Set aside what an answer may cost at most; False if the budget has no room for it."""
        with self._lock:
            fits = self.spent_usd + self._reserved + usd <= self.settings.budget_usd
            if fits:
                self._reserved += usd
            return fits

    def _worst_case(self, prompt: Prompt, *, batch: bool) -> float:
        """A token has at least a byte, so this is never too little."""
        n_bytes = len((prompt.system + prompt.user).encode()) + len(str(prompt.schema)) + 500
        most = max(self.prices.input, self.prices.cache_write, self.prices.cache_read)
        usd = (n_bytes * most + self._room(prompt) * self.prices.output) / 1e6
        return usd * (self.prices.batch if batch else 1.0)

    def _room(self, prompt: Prompt) -> int:
        """Tokens that an answer may have: twice as many after one that was cut off."""
        kept = self.answers.read(self._sha(prompt))
        return prompt.max_tokens * (2 if kept is not None and kept.problem == "truncated" else 1)

    def _budget_reached(self) -> str:
        return f"${self.spent_usd:.2f} of anthropic.budget_usd ${self.settings.budget_usd:.2f} spent"

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        messages, system = _messages(prompt)
        return {
            "model": self.model,
            "max_tokens": self._room(prompt),
            "system": system,
            "messages": messages,
            "output_config": {"format": {"type": "json_schema", "schema": prompt.schema}},
        }

    # Batches

    def _by_batch(self, prompts: Sequence[Prompt]) -> None:
        """Send batches, each as large as what is left of the budget allows at worst, and collect them."""
        left = list(prompts)
        while left:
            room, n = self.settings.budget_usd - self.spent_usd, 0
            for prompt in left[: self.settings.max_batch]:
                room -= self._worst_case(prompt, batch=True)
                n += room >= 0
            if n == 0:
                for prompt in left:
                    self.unanswered[self._sha(prompt)] = Answer(None, "budget", self._budget_reached())
                return
            self._send_batch(left[:n])
            left = left[n:]

    def _send_batch(self, prompts: Sequence[Prompt]) -> None:
        by_sha = {self._sha(prompt): prompt for prompt in prompts}
        path = self.answers.batch_path(uuid.uuid4().hex[:12])
        intent = OpenBatch(None, list(by_sha), datetime.now(UTC).isoformat())
        write_json(path, intent._asdict())  # before it is sent: a kill from here on loses nothing that is paid for
        requests: Any = [{"custom_id": sha256, "params": self._request(prompt)} for sha256, prompt in by_sha.items()]
        try:
            batch = self._retried(lambda: self.client.messages.batches.create(requests=requests))
        except Unanswered as error:
            path.unlink()
            for sha256, prompt in by_sha.items():
                self._failed(sha256, prompt.purpose, error, 0.0)
            return
        sent = intent._replace(batch_id=batch.id)
        write_json(path, sent._asdict())
        self._collect(path, sent, {sha256: prompt.purpose for sha256, prompt in by_sha.items()})

    def _collect_open_batches(self) -> None:
        """Go on with what a killed run sent."""
        opened = list(self.answers.batches())
        known = {batch.batch_id for _, batch in opened}
        for path, batch in opened:
            if batch.batch_id is None:
                found = self._find(batch, known)
                if found is None:
                    path.unlink()  # it was never sent
                    continue
                batch = batch._replace(batch_id=found)
                write_json(path, batch._asdict())
            self._collect(path, batch, {})

    def _find(self, intent: OpenBatch, known: set[str | None]) -> str | None:
        """The batch that an intent became, if it did: one of that time whose results have its names."""
        earliest = datetime.fromisoformat(intent.sent_at) - timedelta(minutes=10)
        for batch in self._retried(lambda: list(self.client.messages.batches.list(limit=100))):
            counts = batch.request_counts
            n = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if batch.id in known or batch.created_at < earliest or n != len(intent.sha256):
                continue
            if self._ended(batch.id) and next(self._results(batch.id)).custom_id in intent.sha256:
                return batch.id
        return None

    def _ended(self, batch_id: str) -> Any:
        """Wait for the end of a batch; it ends within 24 hours by itself."""
        while True:
            batch = self._retried(lambda: self.client.messages.batches.retrieve(batch_id))
            if batch.processing_status == "ended":
                return batch
            self.sleep(self.settings.poll_s)

    def _results(self, batch_id: str) -> Iterator[Any]:
        return iter(self._retried(lambda: self.client.messages.batches.results(batch_id)))

    def _collect(self, path: Path, batch: OpenBatch, purposes: dict[str, str]) -> None:
        """Keep the answers of a batch, then forget it."""
        assert batch.batch_id is not None
        try:
            ended = self._ended(batch.batch_id)
            latency = ((ended.ended_at or ended.created_at) - ended.created_at).total_seconds()
            self._keep_results(batch, purposes, latency)
        except Unanswered as error:
            gone = error.problem == "rejected"  # the API no longer knows it
            for sha256 in batch.sha256:
                if self.answers.read(sha256) is None:
                    self._failed(sha256, purposes.get(sha256, ""), error, 0.0)
            if not gone:
                return  # the next run asks for it again
        path.unlink()

    def _keep_results(self, batch: OpenBatch, purposes: dict[str, str], latency: float) -> None:
        assert batch.batch_id is not None
        for at in range(self.settings.retries + 1):
            try:
                for one in self._results(batch.batch_id):
                    self._keep_result(one, batch.batch_id, purposes.get(one.custom_id, ""), latency)
                return
            except (anthropic.APIError, httpx2.HTTPError, JSONDecodeError) as error:  # broken off while it streamed in
                if at == self.settings.retries:
                    raise Unanswered("unreachable", _told(error)) from None
                self.sleep(min(2.0**at, self.settings.max_wait_s))

    def _keep_result(self, one: Any, batch_id: str, purpose: str, latency: float) -> None:
        sha256, result = one.custom_id, one.result
        if result.type == "succeeded":
            self._keep(sha256, purpose, result.message, latency, batch=True, name=f"{batch_id}-{sha256[:16]}")
        elif result.type == "errored":
            error = result.error.error
            problem = "rejected" if error.type == "invalid_request_error" else "unreachable"
            self._failed(
                sha256, purpose, Unanswered(problem, f"{error.type}: {error.message}"[:500]), latency, again=True
            )
        else:
            self._failed(
                sha256, purpose, Unanswered("expired", f"the batch's request is {result.type}"), latency, again=True
            )

    # What came back

    def _keep(
        self, sha256: str, purpose: str, message: Message, latency: float, *, batch: bool, name: str | None = None
    ) -> None:
        """Keep an answer on disk, and count what it cost, once."""
        before = self.answers.read(sha256)
        name = name or message.id
        calls = [] if before is None else before.calls
        if any(call["call_id"] == name for call in calls):
            return  # collected already, before a kill
        usd = cost_usd(message.usage, self.prices, batch=batch)
        text = "".join(block.text for block in message.content if block.type == "text")
        problem = {"refusal": "refusal", "max_tokens": "truncated"}.get(message.stop_reason or "")
        usage = message.usage
        read = usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        call = self._call(name, sha256, purpose, problem or "ok", latency)
        call |= {"input_tokens": read, "output_tokens": usage.output_tokens, "cost_usd": usd}
        detail = text[:500] if problem else ""
        attempts = 1 + (0 if before is None else before.attempts)
        self.answers.write(sha256, Kept(None if problem else text, problem, detail, attempts, [*calls, call]))
        with self._lock:
            self.spent_usd += usd
            self.calls.append(call)

    def _failed(self, sha256: str, purpose: str, error: Unanswered, latency: float, *, again: bool = False) -> None:
        """Enter a question without an answer; with `again`, it is asked once more before it is given up."""
        call = self._call(uuid.uuid4().hex, sha256, purpose, error.problem, latency)
        call |= {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0, "error": error.detail}
        with self._lock:
            self.calls.append(call)
            if again and sha256 not in self._lost:
                self._lost.add(sha256)
            else:
                self.unanswered[sha256] = Answer(None, error.problem, error.detail)

    def _call(self, call_id: str, sha256: str, purpose: str, status: str, latency: float) -> dict[str, Any]:
        return {
            "call_id": call_id, "run_id": self.run_id, "purpose": purpose, "model": self.model,
            "prompt_sha256": sha256, "latency_s": latency, "cached": False, "status": status, "error": None,
        }  # fmt: skip

    def _note_cached(self, prompts: Sequence[Prompt]) -> None:
        """Enter answers that were there already, and what they cost when they were paid for."""
        for sha256, prompt in {self._sha(prompt): prompt for prompt in prompts}.items():
            kept = self.answers.read(sha256)
            if kept is None:
                continue
            self.calls += kept.calls
            if all(call["run_id"] != self.run_id for call in kept.calls):
                call = self._call(f"{self.run_id}-{sha256[:16]}", sha256, prompt.purpose, kept.problem or "ok", 0.0)
                self.calls.append({**call, "cached": True, "input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0})

    def _retried(self, send: Callable[[], Result]) -> Result:
        """The result of a request, asked for again while the API is busy or out of reach, never waiting for long.

        Raises:
            Unanswered: it stayed so, or the request is wrong.
            ValueError: the key is not accepted.
        """
        for attempt in range(self.settings.retries + 1):
            wait, last = 2.0**attempt, attempt == self.settings.retries
            try:
                return send()
            except (anthropic.AuthenticationError, anthropic.PermissionDeniedError) as error:
                raise ValueError(f"{KEY} is not accepted for {self.model} ({_told(error)})") from None
            except anthropic.APIStatusError as error:
                if error.status_code not in BUSY:
                    raise Unanswered("rejected", _told(error)) from None
                problem = error
                wait = _seconds(error.response.headers.get("retry-after")) or wait
            except (anthropic.APIError, JSONDecodeError) as error:  # no connection, time-out, or no JSON
                problem = error
            if last:
                raise Unanswered("unreachable", _told(problem)) from None
            self.sleep(min(wait, self.settings.max_wait_s))
        raise AssertionError


def _messages(prompt: Prompt) -> tuple[Any, Any]:
    """The instructions, which many questions share, are cached by the API."""
    system = [{"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}}]
    return [{"role": "user", "content": prompt.user}], system


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None  # a date: our own waiting will do


def _told(error: Exception) -> str:
    """What an error says; never a header, so never the key."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
