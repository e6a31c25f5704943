"""What servers say of their limits governs how many questions are on their way."""

import threading
from datetime import UTC, datetime

import pytest

from tasks.llm.pace import Pace
from tasks.llm.rate_limits import Room, room_left

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "room"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "6m0s"}, Room(7, 360)),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"}, Room(0, 0.02)),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-remaining-tokens": "250",
          "x-ratelimit-reset-tokens": "1h2m3.5s"}, Room(2, 3723.5)),
        ({"anthropic-ratelimit-requests-remaining": "3",
          "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:30Z"}, Room(3, 30)),
        ({"x-ratelimit-remaining-requests": "-5"}, None),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-remaining-tokens": "1e9"}, None),
        ({"x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "soon"}, Room(4, 0)),
        ({"x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "1.5"}, Room(4, 1.5)),
    ],
)  # fmt: skip
def test_the_nearest_limit_counts_and_nonsense_does_not(headers: dict[str, str], room: Room | None) -> None:
    assert room_left(headers, 100, NOW) == room


def test_no_more_questions_are_on_their_way_than_the_server_takes() -> None:
    slept: list[float] = []
    pace = Pace(8, slept.append)
    pace.limited(3, 60)
    assert pace.allowed == 3
    pace.limited(0, 60)
    assert pace.allowed == 1
    with pace.turn():
        pass
    assert slept == pytest.approx([60], abs=1)
    pace.limited(100, 1)
    assert pace.allowed == 8
    pace.declined(0)
    assert pace.allowed == 4


def test_whoever_waits_goes_on_when_the_server_takes_more() -> None:
    pace, done = Pace(2), threading.Event()
    pace.limited(1, 0)

    def second() -> None:
        with pace.turn():
            done.set()

    with pace.turn():
        other = threading.Thread(target=second)
        other.start()
        assert not done.wait(0.05)
        pace.limited(5, 0)
        assert done.wait(10)
    other.join()
