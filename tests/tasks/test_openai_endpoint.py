"""Servers that speak OpenAI's chat completions: with and without schemas, prices, keys and batches."""

from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from interp.descriptions.explainer_prompts import DESCRIPTION
from interp.descriptions.llm_questions import Prompt
from interp.descriptions.settings import LLMSettings, OpenAISettings, Prices
from storage.answers import AnswerStore
from storage.store import Store
from tasks.llm.call_log import load_calls, observed_usage
from tasks.llm.openai_endpoint import OpenAIEndpoint, is_nearby
from tasks.llm.paid_model import PaidModel
from tasks.llm.prices import Observed
from tests.tasks.openai_server import OpenAIServer, completion

PRICES = Prices(input=2.0, output=8.0, cache_read=0.5)


@pytest.fixture
def server(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return OpenAIServer(httpserver)


def prompts(n: int) -> list[Prompt]:
    return [Prompt("explain", "You describe.", "x" * (at + 1), DESCRIPTION, 50) for at in range(n)]


def asking(folder: Path, server: OpenAIServer, limits: Any = None, **settings: Any) -> PaidModel:
    asked = LLMSettings(**{"budget_usd": 1.0, "retries": 1, **(limits or {})})
    endpoint = OpenAIEndpoint(OpenAISettings(**{"base_url": server.url, "model": "tiny", **settings}), asked)
    return PaidModel(endpoint, asked, AnswerStore(Store(folder)), "run", lambda _: None)


def texts(model: PaidModel, asked: list[Prompt]) -> list[str | None]:
    answers = [model.look_up(prompt) for prompt in asked]
    return [one.value["description"] if one is not None and one.value else None for one in answers]


def test_a_server_on_this_machine_needs_no_key_and_costs_nothing(server: OpenAIServer, tmp_path: Path) -> None:
    model = asking(tmp_path, server, {"budget_usd": 0.0})
    model.ask(prompts(3))
    assert texts(model, prompts(3)) == ["fine"] * 3
    assert model.ledger.of_run == (0.0, 0.0)
    [body, *_] = server.asked
    assert body["response_format"]["json_schema"]["schema"] == DESCRIPTION
    assert body["max_tokens"] == 50
    assert model.calls[0].input_tokens == 100


def test_with_prices_it_costs_what_it_used_cached_tokens_apart(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server.answer = lambda _: completion('{"description": "d"}', prompt_tokens_details={"cached_tokens": 40})
    model = asking(tmp_path, server, prices=PRICES, key_variable="MY_KEY")
    model.ask(prompts(1))
    assert model.spent_usd == pytest.approx((60 * 2.0 + 40 * 0.5 + 20 * 8.0) / 1e6)
    assert server.headers == ["Bearer secret"]


def test_a_server_without_schemas_gets_them_in_words_and_may_mend_once(server: OpenAIServer, tmp_path: Path) -> None:
    server.structured = False
    answers = iter(["Sure! It is about cats.", 'Here you are: {"description": "cats"}'])
    server.answer = lambda _: completion(next(answers))
    model = asking(tmp_path, server)
    model.ask(prompts(1))
    assert texts(model, prompts(1)) == ["cats"]
    first, second = server.asked
    assert "fits this schema" in first["messages"][0]["content"]
    assert [turn["role"] for turn in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == "Sure! It is about cats."


def test_a_server_that_ignores_schemas_without_a_word_is_found_out(server: OpenAIServer, tmp_path: Path) -> None:
    answers = iter(["It is about cats.", '{"description": "cats"}'])
    server.answer = lambda _: completion(next(answers))
    model = asking(tmp_path, server)
    model.ask(prompts(1))
    assert texts(model, prompts(1)) == ["cats"]
    first, second = server.asked
    assert "response_format" in first
    assert "response_format" not in second
    assert second["messages"][2]["content"] == "It is about cats."


def test_an_answer_that_does_not_fit_twice_is_given_up(server: OpenAIServer, tmp_path: Path) -> None:
    server.answer = lambda _: completion('{"description": 3}')
    model = asking(tmp_path, server, structured_output="none")
    model.ask(prompts(1))
    answer = model.look_up(prompts(1)[0])
    assert answer is not None
    assert answer.problem == "malformed"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        {"id": "x", "object": "chat.completion", "created": 1, "model": "tiny", "choices": []},
        {"error": "what"},
        {},
    ],
)
def test_answers_that_are_none_set_their_cost_aside(server: OpenAIServer, tmp_path: Path, answer: Any) -> None:
    server.answer = lambda _: answer
    model = asking(tmp_path, server, prices=PRICES)
    model.ask(prompts(1))
    assert texts(model, prompts(1)) == [None]
    assert model.ledger.of_run.set_aside > 0


def test_refusals_and_cut_off_answers_are_known(server: OpenAIServer, tmp_path: Path) -> None:
    server.answer = lambda _: completion('{"descr', finish="length")
    model = asking(tmp_path, server)
    model.ask(prompts(1))
    assert [body["max_tokens"] for body in server.asked] == [50, 100]
    server.answer = lambda _: completion("no", finish="content_filter")
    model.ask(prompts(2))
    answer = model.look_up(prompts(2)[1])
    assert answer is not None
    assert answer.problem == "refusal"


def test_check_names_the_setting_that_is_wrong(server: OpenAIServer, tmp_path: Path) -> None:
    asking(tmp_path, server).endpoint.check()
    with pytest.raises(ValueError, match=r"openai\.model: .* has no medium; it has large, tiny"):
        asking(tmp_path, server, model="medium").endpoint.check()
    server.models = None
    asking(tmp_path, server, model="medium").endpoint.check()
    assert server.asked[-1]["max_tokens"] == 1
    server.answer = lambda _: {"error": "no such model"}
    with pytest.raises(ValueError, match="does not answer for medium"):
        asking(tmp_path, server, model="medium").endpoint.check()
    with pytest.raises(ValueError, match=r"openai\.base_url: nothing answers at http://127\.0\.0\.1:9/v1"):
        asking(tmp_path, server, base_url="http://127.0.0.1:9/v1").endpoint.check()


def test_servers_elsewhere_need_prices_and_a_key(server: OpenAIServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"openai\.prices is not set"):
        asking(tmp_path, server, base_url="https://api.example.org/v1")
    far = asking(tmp_path, server, base_url="https://api.example.org/v1", prices=PRICES)
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        far.ask(prompts(1))
    for wrong in ("api.example.org/v1", "ftp://x/v1", "https://"):
        with pytest.raises(ValueError, match=r"openai\.base_url: expected an address"):
            asking(tmp_path, server, base_url=wrong)
    with pytest.raises(ValueError, match="credentials"):
        asking(tmp_path, server, base_url="http://me:secret@127.0.0.1/v1")
    with pytest.raises(ValueError, match=r"openai\.model"):
        asking(tmp_path, server, model=None)


def test_which_servers_are_near() -> None:
    near = ("localhost", "127.0.0.1", "::1", "192.168.1.7", "10.0.0.3", "gpu-box", "box.local", "vllm.internal")
    assert all(map(is_nearby, near))
    assert not any(map(is_nearby, ("api.openai.com", "8.8.8.8", "localhost.example.org")))


def test_batches_are_found_by_their_name_when_their_creation_got_no_answer(
    server: OpenAIServer, tmp_path: Path
) -> None:
    server.lose_creations = 1
    model = asking(tmp_path, server, prices=PRICES, batch_above=0)
    model.ask(prompts(4))
    assert texts(model, prompts(4)) == ["fine"] * 4
    assert len(server.batches) == 1
    assert model.ledger.of_run == pytest.approx((4 * (100 * 2.0 + 20 * 8.0) / 1e6 * 0.5, 0.0))


def test_the_servers_limits_govern_how_many_questions_are_on_their_way(server: OpenAIServer, tmp_path: Path) -> None:
    server.limits = {"x-ratelimit-remaining-requests": "900", "x-ratelimit-remaining-tokens": "250"}
    model = asking(tmp_path, server, {"concurrency": 6})
    model.ask(prompts(1))
    assert model._pace.allowed == 2  # of 120 tokens each
    server.limits = {"x-ratelimit-remaining-requests": "900"}
    model.ask(prompts(2))
    assert model._pace.allowed == 6


def test_what_questions_took_before_is_what_the_next_are_estimated_at(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server.answer = lambda body: completion(
        '{"description": "fine"}', prompt_tokens=9 * sum(len(one["content"]) for one in body["messages"])
    )
    first = asking(tmp_path, server, prices=PRICES, key_variable="MY_KEY")
    guess = first.estimate(prompts(10)).usd
    first.ask(prompts(1))
    store = first.answers.store
    load_calls.fn(store, "run", 0, first.calls)
    later = asking(tmp_path, server, prices=PRICES, key_variable="MY_KEY")
    later.observed = observed_usage(store, "tiny")
    assert later.observed == {"explain": Observed(9.0, 20.0)}
    estimated = later.estimate(prompts(10)).usd
    later.ask(prompts(10))
    actual = sum(call.cost_usd or 0 for call in later.calls if not call.cached and call.run_id == "run")
    actual -= first.calls[0].cost_usd or 0
    assert estimated == pytest.approx(actual)
    assert guess != pytest.approx(actual * 10 / 9, rel=0.3)
