"""Claude, behind Anthropic's messages API: one question at a time, or message batches."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal, TypeVar

import anthropic
from anthropic.types import Message, MessageParam, TextBlockParam
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from anthropic.types.messages.batch_create_params import Request

from interp.descriptions.llm_questions import Prompt
from interp.descriptions.settings import AnthropicSettings, LLMSettings
from tasks.llm.ask_again import MEND
from tasks.llm.endpoint import (
    BatchResult,
    BusyError,
    NotSentError,
    OutcomeUnknownError,
    Question,
    RejectedError,
    Reply,
    Usage,
    credible,
)
from tasks.llm.prices import anthropic_prices
from tasks.llm.rate_limits import room_left
from tasks.llm.sdk_errors import translated

KEY = "ANTHROPIC_API_KEY"

CLOCKS_APART = timedelta(minutes=10)
"""Largest allowed difference between this machine's clock and the server's."""

Result = TypeVar("Result")


class AnthropicEndpoint:
    """Implements `Endpoint` and `Batches`."""

    repairs = False

    def __init__(self, settings: AnthropicSettings, asking: LLMSettings) -> None:
        if settings.model is None:
            raise ValueError("anthropic.model is not set: name the model as Anthropic's API has it")
        self.model = settings.model
        self.prices = settings.prices or anthropic_prices(settings.model)
        self.batch_above = settings.batch_above
        self.batches = self
        self._timeout_s = asking.timeout_s

    @cached_property
    def _client(self) -> anthropic.Anthropic:
        """The client, made at the first use. It does not retry; `PaidModel` does."""
        self.check_key()
        return anthropic.Anthropic(api_key=os.environ[KEY], max_retries=0, timeout=self._timeout_s)

    def _asked(self, send: Callable[[], Result]) -> Result:
        return translated(anthropic, KEY, self.model, send)

    def check_key(self) -> None:
        if not os.environ.get(KEY):
            raise ValueError(f"{KEY} is not set in the environment; it is needed to ask {self.model}")

    def check(self) -> None:
        try:
            self._asked(lambda: self._client.models.retrieve(self.model))
        except RejectedError as error:
            raise ValueError(
                f"anthropic.model: {self.model} is not known to {self._client.base_url}: {error}"
            ) from None
        except NotSentError as error:
            raise ValueError(f"anthropic: nothing answers at {self._client.base_url}: {error}") from None
        except (BusyError, OutcomeUnknownError):
            return  # may be temporary, and will be retried when there is something to ask

    def count(self, prompts: Sequence[Prompt]) -> int:
        return sum(self._asked(lambda one=prompt: self._count(one)) for prompt in prompts)

    def _count(self, prompt: Prompt) -> int:
        system, messages = _conversation(Question(prompt, 0))
        return self._client.messages.count_tokens(model=self.model, system=system, messages=messages).input_tokens

    def send(self, question: Question) -> Reply:
        request = self._request(question)
        raw = self._asked(lambda: self._client.messages.with_raw_response.create(**request))
        reply = _reply(self._asked(raw.parse), question)
        used = reply.usage
        return reply._replace(room=room_left(raw.headers, 0 if used is None else used.input + used.output))

    def note_misfit(self) -> None:
        """Do nothing: the API enforces schemas, so an answer that does not fit was cut off or refused."""

    def _request(self, question: Question) -> MessageCreateParamsNonStreaming:
        system, messages = _conversation(question)
        return {
            "model": self.model,
            "max_tokens": question.room,
            "system": system,
            "messages": messages,
            "output_config": {"format": {"type": "json_schema", "schema": {**question.prompt.schema}}},
        }

    # Batches. The API stores no name for one: batches are recognised by time, size and the ids of their questions.

    def create(self, name: str, questions: dict[str, Question]) -> str:
        requests: list[Request] = [
            {"custom_id": one, "params": self._request(question)} for one, question in questions.items()
        ]
        return self._asked(lambda: self._client.messages.batches.create(requests=requests)).id

    def candidates(self, name: str, n_questions: int, since: datetime, known: frozenset[str]) -> list[str]:
        found = []
        for batch in self._asked(lambda: self._since(since - CLOCKS_APART)):
            counts = batch.request_counts
            n = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if batch.id not in known and n == n_questions:
                found.append(batch.id)
        return found

    def _since(self, earliest: datetime) -> list[MessageBatch]:
        """The newest batches, back to a time; the API lists the newest first."""
        found = []
        for batch in self._client.messages.batches.list(limit=100):
            if batch.created_at < earliest:
                break
            found.append(batch)
        return found

    def seconds_taken(self, batch_id: str) -> float | None:
        batch = self._asked(lambda: self._client.messages.batches.retrieve(batch_id))
        if batch.processing_status != "ended":
            return None
        return ((batch.ended_at or batch.created_at) - batch.created_at).total_seconds()

    def results(self, batch_id: str, questions: dict[str, Question]) -> Iterator[BatchResult]:
        results = iter(self._asked(lambda: self._client.messages.batches.results(batch_id)))
        while (one := self._asked(lambda: next(results, None))) is not None:
            yield _result(one, questions.get(one.custom_id))


def _conversation(question: Question) -> tuple[list[TextBlockParam], list[MessageParam]]:
    """The conversation. The instructions, which many questions share, are marked for the API's cache."""
    prompt = question.prompt
    system: list[TextBlockParam] = [{"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}}]
    turns: list[MessageParam] = [{"role": "user", "content": prompt.user}]
    if question.misfit is not None:
        turns.append({"role": "assistant", "content": question.misfit})
        turns.append({"role": "user", "content": MEND})
    return system, turns


def _result(one: MessageBatchIndividualResponse, question: Question | None) -> BatchResult:
    result = one.result
    if result.type == "succeeded":
        return BatchResult(one.custom_id, _reply(result.message, question))
    if result.type == "errored":
        error = result.error.error
        problem = "rejected" if error.type == "invalid_request_error" else "unreachable"
        return BatchResult(one.custom_id, None, problem, f"{error.type}: {error.message}"[:500])
    return BatchResult(one.custom_id, None, "expired", f"the batch's request is {result.type}")


def _reply(message: Message, question: Question | None) -> Reply:
    problems: dict[str, Literal["refusal", "truncated"]] = {"refusal": "refusal", "max_tokens": "truncated"}
    text = "".join(block.text for block in message.content if block.type == "text")
    said = message.usage
    usage = said and Usage(
        said.input_tokens,
        said.output_tokens,
        said.cache_creation_input_tokens or 0,
        said.cache_read_input_tokens or 0,
    )
    credited = usage if credible(usage, question) else None
    return Reply(message.id, text, problems.get(message.stop_reason or ""), credited)
