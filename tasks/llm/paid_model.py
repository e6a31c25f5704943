"""Ask a language model behind an endpoint: the greatest possible cost is reserved first, and answers are stored as they
arrive."""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeVar

from interp.descriptions.llm_questions import Answer, Prompt, parsed
from interp.descriptions.settings import LLMSettings
from storage.answers import MAX_ANSWERS, AnswerStore, Call, Kept, asked_again, look_up
from storage.llm_ledger import Ledger, Limits
from tasks.llm.endpoint import (
    BusyError,
    Endpoint,
    NotSentError,
    OutcomeUnknownError,
    Question,
    RejectedError,
    Reply,
    cost_usd,
    worst_case_usd,
)
from tasks.llm.pace import Pace
from tasks.llm.prices import CHARACTERS_PER_TOKEN, Estimate, Observed, estimate, expected_tokens

Problem = Literal["budget", "expired", "rejected", "unreachable"]

NOT_CREDIBLE = "the server's count of tokens is not credible: counted at the greatest possible cost"

Result = TypeVar("Result")


class Sent(NamedTuple):
    """A question that has been sent."""

    purpose: str
    reservation: str
    """The name of the reservation in the ledger; for a batch, that of all its questions."""
    worst_usd: float
    characters: int = 0
    """Length of the question; 0 if it is no longer known."""
    batch: bool = False


class Unanswered(Exception):  # noqa: N818
    """A question got no answer, and why."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(problem, detail)
        self.problem, self.detail = problem, detail


@dataclass
class PaidModel:
    """Asks an endpoint within the limits of `LLMSettings`. Answers go to the answer store, their cost to the ledger and
    to `calls`."""

    endpoint: Endpoint
    settings: LLMSettings
    answers: AnswerStore
    run_id: str
    sleep: Callable[[float], None] = time.sleep
    observed: Mapping[str, Observed] = field(default_factory=dict)
    """Usage of earlier questions to this model, by kind of question."""
    calls: list[Call] = field(default_factory=list)
    """Calls since they were last loaded."""
    unanswered: dict[str, Answer] = field(default_factory=dict)
    """The questions without a stored answer, by hash, with the reason; another run may get one."""

    def __post_init__(self) -> None:
        self.model = self.endpoint.model
        self.ledger = Ledger(self.answers.store, self.run_id)
        self.limits = Limits(self.settings.budget_usd, self.settings.store_budget_usd, self.settings.month_budget_usd)
        self._pace = Pace(self.settings.concurrency, self.sleep)
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._stopped: str | None = None
        """Why no more questions are sent; None while they are."""

    @property
    def spent_usd(self) -> float:
        """The known cost of this run's answers in USD."""
        return self.ledger.of_run.recorded

    def look_up(self, prompt: Prompt) -> Answer | None:
        """The stored answer, or the reason why there is none, or None if the question has not been asked."""
        return look_up(self.answers, self.model, prompt, self.unanswered)

    def outstanding(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """The questions that have no answer yet, each once."""
        different = {self.sha(prompt): prompt for prompt in prompts}
        return [prompt for sha256, prompt in different.items() if self._is_outstanding(sha256, prompt)]

    def _is_outstanding(self, sha256: str, prompt: Prompt) -> bool:
        kept = self.answers.read(sha256)
        return kept is None or asked_again(kept, prompt)

    def estimate(self, prompts: Sequence[Prompt]) -> Estimate:
        """Estimated cost of those among some questions that have no answer yet.

        Questions are expected to take as many tokens as earlier ones of their kind. The server counts the tokens of a
        few of them, if it can.
        """
        left = self.outstanding(prompts)
        characters = float(sum(self._characters(prompt) for prompt in left))
        sample = left[:: max(1, len(left) // 3)][:3]
        counted = self.with_retries(lambda: self.endpoint.count(sample)) if sample else None
        if counted is not None:
            written = sum(prompt.n_characters for prompt in left)
            characters = written * counted * CHARACTERS_PER_TOKEN / sum(prompt.n_characters for prompt in sample)
        answers = sum(self._answer_tokens(prompt) for prompt in left)
        return estimate(len(left), characters, answers, self.endpoint.prices, batch=self.goes_as_batch(len(left)))

    def _characters(self, prompt: Prompt) -> float:
        """Length of a question; if questions of its kind were asked before, scaled so that it gives the number of
        tokens expected from those."""
        before = self.observed.get(prompt.purpose)
        if before is None or before.tokens_per_character is None:
            return float(prompt.n_characters)
        return prompt.n_characters * before.tokens_per_character * CHARACTERS_PER_TOKEN

    def _answer_tokens(self, prompt: Prompt) -> float:
        """Expected number of tokens of an answer: the mean of earlier ones of its kind."""
        before = self.observed.get(prompt.purpose)
        return expected_tokens(prompt.purpose, prompt.max_tokens) if before is None else before.output_tokens

    def goes_as_batch(self, n_questions: int) -> bool:
        """Whether this many questions are sent to the batch endpoint."""
        above = self.endpoint.batch_above
        return self.endpoint.batches is not None and above is not None and n_questions > above

    def ask(self, prompts: Sequence[Prompt]) -> None:
        """Ask every question; those without an answer are in `unanswered` with the reason.

        Memory: the prompts, and the results of one batch as they are received.

        Raises:
            ValueError: there is no key, or it is not accepted.
        """
        from tasks.llm.batches import collect_open_batches, send_as_batches

        collect_open_batches(self, prompts)
        self._note_cached(prompts)
        for _ in range(MAX_ANSWERS):
            left = [prompt for prompt in self.outstanding(prompts) if self.sha(prompt) not in self.unanswered]
            if not left:
                return
            if self.goes_as_batch(len(left)):
                send_as_batches(self, left)
            else:
                with ThreadPoolExecutor(self.settings.concurrency) as pool:
                    list(pool.map(self._ask_one, left))

    def sha(self, prompt: Prompt) -> str:
        """The hash under which the answer to a question is stored."""
        return prompt.sha256(self.model)

    def question(self, prompt: Prompt) -> Question:
        """A question as it is sent.

        After a truncated answer, the next may have twice as many tokens. An answer that did not fit is shown to the
        model, if the server cannot enforce a schema.
        """
        kept = self.answers.read(self.sha(prompt))
        truncated = kept is not None and kept.problem == "truncated"
        misfit = kept.text if kept is not None and self.endpoint.repairs else None
        return Question(prompt, prompt.max_tokens * (2 if truncated else 1), misfit)

    # One question at a time

    def _ask_one(self, prompt: Prompt) -> None:
        sha256, began = self.sha(prompt), time.monotonic()
        try:
            sent, reply = self._answered(sha256, self.question(prompt))
            usd = self.keep(sha256, reply, sent, time.monotonic() - began)
            if reply.problem is None and parsed(reply.text, prompt.schema) is None:
                self.endpoint.note_misfit()
            self.ledger.settle(sent.reservation, usd)
            with self._lock:
                self._failures_in_a_row = 0
        except Unanswered as error:
            self.failed(sha256, prompt.purpose, error, time.monotonic() - began)
            if error.problem == "unreachable":
                self._note_failure(error.detail)

    def _answered(self, sha256: str, question: Question) -> tuple[Sent, Reply]:
        """The answer to a question, and the name of its reservation. Each attempt has a reservation of its own."""
        worst, problem = worst_case_usd(question, self.endpoint.prices, batch=False), ""
        for attempt in range(self.settings.retries + 1):
            with self._pace.turn():
                sent = self._set_aside(question.prompt, worst)
                try:
                    reply = self.endpoint.send(question)
                    self._pace.answered()
                    if reply.room is not None:
                        self._pace.limited(reply.room.n_questions, min(reply.room.reset_s, self.settings.max_wait_s))
                    return sent, reply
                except OutcomeUnknownError as error:
                    self.note_unknown(sha256, sent, str(error))
                    problem, wait = str(error), None
                except (NotSentError, BusyError) as error:
                    self.ledger.settle(sent.reservation, 0.0)
                    problem, wait = str(error), error.wait_s if isinstance(error, BusyError) else None
                except RejectedError as error:
                    self.ledger.settle(sent.reservation, 0.0)
                    raise Unanswered("rejected", str(error)) from None
                except ValueError:  # the key is refused: nothing is charged for a refused question
                    self.ledger.settle(sent.reservation, 0.0)
                    raise
            if attempt < self.settings.retries:
                self._wait(attempt, wait, problem)
        raise Unanswered("unreachable", problem)

    def _set_aside(self, prompt: Prompt, usd: float) -> Sent:
        if self._stopped is not None:
            raise Unanswered("unreachable", self._stopped)
        name = self.ledger.reserve(usd, self.limits)
        if name is None:
            raise Unanswered("budget", self.ledger.limit_reached(usd, self.limits) or "the budget is spent")
        return Sent(prompt.purpose, name, usd, prompt.n_characters)

    def _wait(self, attempt: int, asked_for: float | None, problem: str) -> None:
        """Wait before the next attempt, for as long as the server asks.

        Raises:
            Unanswered: it asks for a longer wait than the settings allow.
        """
        wait = 2.0**attempt if asked_for is None else asked_for
        if wait > self.settings.max_wait_s and asked_for is not None:
            most = self.settings.max_wait_s
            self._stopped = f"the server asks for a wait of {wait:.0f} s, llm.max_wait_s is {most:.0f}: {problem}"
            raise Unanswered("unreachable", self._stopped)
        wait = min(wait, self.settings.max_wait_s)
        if asked_for is not None:
            self._pace.declined(wait)
        self.sleep(wait)

    def with_retries(self, send: Callable[[], Result]) -> Result:
        """The result of a request that is free of charge, retried while the server is busy or unreachable.

        Raises:
            Unanswered: all attempts failed, or the request is wrong.
        """
        for attempt in range(self.settings.retries + 1):
            try:
                return send()
            except RejectedError as error:
                raise Unanswered("rejected", str(error)) from None
            except (BusyError, NotSentError, OutcomeUnknownError) as error:
                if attempt == self.settings.retries:
                    raise Unanswered("unreachable", str(error)) from None
                self._wait(attempt, getattr(error, "wait_s", None), str(error))
        raise AssertionError

    def _note_failure(self, detail: str) -> None:
        with self._lock:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= self.settings.max_failures and self._stopped is None:
                n = self._failures_in_a_row
                self._stopped = f"{n} questions in a row got no answer (llm.max_failures): {detail}"

    # Results

    def keep(self, sha256: str, reply: Reply, sent: Sent, latency: float) -> float:
        """Store an answer and record its cost, once; returns the cost."""
        before = self.answers.read(sha256)
        call_id = f"{sent.reservation}-{sha256[:16]}" if sent.batch else sent.reservation
        calls = [] if before is None else before.calls
        for call in calls:
            if call.call_id == call_id:
                return call.cost_usd  # fetched already, before a kill
        call = self._call(call_id, sha256, sent.purpose, reply.problem or "ok", latency)
        if reply.usage is None:
            usd = sent.worst_usd
            call = replace(call, cost_usd=usd, error=NOT_CREDIBLE if usd else None)
        else:
            used, usd = reply.usage, cost_usd(reply.usage, self.endpoint.prices, batch=sent.batch)
            read = used.input + used.cache_write + used.cache_read
            tokens = {"input_tokens": read, "output_tokens": used.output}
            call = replace(call, cost_usd=usd, characters=sent.characters, **tokens)
        detail, text = (reply.text[:500], None) if reply.problem else ("", reply.text)
        attempts = 1 + (0 if before is None else before.attempts)
        self.answers.write(sha256, Kept(text, reply.problem, detail, attempts, [*calls, call]))
        with self._lock:
            self.calls.append(call)
        return usd

    def failed(self, sha256: str, purpose: str, error: Unanswered, latency: float) -> None:
        """Record a question without an answer; another run may ask it again."""
        call = self._call(uuid.uuid4().hex, sha256, purpose, error.problem, latency)
        with self._lock:
            self.calls.append(replace(call, error=error.detail))
            self.unanswered[sha256] = Answer(None, error.problem, error.detail)

    def note_unknown(self, sha256: str, sent: Sent, detail: str) -> None:
        """Record a question that may have been answered and charged; its reservation stays."""
        call = self._call(sent.reservation, sha256, sent.purpose, "unknown", 0.0)
        with self._lock:
            self.calls.append(replace(call, set_aside_usd=sent.worst_usd, error=detail))

    def _call(self, call_id: str, sha256: str, purpose: str, status: str, latency: float) -> Call:
        return Call(call_id, self.run_id, purpose, self.model, sha256, latency_s=latency, status=status)

    def _note_cached(self, prompts: Sequence[Prompt]) -> None:
        """Record answers from the store, with their cost when they were paid for."""
        for sha256, prompt in {self.sha(prompt): prompt for prompt in prompts}.items():
            kept = self.answers.read(sha256)
            if kept is None:
                continue
            self.calls += kept.calls
            if all(call.run_id != self.run_id for call in kept.calls):
                call = self._call(f"{self.run_id}-{sha256[:16]}", sha256, prompt.purpose, kept.problem or "ok", 0.0)
                self.calls.append(replace(call, cached=True))
