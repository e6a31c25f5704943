"""A local server that speaks as much of OpenAI's API as is used, well or badly."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response


def completion(text: str, finish: str = "stop", **usage: Any) -> dict[str, Any]:
    """An answer as the API writes it."""
    return {
        "id": f"chatcmpl-{time.monotonic_ns()}",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, **usage},
    }


@dataclass
class OpenAIServer:
    """The server's state, for tests to look at and to disturb."""

    server: HTTPServer
    answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda _: completion('{"description": "fine"}')
    models: list[str] | None = field(default_factory=lambda: ["tiny", "large"])
    structured: bool = True
    """Whether it knows response_format."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    lose_creations: int = 0
    limits: dict[str, str] = field(default_factory=dict)
    """Headers of every answer."""

    def __post_init__(self) -> None:
        expect = self.server.expect_request
        expect("/v1/models").respond_with_handler(self._models)
        expect("/v1/chat/completions", method="POST").respond_with_handler(self._complete)
        expect("/v1/files", method="POST").respond_with_handler(self._upload)
        expect(re.compile("/v1/files/.*/content")).respond_with_handler(self._content)
        expect("/v1/batches", method="POST").respond_with_handler(self._create)
        expect("/v1/batches", method="GET").respond_with_handler(self._list)
        expect(re.compile("/v1/batches/.+"), method="GET").respond_with_handler(self._retrieve)

    @property
    def url(self) -> str:
        return self.server.url_for("/v1")

    def _models(self, _: Request) -> Response:
        if self.models is None:
            return Response("no such page", 404)
        return _json(
            {
                "object": "list",
                "data": [{"id": name, "object": "model", "created": 1, "owned_by": "me"} for name in self.models],
            }
        )

    def _complete(self, request: Request) -> Response:
        body = request.get_json()
        self.headers.append(request.headers.get("authorization"))
        if "response_format" in body and not self.structured:
            return _json(
                {"error": {"message": "response_format is not supported", "type": "invalid_request_error"}}, 400
            )
        self.asked.append(body)
        response = _json(self.answer(body))
        response.headers.extend(self.limits)
        return response

    def _upload(self, request: Request) -> Response:
        name = f"file-{len(self.files)}"
        self.files[name] = request.files["file"].read().decode()
        return _json(
            {
                "id": name,
                "object": "file",
                "bytes": 1,
                "created_at": 1,
                "filename": "x",
                "purpose": "batch",
                "status": "processed",
            }
        )

    def _content(self, request: Request) -> Response:
        return Response(self.files[request.path.split("/")[3]])

    def _create(self, request: Request) -> Response:
        body = request.get_json()
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        answers = [
            {
                "id": "x",
                "custom_id": one["custom_id"],
                "error": None,
                "response": {"status_code": 200, "request_id": "r", "body": self.answer(one["body"])},
            }
            for one in lines
        ]
        output = f"out-{len(self.batches)}"
        self.files[output] = "".join(json.dumps(answer) + "\n" for answer in answers)
        batch = {
            "id": f"batch_{len(self.batches)}", "object": "batch", "endpoint": body["endpoint"], "status": "completed",
            "input_file_id": body["input_file_id"], "completion_window": "24h", "created_at": 10, "completed_at": 20,
            "output_file_id": output, "error_file_id": None, "metadata": body.get("metadata"),
        }  # fmt: skip
        self.batches.append(batch)
        if self.lose_creations:
            self.lose_creations -= 1
            return Response("", 502)
        return _json(batch)

    def _list(self, _: Request) -> Response:
        return _json({"object": "list", "data": self.batches, "has_more": False})

    def _retrieve(self, request: Request) -> Response:
        return _json(next(batch for batch in self.batches if batch["id"] == request.path.split("/")[-1]))


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, content_type="application/json")
