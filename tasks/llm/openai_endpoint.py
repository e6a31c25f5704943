"""Servers with OpenAI's chat completions API, and its batch endpoint if there is one."""

import io
import ipaddress
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.shared_params.response_format_json_schema import JSONSchema, ResponseFormatJSONSchema

from interp.descriptions.llm_questions import Prompt
from interp.descriptions.settings import LLMSettings, OpenAISettings, Prices
from tasks.llm.ask_again import MEND, instructions_with_schema
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
from tasks.llm.rate_limits import room_left
from tasks.llm.sdk_errors import translated

FREE = Prices(input=0.0, output=0.0)

FAILED = ("failed", "cancelled", "expired")

Result = TypeVar("Result")


class OpenAIEndpoint:
    """Implements `Endpoint` and `Batches`."""

    def __init__(self, settings: OpenAISettings, asking: LLMSettings) -> None:
        if settings.model is None:
            raise ValueError(f"openai.model is not set: name the model as the server at {settings.base_url} has it")
        address = urlsplit(settings.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(
                f"openai.base_url: expected an address like http://127.0.0.1:8000/v1, found {settings.base_url!r}"
            )
        if address.username or address.password:
            raise ValueError("openai.base_url has credentials in it; the key belongs in the environment")
        self._settings, self._timeout_s = settings, asking.timeout_s
        self._nearby = is_nearby(address.hostname)
        self._official = address.hostname == "api.openai.com"
        self._structured = settings.structured_output != "none"
        if settings.prices is None and not self._nearby:
            raise ValueError(
                f"openai.prices is not set: what does {settings.model} cost at {address.hostname}, in dollars a "
                "million tokens? Give openai.prices={input: …, output: …}"
            )
        self.model = settings.model
        self.prices = settings.prices or FREE
        self.batch_above = settings.batch_above
        self.batches = self

    @property
    def repairs(self) -> bool:
        """Whether a malformed answer may be asked for again: only where the server does not enforce the schema."""
        return not self._structured

    @cached_property
    def _client(self) -> openai.OpenAI:
        """The client, made at the first use. It does not retry; `PaidModel` does."""
        self.check_key()
        return openai.OpenAI(
            api_key=os.environ.get(self._settings.key_variable) or "none",
            base_url=self._settings.base_url,
            max_retries=0,
            timeout=self._timeout_s,
            organization=os.environ.get("OPENAI_ORG_ID"),
        )

    def _asked(self, send: Callable[[], Result]) -> Result:
        asked = f"{self.model} at {self._settings.base_url}"
        return translated(openai, self._settings.key_variable, asked, send)

    def check_key(self) -> None:
        variable = self._settings.key_variable
        if not os.environ.get(variable) and not self._nearby:
            raise ValueError(f"{variable} is not set in the environment; it is needed to ask {self.model}")

    def check(self) -> None:
        """Ask for the list of models. If the server has none and costs nothing, ask the model for one token."""
        url = self._settings.base_url
        try:
            names = [model.id for model in self._asked(lambda: list(self._client.models.list()))]
        except NotSentError as error:
            raise ValueError(f"openai.base_url: nothing answers at {url}: {error}") from None
        except (RejectedError, BusyError, OutcomeUnknownError):
            if self.prices == FREE:
                self._ask_for_one_token()
            return
        if names and self.model not in names:
            known = ", ".join(sorted(names)[:8])
            raise ValueError(f"openai.model: {url} has no {self.model}; it has {known}")

    def _ask_for_one_token(self) -> None:
        hello: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
        create = self._client.chat.completions.create
        try:
            completion = self._asked(lambda: create(model=self.model, messages=hello, max_tokens=1))
            if not completion.choices:
                raise OutcomeUnknownError(f"it answers {str(completion)[:200]}")
        except (NotSentError, RejectedError, BusyError, OutcomeUnknownError) as error:
            raise ValueError(f"openai: {self._settings.base_url} does not answer for {self.model}: {error}") from None

    def count(self, prompts: Sequence[Prompt]) -> None:
        """The API cannot count tokens."""

    def send(self, question: Question) -> Reply:
        create = self._client.chat.completions.with_raw_response.create
        try:
            raw = self._asked(lambda: create(**self._request(question)))
        except RejectedError as error:
            if (
                not self._structured
                or self._settings.structured_output != "auto"
                or "response_format" not in str(error)
            ):
                raise
            self._structured = False  # the server does not support schemas, from now on
            raw = self._asked(lambda: create(**self._request(question)))
        reply = _reply(self._asked(raw.parse), question)
        used = reply.usage
        return reply._replace(room=room_left(raw.headers, 0 if used is None else used.input + used.output))

    def note_misfit(self) -> None:
        """Some servers ignore `response_format` silently; from now on the schema is part of the question."""
        if self._settings.structured_output == "auto":
            self._structured = False

    def _request(self, question: Question) -> CompletionCreateParamsNonStreaming:
        prompt = question.prompt
        system = prompt.system if self._structured else instructions_with_schema(prompt)
        turns: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": system},
            {"role": "user", "content": prompt.user},
        ]
        if question.misfit is not None:
            turns.append({"role": "assistant", "content": question.misfit})
            turns.append({"role": "user", "content": MEND})
        request: CompletionCreateParamsNonStreaming = {"model": self.model, "messages": turns}
        if self._official:
            request["max_completion_tokens"] = question.room
        else:
            request["max_tokens"] = question.room
        if self._structured:
            schema: JSONSchema = {"name": "answer", "schema": {**prompt.schema}, "strict": True}
            form: ResponseFormatJSONSchema = {"type": "json_schema", "json_schema": schema}
            request["response_format"] = form
        return request

    # Batches: a file of questions is uploaded, a file of answers downloaded; the batch's name is in its metadata.

    def create(self, name: str, questions: dict[str, Question]) -> str:
        lines = [
            {"custom_id": one, "method": "POST", "url": "/v1/chat/completions", "body": self._request(question)}
            for one, question in questions.items()
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        file = (f"{name}.jsonl", io.BytesIO(text.encode()))
        try:
            uploaded = self._asked(lambda: self._client.files.create(file=file, purpose="batch")).id
        except OutcomeUnknownError as error:
            raise BusyError(str(error)) from None  # an uploaded file alone costs nothing
        batch = self._asked(
            lambda: self._client.batches.create(
                input_file_id=uploaded,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"name": name},
            )
        )
        return batch.id

    def candidates(self, name: str, n_questions: int, since: datetime, known: frozenset[str]) -> list[str]:
        every = self._asked(lambda: list(self._client.batches.list(limit=100)))
        return [batch.id for batch in every if (batch.metadata or {}).get("name") == name]

    def seconds_taken(self, batch_id: str) -> float | None:
        batch = self._asked(lambda: self._client.batches.retrieve(batch_id))
        if batch.status not in (*FAILED, "completed"):
            return None
        ended = batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at
        return float((ended or datetime.now(UTC).timestamp()) - batch.created_at)

    def results(self, batch_id: str, questions: dict[str, Question]) -> Iterator[BatchResult]:
        batch = self._asked(lambda: self._client.batches.retrieve(batch_id))
        answered = set()
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            text = self._asked(lambda name=file: self._client.files.content(name).text)
            for line in text.splitlines():
                if line.strip():
                    result = _result(json.loads(line), questions)
                    answered.add(result.custom_id)
                    yield result
        problem = "expired" if batch.status in ("expired", "cancelled") else "unreachable"
        for custom_id in questions.keys() - answered:
            yield BatchResult(custom_id, None, problem, f"the batch is {batch.status} without this answer")


def is_nearby(host: str) -> bool:
    """Whether a host is this machine or in a private network, by its name only."""
    if (
        host == "localhost"
        or host.endswith((".localhost", ".local", ".internal"))
        or ("." not in host.strip("[]") and ":" not in host)
    ):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private


def _result(line: dict[str, Any], questions: dict[str, Question]) -> BatchResult:
    custom_id, response = line["custom_id"], line.get("response") or {}
    if response.get("status_code") == 200:
        completion = ChatCompletion.model_construct(**response["body"])
        return BatchResult(
            custom_id, _reply(ChatCompletion.model_validate(completion.model_dump()), questions.get(custom_id))
        )
    error = line.get("error") or (response.get("body") or {}).get("error") or {}
    problem = "rejected" if response.get("status_code") == 400 else "unreachable"
    return BatchResult(custom_id, None, problem, f"{error.get('code')}: {error.get('message')}"[:500])


def _reply(completion: ChatCompletion, question: Question | None) -> Reply:
    if not completion.choices:
        raise OutcomeUnknownError(f"the answer {completion.id} has no choices")
    choice, said = completion.choices[0], completion.usage
    problem: Literal["refusal", "truncated"] | None = None
    if choice.message.refusal or choice.finish_reason == "content_filter":
        problem = "refusal"
    elif choice.finish_reason == "length":
        problem = "truncated"
    usage = None
    if said is not None:
        details = said.prompt_tokens_details
        read = (details.cached_tokens or 0) if details is not None else 0
        plain = said.prompt_tokens - read if isinstance(said.prompt_tokens, int) else said.prompt_tokens
        usage = Usage(plain, said.completion_tokens, 0, read)
    text = choice.message.refusal or choice.message.content or ""
    return Reply(completion.id, text, problem, usage if credible(usage, question) else None)
