"""Map errors of the Anthropic and OpenAI clients, which have the same structure, to the failures of an endpoint."""

from collections.abc import Callable
from json import JSONDecodeError
from types import ModuleType
from typing import TypeVar

import httpx2

from tasks.llm.endpoint import BusyError, NotSentError, OutcomeUnknownError, RejectedError

DECLINED = frozenset({429, 503, 529})
"""HTTP statuses of a busy server, which answers so before it computes anything."""

BROKEN = frozenset({408, 409, 425, 500, 502, 504})
"""Statuses after which it is not known whether an answer was generated."""

Result = TypeVar("Result")


def translated(sdk: ModuleType, variable: str, asked: str, send: Callable[[], Result]) -> Result:
    """The result of a client's request (`anthropic` or `openai`), with its errors mapped.

    `variable`, which holds the key, and the model `asked` are named in the message about a key that is not accepted.

    Raises:
        ValueError: the key is not accepted, or the account may not be used.
        NotSentError, BusyError, RejectedError, OutcomeUnknownError: see `tasks.llm.endpoint`.
    """
    try:
        return send()
    except sdk.APIStatusError as error:
        status, said = error.status_code, one_line(error)
        if status in (401, 402, 403):
            raise ValueError(f"{variable} is not accepted for {asked}: {said}") from None
        if status in DECLINED:
            raise BusyError(said, _seconds(error.response.headers.get("retry-after"))) from None
        if status in BROKEN or status >= 500:
            raise OutcomeUnknownError(said) from None
        raise RejectedError(said) from None
    except sdk.APIError as error:  # no connection, a time-out, or an answer that is not JSON
        never_sent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        raise (NotSentError if never_sent else OutcomeUnknownError)(one_line(error)) from None
    except (httpx2.HTTPError, JSONDecodeError) as error:
        raise OutcomeUnknownError(one_line(error)) from None


def one_line(error: Exception) -> str:
    """An error's message on one line; never a header, so never the key."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None  # a date: the default wait is used
