"""A local server that speaks as much of the messages API as is used: messages, batches, count_tokens, and troubles."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

KEY = "sk-ant-nobody-may-see-this"


def message(text: str, stop_reason: str = "end_turn", **usage: int) -> dict[str, Any]:
    """An answer as the API writes it."""
    return {
        "id": f"msg_{abs(hash((text, stop_reason))) % 10**9}",
        "type": "message",
        "role": "assistant",
        "model": "some-model",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 100, "output_tokens": 20, **usage},
    }


def description_of(params: dict[str, Any]) -> dict[str, Any]:
    """What the server answers if nothing else was said: a description that tells the questions apart."""
    words = len(params["messages"][0]["content"])
    return message(json.dumps({"description": f"a text of {words} characters"}), input_tokens=100)


@dataclass
class Api:
    """The server's state, for tests to look at and to disturb."""

    server: HTTPServer
    answer: Callable[[dict[str, Any]], dict[str, Any]] = description_of
    direct: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the messages asked for directly."""
    batches: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Requests of every batch, by id."""
    polls: int = 0
    polls_needed: int = 0
    """Looks at a batch until it has ended."""
    troubles: list[Response] = field(default_factory=list)
    """Responses to the next requests, in place of answers."""
    results: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """The result of a batch's request, in place of a success."""
    n_count: int = 0
    garbled_results: int = 0
    """Times that a batch's results break off in the middle."""

    def __post_init__(self) -> None:
        expect = self.server.expect_request
        expect("/v1/messages", method="POST").respond_with_handler(self._message)
        expect("/v1/messages/count_tokens", method="POST").respond_with_handler(self._count)
        expect("/v1/models/some-model", method="GET").respond_with_handler(self._model)
        expect("/v1/messages/batches", method="POST").respond_with_handler(self._create)
        expect("/v1/messages/batches", method="GET").respond_with_handler(self._list)
        for number in range(20):
            expect(f"/v1/messages/batches/b{number}", method="GET").respond_with_handler(self._retrieve)
            expect(f"/v1/messages/batches/b{number}/results", method="GET").respond_with_handler(self._results)

    def _troubled(self, request: Request) -> Response | None:
        assert KEY in (request.headers.get("x-api-key"), request.headers.get("authorization", "")[len("Bearer ") :])
        return self.troubles.pop(0) if self.troubles else None

    def _message(self, request: Request) -> Response:
        trouble = self._troubled(request)
        if trouble:
            return trouble
        body = request.get_json()
        self.direct.append(body)
        return _json({**self.answer(body), "id": f"msg_{len(self.direct)}"})

    def _count(self, request: Request) -> Response:
        trouble = self._troubled(request)
        self.n_count += 1
        return trouble or _json({"input_tokens": 100})

    def _model(self, request: Request) -> Response:
        known = {"id": "some-model", "type": "model", "display_name": "Some", "created_at": "2026-01-01T00:00:00Z"}
        return self._troubled(request) or _json(known)

    def _create(self, request: Request) -> Response:
        trouble = self._troubled(request)
        if trouble:
            return trouble
        name = f"b{len(self.batches)}"
        self.batches[name] = request.get_json()["requests"]
        return _json(self._batch(name))

    def _list(self, request: Request) -> Response:
        return self._troubled(request) or _json(
            {"data": [self._batch(name) for name in self.batches], "has_more": False, "first_id": None, "last_id": None}
        )

    def _retrieve(self, request: Request) -> Response:
        trouble = self._troubled(request)
        self.polls += 1
        name = request.path.split("/")[-1]
        return trouble or (_json(self._batch(name)) if name in self.batches else error(404, "not_found_error"))

    def _results(self, request: Request) -> Response:
        trouble = self._troubled(request)
        if trouble:
            return trouble
        lines = []
        for one in self.batches[request.path.split("/")[-2]]:
            result = {"type": "succeeded", "message": self.answer(one["params"])}
            result = result if self.results is None else self.results(one)
            lines.append(json.dumps({"custom_id": one["custom_id"], "result": result}))
        text = "\n".join(lines) + "\n"
        if self.garbled_results:
            self.garbled_results -= 1
            text = text[: len(text) * 2 // 3]
        return Response(text, content_type="application/x-jsonl")

    def _batch(self, name: str) -> dict[str, Any]:
        ended = self.polls >= self.polls_needed
        n, now = len(self.batches[name]), datetime.now(UTC).isoformat()
        counts = {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        return {
            "id": name, "type": "message_batch", "created_at": now, "expires_at": now, "archived_at": None,
            "cancel_initiated_at": None, "ended_at": now if ended else None,
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": {**counts, "succeeded" if ended else "processing": n},
            "results_url": self.server.url_for(f"/v1/messages/batches/{name}/results") if ended else None,
        }  # fmt: skip


def _json(value: Any) -> Response:
    return Response(json.dumps(value), content_type="application/json")


def error(status: int, kind: str = "api_error", **headers: str) -> Response:
    body = {"type": "error", "error": {"type": kind, "message": f"a {kind}"}}
    return Response(json.dumps(body), status, headers, content_type="application/json")
