"""Rate limits in a server's headers, in OpenAI's form and in Anthropic's."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple


class Room(NamedTuple):
    """How many questions like the last one the server still accepts, and when it accepts more."""

    n_questions: int
    reset_s: float
    """Seconds until the tightest limit is reset."""


_OF_REQUESTS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
)
_OF_TOKENS = (
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
)

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def room_left(headers: Mapping[str, str], n_tokens: int, now: datetime | None = None) -> Room | None:
    """The remaining rate by the tightest limit; None if no header has one.

    `n_tokens` are those of the last question and its answer. Headers that are neither a number nor a time are ignored.
    """
    rooms = list(_rooms(headers, max(1, n_tokens), now or datetime.now(UTC)))
    return min(rooms, default=None)


def _rooms(headers: Mapping[str, str], n_tokens: int, now: datetime) -> Iterator[Room]:
    for names, each in ((_OF_REQUESTS, 1), (_OF_TOKENS, n_tokens)):
        for remaining, reset in names:
            said = headers.get(remaining, "")
            if said.isascii() and said.isdigit():
                yield Room(int(said[:18]) // each, _seconds(headers.get(reset, ""), now))


def _seconds(text: str, now: datetime) -> float:
    """Seconds of a duration (6m0s, 20ms, 1.5) or until a time (RFC 3339); 0 if it is neither."""
    found = _DURATION.fullmatch(text)
    if found and any(found.groups()):
        sizes = (86_400, 3600, 60, 1, 0.001)
        return sum(float(part) * size for part, size in zip(found.groups(), sizes, strict=True) if part)
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        until = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return max(0.0, ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds())
