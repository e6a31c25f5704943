"""Against a server that loses answers: what it charged is never more than what is recorded and set aside, nor than the
budget."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from interp.descriptions.explainer_prompts import DESCRIPTION
from interp.descriptions.llm_questions import Prompt
from interp.descriptions.settings import AnthropicSettings, LLMSettings, Prices
from storage.answers import AnswerStore
from storage.llm_ledger import Ledger, Limits
from storage.store import Store
from tasks.llm.anthropic_endpoint import AnthropicEndpoint
from tasks.llm.paid_model import NOT_CREDIBLE, PaidModel
from tests.tasks.api_server import KEY, Api, error, message

PRICES = Prices(input=3.0, output=15.0, cache_write=3.75, cache_read=0.3)
COST = (100 * 3.0 + 20 * 15.0) / 1e6


class Till(Api):
    """The server, which counts what it charges: whenever an answer is made, whether or not anybody hears of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.charged = 0.0
        self.lose_answers = 0
        self.lose_creations = 0

    def _message(self, request: Request) -> Response:
        response = super()._message(request)
        if response.status_code == 200:
            self.charged += COST
        if self.lose_answers:
            self.lose_answers -= 1
            return Response("", 500)
        return response

    def _create(self, request: Request) -> Response:
        response = super()._create(request)
        if response.status_code == 200:
            self.charged += len(request.get_json()["requests"]) * COST * PRICES.batch
        if self.lose_creations:
            self.lose_creations -= 1
            return Response("", 502)
        return response


@pytest.fixture
def till(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Till:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", httpserver.url_for("").rstrip("/"))
    return Till(httpserver)


def prompts(n: int) -> list[Prompt]:
    return [Prompt("explain", "You describe.", "x" * (at + 1), DESCRIPTION, 50) for at in range(n)]


def asking(folder: Path, run: str = "run", batch_above: int | None = None, **limits: Any) -> PaidModel:
    settings = LLMSettings(**{"budget_usd": 10.0, "retries": 2, **limits})
    claude = AnthropicSettings(model="some-model", prices=PRICES, batch_above=batch_above)
    return PaidModel(AnthropicEndpoint(claude, settings), settings, AnswerStore(Store(folder)), run, lambda _: None)


def usage(**values: Any) -> Callable[[Any], Any]:
    return lambda _: {**message('{"description": "d"}'), "usage": {"input_tokens": 100, "output_tokens": 20, **values}}


SCENARIOS: dict[str, Callable[[Till], None]] = {
    "all is well": lambda till: None,
    "one direct answer is lost": lambda till: setattr(till, "lose_answers", 1),
    "every third direct answer is lost": lambda till: setattr(till, "lose_answers", 3),
    "busy, then well": lambda till: till.troubles.extend([error(429), error(529), error(503)]),
    "broken before anything is computed": lambda till: till.troubles.extend([error(500)] * 3),
    "negative usage": lambda till: setattr(till, "answer", usage(input_tokens=-3_000_000)),
    "huge usage": lambda till: setattr(till, "answer", usage(output_tokens=10**12)),
    "null usage": lambda till: setattr(till, "answer", usage(input_tokens=None)),
    "text as usage": lambda till: setattr(till, "answer", usage(output_tokens="many")),
    "a fraction as usage": lambda till: setattr(till, "answer", usage(output_tokens=0.5)),
    "no usage at all": lambda till: setattr(till, "answer", lambda _: {**message("{}"), "usage": None}),
    "malformed answers": lambda till: setattr(till, "answer", lambda _: message("no JSON")),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("budget_usd", [10.0, 12 * COST])
def test_what_is_charged_is_recorded_or_set_aside_and_within_the_budget(
    till: Till, tmp_path: Path, scenario: str, budget_usd: float
) -> None:
    SCENARIOS[scenario](till)
    model = asking(tmp_path, budget_usd=budget_usd)
    model.ask(prompts(6))
    spent = model.ledger.of_run
    assert till.charged <= spent.total + 1e-12
    assert spent.total <= budget_usd + 1e-9
    assert spent.recorded >= 0
    assert Ledger(model.answers.store, "run").of_run == pytest.approx(spent)  # all of it is on disk
    recorded = sum(call.cost_usd for call in model.calls)
    assert recorded == pytest.approx(spent.recorded)
    assert sum(call.set_aside_usd for call in model.calls) == pytest.approx(spent.set_aside)


def test_a_count_of_tokens_that_cannot_be_is_said_and_counted_at_its_worst(till: Till, tmp_path: Path) -> None:
    till.answer = usage(input_tokens=-3_000_000)
    model = asking(tmp_path)
    model.ask(prompts(1))
    [call] = model.calls
    assert call.error == NOT_CREDIBLE
    assert call.cost_usd > COST


def test_a_batch_whose_creation_got_no_answer_is_found_and_not_created_again(till: Till, tmp_path: Path) -> None:
    till.lose_creations = 6
    model = asking(tmp_path, batch_above=0)
    model.ask(prompts(5))
    assert len(till.batches) == 1
    assert not model.unanswered
    assert model.ledger.of_run == pytest.approx((5 * COST * PRICES.batch, 0.0))
    assert till.charged == pytest.approx(model.ledger.of_run.recorded)


def test_a_batch_that_is_not_on_the_server_is_created_once_more(till: Till, tmp_path: Path) -> None:
    till.troubles = [error(500)]
    model = asking(tmp_path, batch_above=0)
    model.ask(prompts(5))
    assert len(till.batches) == 1
    assert till.charged == pytest.approx(model.ledger.of_run.recorded)
    assert model.ledger.of_run.set_aside == 0


def test_a_batch_of_somebody_elses_is_not_taken_for_ours(till: Till, tmp_path: Path) -> None:
    stranger = asking(tmp_path / "stranger", batch_above=0)
    stranger.ask([prompt._replace(system="Another question.") for prompt in prompts(5)])
    till.lose_creations = 1
    model = asking(tmp_path / "ours", batch_above=0)
    model.ask(prompts(5))
    assert len(till.batches) == 2
    assert not model.unanswered
    assert till.charged == pytest.approx(model.ledger.of_run.recorded + stranger.ledger.of_run.recorded)


def test_ids_from_the_server_name_no_files(till: Till, tmp_path: Path) -> None:
    real = till._results

    def foreign(request: Request) -> Response:
        line = {"custom_id": "../../../evil", "result": {"type": "succeeded", "message": message("{}")}}
        answers = real(request)
        return Response(json.dumps(line) + "\n" + answers.get_data(as_text=True), content_type="application/x-jsonl")

    till.server.clear()
    till._results = foreign
    Api.__post_init__(till)
    model = asking(tmp_path / "store", batch_above=0)
    model.ask(prompts(3))
    assert not model.unanswered
    assert not list(tmp_path.rglob("*evil*"))
    with pytest.raises(ValueError, match="SHA-256"):
        model.answers.path("../../../evil")


def test_after_failures_in_a_row_nothing_more_is_sent_and_what_was_answered_is_kept(till: Till, tmp_path: Path) -> None:
    model = asking(tmp_path, retries=0, max_failures=3, concurrency=1)
    model.ask(prompts(2))
    till.troubles = [error(500)] * 100
    model.ask(prompts(40))
    assert len(till.troubles) == 97
    assert len(model.unanswered) == 38
    till.troubles = []
    later = asking(tmp_path, "later")
    later.ask(prompts(40))
    assert not later.unanswered
    assert len(till.direct) == 40


def test_limits_of_the_store_and_of_the_month_count_what_other_runs_spent(till: Till, tmp_path: Path) -> None:
    first = asking(tmp_path, "first")
    first.ask(prompts(4))
    for limit in ("store_budget_usd", "month_budget_usd"):
        model = asking(tmp_path, limit, **{limit: 4 * COST + 0.001})
        model.ask(prompts(8))
        assert {answer.problem for answer in model.unanswered.values()} == {"budget"}
        assert f"llm.{limit} is $" in next(iter(model.unanswered.values())).detail
    assert till.charged == pytest.approx(4 * COST)


def test_a_ledger_that_was_cut_off_is_read_and_one_that_is_damaged_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ledger = Ledger(store, "run")
    name = ledger.reserve(0.5, Limits(1.0))
    assert name is not None
    assert ledger.reserve(0.6, Limits(1.0)) is None
    path = ledger.folder / "run.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "cut')
    again = Ledger(store, "run")
    assert again.of_run == (0.0, 0.5)
    again.settle(name, 0.1)
    assert Ledger(store, "other").of_store == (pytest.approx(0.1), 0.0)
    path.write_bytes(b'{"what": 1}\n' + whole)
    with pytest.raises(ValueError, match="expected an entry of the spending ledger"):
        Ledger(store, "run")


KILLED = """
import sys
from pathlib import Path
from tests.tasks.test_money import asking, prompts
asking(Path(sys.argv[1]), "killed", concurrency=2).ask(prompts(10))
"""


def test_killed_while_it_asks_nothing_that_was_heard_is_paid_twice(till: Till, tmp_path: Path) -> None:
    plain = till.answer

    def slow(params: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.2)
        return plain(params)

    till.answer = slow
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment)
    give_up = time.monotonic() + 60
    while len(till.direct) < 4 and time.monotonic() < give_up:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the server is still at what was on its way
    answered = len([path for path in (tmp_path / "answers").glob("*/*.json") if len(path.parent.name) == 2])
    assert answered >= 1
    asked_before = len(till.direct)
    model = asking(tmp_path, "second", concurrency=2)
    model.ask(prompts(10))
    assert not model.unanswered
    assert len(till.direct) - asked_before == 10 - answered
    assert till.charged <= model.ledger.of_store.total + 1e-12
