"""Known prices: models by their names and snapshots, others refused; the table is dated and shown."""

import pytest
from typer.testing import CliRunner

from configs.run import RunConfig
from flows.cli import app
from interp.descriptions.settings import Prices
from tasks.llm.endpoint import Question, Usage, cost_usd, credible, worst_case_usd
from tasks.llm.prices import anthropic_prices, known_prices
from tests.tasks.test_money import prompts


def test_snapshots_cost_what_their_model_costs() -> None:
    assert anthropic_prices("claude-haiku-4-5-20251001") == anthropic_prices("claude-haiku-4-5")
    with pytest.raises(
        ValueError, match=r"anthropic\.prices is not set, and claude-9 is not among the prices known on"
    ):
        anthropic_prices("claude-9")


def test_the_table_is_shown_with_its_age() -> None:
    shown = CliRunner().invoke(app, ["prices"], env={"COLUMNS": "200"}).output
    assert all(name in shown for name in known_prices().models)
    assert f"As of {known_prices().as_of}" in shown


def test_caches_cost_as_input_where_nothing_is_said() -> None:
    plain = Prices(input=2.0, output=8.0)
    assert cost_usd(Usage(1_000_000, 0, 1_000_000, 1_000_000), plain, batch=False) == 6.0


def test_nothing_credible_costs_more_than_its_worst_case() -> None:
    prices = Prices(input=3.0, output=15.0, cache_write=3.75, cache_read=0.3)
    question = Question(prompts(1)[0], 50)
    most = question.most_input_tokens
    dearest = Usage(0, 50, most, 0)
    assert credible(dearest, question)
    assert cost_usd(dearest, prices, batch=False) == pytest.approx(worst_case_usd(question, prices, batch=False))
    assert not credible(dearest._replace(cache_read=1), question)
    assert not credible(dearest._replace(output=51), question)


def test_settings_that_stood_elsewhere_say_where_they_are_now() -> None:
    values = {"name": "x", "model": {"path": "."}, "corpus": {"source": "x"}, "anthropic": {"budget_usd": 5}}
    with pytest.raises(ValueError, match=r"anthropic\.budget_usd is (now )?llm\.budget_usd.*write llm\.budget_usd=5"):
        RunConfig.model_validate(values)
