"""Have a stage's questions answered: priced before anything is sent, within the budget, nothing asked twice."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from prefect.futures import PrefectFuture
from rich.console import Console

from configs.run import RunConfig
from flows.running.engine import wait_for_all
from flows.subject.language_model import Who, local_model
from interp.descriptions.llm_questions import Answer, Questions
from storage.answers import AnswerStore
from storage.store import ShardKey, Store
from tasks.llm.anthropic_prices import Estimate
from tasks.llm.call_log import load_calls

if TYPE_CHECKING:
    from tasks.llm.anthropic_model import AnthropicModel
    from tasks.llm.local_model import LocalModel

SHARDS_AT_ONCE = 8
"""Shards whose questions are held in memory together."""

console = Console(stderr=True)

Submit = Callable[[ShardKey, dict[str, Answer]], PrefectFuture[Questions]]
"""Submits the task of a shard, which returns the questions that it still needs answered."""


@dataclass(frozen=True)
class Respondent:
    """Who answers the questions of a run's stage."""

    config: RunConfig
    store: Store
    who: Who
    run_id: str

    def model(self) -> "AnthropicModel | LocalModel | None":
        """The language model that is asked; None where no one is."""
        if self.who == "anthropic":
            from tasks.llm.anthropic_model import AnthropicModel  # a second to import, and only here wanted

            return AnthropicModel(self.config.anthropic, AnswerStore(self.store), self.run_id)
        return local_model(self.config, self.store, self.run_id) if self.who == "local" else None


def answer_all(respondent: Respondent, shards: Sequence[ShardKey], submit: Submit, title: str) -> None:
    """Run the task of every shard, as often as it has questions left.

    Memory: the questions of `SHARDS_AT_ONCE` shards.

    Raises:
        ValueError: the questions would cost more than the budget; nothing was sent.
    """
    model = respondent.model()
    if model is None:
        wait_for_all([submit(shard, {}) for shard in shards], title)
        return
    groups = [shards[start : start + SHARDS_AT_ONCE] for start in range(0, len(shards), SHARDS_AT_ONCE)]
    if respondent.who == "anthropic":
        _within_budget(
            cast("AnthropicModel", model), (_open(group, submit, model.unanswered, title) for group in groups), title
        )
    for number, group in enumerate(groups):
        while missing := _open(group, submit, model.unanswered, title).now:
            model.ask(missing)
            load_calls(respondent.store, respondent.run_id, number, model.calls)
            model.calls.clear()
    if model.unanswered or model.spent_usd:
        console.print(
            f"{title}: ${model.spent_usd:.2f} spent, {len(model.unanswered)} questions left without an answer"
        )


def _open(group: Sequence[ShardKey], submit: Submit, unanswered: dict[str, Answer], title: str) -> Questions:
    found = wait_for_all([submit(shard, unanswered) for shard in group], title)
    return Questions(*([prompt for one in found for prompt in one[part]] for part in range(2)))


def _within_budget(model: "AnthropicModel", questions: Iterable[Questions], title: str) -> None:
    """Say what the questions and those that follow from them will cost, and refuse them if the budget is smaller."""
    found = [model.estimate(prompts) for one in questions for prompts in one]
    total = Estimate(*(sum(column) for column in zip(*found, strict=True))) if found else Estimate(0, 0, 0, 0)
    if total.n_questions == 0:
        return
    about = (
        f"{total.n_questions} questions to {model.model}, about {total.input_tokens:,.0f} tokens to read and "
        f"{total.output_tokens:,.0f} to write, about ${total.usd:.2f}"
    )
    if total.usd > model.settings.budget_usd:
        raise ValueError(
            f"{title}: {about}; anthropic.budget_usd is ${model.settings.budget_usd:.2f}. Nothing was sent. "
            "Raise it, or ask less"
        )
    console.print(f"{title}: {about} of a budget of ${model.settings.budget_usd:.2f}")
