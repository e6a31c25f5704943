"""Asking Claude, against a local server that speaks the API: money, failures, and kills."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from interp.descriptions.explainer_prompts import DESCRIPTION
from interp.descriptions.llm_questions import Prompt
from interp.descriptions.settings import AnthropicSettings, LLMSettings, Prices
from storage.answers import AnswerStore
from storage.store import Store
from tasks.llm.anthropic_endpoint import AnthropicEndpoint
from tasks.llm.paid_model import PaidModel
from tests.tasks.api_server import KEY, Api, description_of, error, message

PRICES = Prices(input=3.0, output=15.0, cache_write=3.75, cache_read=0.3)
COST = (100 * 3.0 + 20 * 15.0) / 1e6
"""Of one answer of the server, asked for directly."""


class Killed(BaseException):
    """Ends the process, as far as the test is concerned."""


@pytest.fixture
def api(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", httpserver.url_for("").rstrip("/"))
    return Api(httpserver)


def prompts(n: int, max_tokens: int = 50) -> list[Prompt]:
    return [Prompt("explain", "You describe.", "x" * (at + 1), DESCRIPTION, max_tokens) for at in range(n)]


def asking(
    folder: Path, run: str = "run", sleep: Any = lambda _: None, batch_above: int | None = 20, **settings: Any
) -> PaidModel:
    limits = LLMSettings(**{"budget_usd": 10.0, **settings})
    claude = AnthropicSettings(model="some-model", prices=PRICES, batch_above=batch_above)
    return PaidModel(AnthropicEndpoint(claude, limits), limits, AnswerStore(Store(folder)), run, sleep)


def texts(model: PaidModel, asked: list[Prompt]) -> list[str | None]:
    answers = [model.look_up(prompt) for prompt in asked]
    return [a.value["description"] if a is not None and a.value else None for a in answers]


def test_a_few_are_asked_directly_and_cost_what_they_cost(api: Api, tmp_path: Path) -> None:
    model = asking(tmp_path)
    model.ask(prompts(3))
    assert texts(model, prompts(3)) == [f"a text of {n} characters" for n in (1, 2, 3)]
    assert model.spent_usd == pytest.approx(3 * COST, abs=1e-12)
    assert [call.cost_usd for call in model.calls] == [pytest.approx(COST)] * 3
    body = api.direct[0]
    assert body["output_config"]["format"]["schema"] == DESCRIPTION
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert "temperature" not in body
    assert not api.batches


def test_cached_tokens_have_prices_of_their_own_and_batches_are_cheaper(api: Api, tmp_path: Path) -> None:
    api.answer = lambda params: {
        **message('{"description": "d"}', cache_creation_input_tokens=200, cache_read_input_tokens=300),
        "id": f"m{len(params['messages'][0]['content'])}",
    }
    model = asking(tmp_path, batch_above=2)
    model.ask(prompts(3))
    each = (100 * 3.0 + 20 * 15.0 + 200 * 3.75 + 300 * 0.3) / 1e6 * 0.5
    assert model.spent_usd == pytest.approx(3 * each, abs=1e-12)
    assert model.calls[0].input_tokens == 600
    assert len(api.batches) == 1
    assert not api.direct


def test_the_same_question_is_never_paid_twice(api: Api, tmp_path: Path) -> None:
    first = asking(tmp_path)
    first.ask([*prompts(2), *prompts(2)])
    again = asking(tmp_path, "another run")
    again.ask(prompts(3))
    assert len(api.direct) == 3
    assert again.spent_usd == pytest.approx(COST)
    cached = [call for call in again.calls if call.cached]
    assert [call.cost_usd for call in cached] == [0.0, 0.0]
    assert {call.run_id for call in again.calls} == {"run", "another run"}


def test_the_estimate_is_by_the_apis_count_and_is_for_what_is_left(api: Api, tmp_path: Path) -> None:
    model = asking(tmp_path)
    model.ask(prompts(1))
    guess = model.estimate(prompts(4))
    assert guess.n_questions == 3
    assert guess.input_tokens == pytest.approx(300, rel=0.05)
    assert guess.usd == pytest.approx((300 * 3.0 + 30 * 15.0) / 1e6, rel=0.05)
    assert asking(tmp_path).estimate(prompts(1)).usd == 0


@pytest.mark.parametrize("batch_above", [100, 0])
def test_the_budget_is_never_passed_and_the_rest_says_why(api: Api, tmp_path: Path, batch_above: int) -> None:
    asked = prompts(40)
    model = asking(tmp_path, batch_above=batch_above, budget_usd=8 * COST)
    model.ask(asked)
    assert 0 < model.spent_usd <= 8 * COST
    found = texts(model, asked)
    answered = sum(text is not None for text in found)
    assert answered == len(api.direct) + sum(map(len, api.batches.values()))
    assert 0 < answered <= 16
    problem = model.look_up(asked[-1])
    assert problem is not None
    assert problem.problem == "budget"
    later = asking(tmp_path, "later", batch_above=batch_above)
    later.ask(asked)
    assert None not in texts(later, asked)
    assert later.spent_usd == pytest.approx((40 - answered) * COST * (1 if batch_above else 0.5))


def test_busy_servers_are_asked_again_and_never_waited_for_long(api: Api, tmp_path: Path) -> None:
    waits: list[float] = []
    api.troubles = [
        error(429, "rate_limit_error", **{"retry-after": "3"}),
        error(529, "overloaded_error"),
        error(500),
        Response("<html>", 200, content_type="application/json"),
    ]
    model = asking(tmp_path, sleep=waits.append, max_wait_s=7)
    model.ask(prompts(1))
    assert texts(model, prompts(1)) == ["a text of 1 characters"]
    assert {3.0, 2.0, 4.0, 7.0} <= set(waits)
    assert max(waits) == 7


def test_a_server_that_wants_to_be_left_alone_for_long_is(api: Api, tmp_path: Path) -> None:
    api.troubles = [error(429, "rate_limit_error", **{"retry-after": "3600"})]
    model = asking(tmp_path, max_wait_s=7, concurrency=1)
    model.ask(prompts(3))
    assert texts(model, prompts(3)) == [None, None, None]
    assert "asks for a wait of 3600 s" in model.unanswered[prompts(1)[0].sha256("some-model")].detail
    assert not api.direct


def test_what_stays_busy_is_given_up_and_asked_in_the_next_run(api: Api, tmp_path: Path) -> None:
    api.troubles = [error(529, "overloaded_error")] * 3
    model = asking(tmp_path, retries=2, concurrency=1)
    model.ask(prompts(2))
    assert texts(model, prompts(2)) == [None, "a text of 2 characters"]
    gone = model.look_up(prompts(1)[0])
    assert gone is not None
    assert gone.problem == "unreachable"
    assert [call.status for call in model.calls] == ["unreachable", "ok"]
    next_run = asking(tmp_path, "next")
    next_run.ask(prompts(2))
    assert None not in texts(next_run, prompts(2))


def test_a_slow_answer_is_given_up(api: Api, tmp_path: Path) -> None:
    def slow(params: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.3)
        return description_of(params)

    api.answer = slow
    model = asking(tmp_path, timeout_s=0.1, retries=1)
    model.ask(prompts(1))
    answer = model.look_up(prompts(1)[0])
    assert answer is not None
    assert answer.problem == "unreachable"
    while len(api.direct) < 2:  # the server is still at it
        time.sleep(0.05)
    time.sleep(0.4)


@pytest.mark.parametrize(
    ("bad", "problem", "n_asked"),
    [
        (message("I would rather not", "refusal"), "refusal", 1),
        (message('{"description": "half a', "max_tokens"), "truncated", 2),
        (message("no JSON at all"), "malformed", 2),
        (message('{"descriptions": 3}'), "malformed", 2),
    ],
)
@pytest.mark.parametrize("batch_above", [100, 0])
def test_useless_answers_are_paid_for_recorded_and_not_asked_for_ever(
    api: Api, tmp_path: Path, bad: dict[str, Any], problem: str, n_asked: int, batch_above: int
) -> None:
    api.answer = lambda _: bad
    for run in ("first", "second"):
        model = asking(tmp_path, run, batch_above=batch_above)
        model.ask(prompts(1))
        answer = model.look_up(prompts(1)[0])
        assert answer is not None
        assert answer.problem == problem
    asked = api.direct or [one["params"] for batch in api.batches.values() for one in batch]
    assert len(asked) == n_asked
    if problem == "truncated":
        assert [body["max_tokens"] for body in asked] == [50, 100]


def test_a_malformed_answer_may_be_better_the_second_time(api: Api, tmp_path: Path) -> None:
    answers = [message("hm"), message('{"description": "fine"}')]
    api.answer = lambda _: answers.pop(0)
    model = asking(tmp_path)
    model.ask(prompts(1))
    assert texts(model, prompts(1)) == ["fine"]
    assert model.spent_usd == pytest.approx(2 * COST)


def test_expired_requests_are_sent_once_more_then_recorded(api: Api, tmp_path: Path) -> None:
    api.results = lambda one: {"type": "expired"}
    model = asking(tmp_path, batch_above=0)
    model.ask(prompts(2))
    assert len(api.batches) == 2
    answer = model.look_up(prompts(1)[0])
    assert answer is not None
    assert answer.problem == "expired"
    assert model.spent_usd == 0


def test_errored_requests_of_a_batch_are_sent_once_more(api: Api, tmp_path: Path) -> None:
    def first_fails(one: dict[str, Any]) -> dict[str, Any]:
        if len(api.batches) == 1 and one["params"]["messages"][0]["content"] == "x":
            kind = {"type": "overloaded_error", "message": "busy"}
            return {"type": "errored", "error": {"type": "error", "error": kind, "request_id": None}}
        return {"type": "succeeded", "message": description_of(one["params"])}

    api.results = first_fails
    model = asking(tmp_path, batch_above=0)
    model.ask(prompts(3))
    assert None not in texts(model, prompts(3))
    assert [len(batch) for batch in api.batches.values()] == [3, 1]


def test_results_that_break_off_are_read_again(api: Api, tmp_path: Path) -> None:
    api.garbled_results = 2
    model = asking(tmp_path, batch_above=0)
    model.ask(prompts(3))
    assert None not in texts(model, prompts(3))
    assert model.spent_usd == pytest.approx(3 * COST * 0.5)
    assert len(model.calls) == 3


def test_killed_while_a_batch_runs_it_is_collected_later_and_paid_once(api: Api, tmp_path: Path) -> None:
    api.polls_needed = 100

    def killed(_: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        asking(tmp_path, sleep=killed, batch_above=0).ask(prompts(3))
    api.polls_needed = 0
    model = asking(tmp_path, "second", batch_above=0)
    model.ask(prompts(3))
    assert len(api.batches) == 1
    assert None not in texts(model, prompts(3))
    assert model.spent_usd == 0  # the run that sent it is the one that spent it
    assert model.ledger.of_store == pytest.approx((3 * COST * 0.5, 0.0))
    assert not list(model.answers.batches())


def test_killed_between_sending_a_batch_and_hearing_its_name(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = asking(tmp_path, batch_above=0)
    endpoint = model.endpoint
    create = endpoint.batches.create

    def killed(*arguments: Any) -> None:
        create(*arguments)
        raise Killed

    monkeypatch.setattr(endpoint.batches, "create", killed)
    with pytest.raises(Killed):
        model.ask(prompts(3))
    again = asking(tmp_path, "second", batch_above=0)
    again.ask(prompts(3))
    assert len(api.batches) == 1
    assert None not in texts(again, prompts(3))


def test_killed_while_results_come_in_nothing_is_counted_twice(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = asking(tmp_path, batch_above=0)
    write, n = AnswerStore.write, 0

    def killed(self: AnswerStore, *arguments: Any) -> None:
        nonlocal n
        n += 1
        if n == 2:
            raise Killed
        write(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(AnswerStore, "write", killed)
        with pytest.raises(Killed):
            model.ask(prompts(3))
    again = asking(tmp_path, "second", batch_above=0)
    again.ask(prompts(3))
    assert len(api.batches) == 1
    paid = {call.call_id: call.cost_usd for call in again.calls}
    assert sum(paid.values()) == pytest.approx(3 * COST * 0.5)


def test_a_rejected_request_is_recorded_and_a_rejected_key_ends_the_run(api: Api, tmp_path: Path) -> None:
    api.troubles = [error(400, "invalid_request_error")]
    model = asking(tmp_path)
    model.ask(prompts(1))
    answer = model.look_up(prompts(1)[0])
    assert answer is not None
    assert answer.problem == "rejected"
    api.troubles = [error(401, "authentication_error")]
    with pytest.raises(ValueError, match="ANTHROPIC_API_KEY is not accepted"):
        asking(tmp_path).ask(prompts(2))


def test_without_a_key_nothing_is_sent_but_known_answers_are_there(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking(tmp_path).ask(prompts(1))
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    asking(tmp_path).ask(prompts(1))
    with pytest.raises(ValueError, match="ANTHROPIC_API_KEY is not set"):
        asking(tmp_path).ask(prompts(2))
    with pytest.raises(ValueError, match=r"anthropic\.model"):
        AnthropicEndpoint(AnthropicSettings(), LLMSettings())


def test_the_key_is_written_nowhere(api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api.troubles = [error(500), error(400, "invalid_request_error")]
    model = asking(tmp_path, batch_above=1)
    model.ask(prompts(1))
    model.ask(prompts(3))
    assert KEY not in caplog.text
    assert KEY not in repr(model.calls) + repr(model) + repr(model.unanswered)
    assert all(KEY not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
