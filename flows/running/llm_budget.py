"""Get a stage's questions answered: their cost is estimated before anything is sent, and limited by the budget."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect.futures import PrefectFuture

from configs.run import RunConfig
from flows.inputs.language_model import Who, endpoint_for, local_model
from flows.running.engine import wait_for_all
from flows.running.progress import console
from interp.descriptions.llm_questions import Answer, Questions
from storage.answers import AnswerStore
from storage.store import ShardKey, Store
from tasks.llm.call_log import load_calls, observed_usage
from tasks.llm.paid_model import PaidModel
from tasks.llm.prices import Estimate

if TYPE_CHECKING:
    from tasks.llm.local_model import LocalModel

SHARDS_AT_ONCE = 8
"""Shards whose questions are in memory together."""

Submit = Callable[[ShardKey, dict[str, Answer]], PrefectFuture[Questions]]
"""Submits the task of a shard, which returns the questions that it still needs answered."""


@dataclass(frozen=True)
class Respondent:
    """The explainer or judge of a stage."""

    config: RunConfig
    store: Store
    who: Who
    run_id: str

    def model(self) -> "PaidModel | LocalModel | None":
        """The language model that is asked; None if there is none."""
        if self.who == "local":
            return local_model(self.config, self.store, self.run_id)
        endpoint = endpoint_for(self.config, self.who)
        if endpoint is None:
            return None
        observed = observed_usage(self.store, endpoint.model)
        return PaidModel(endpoint, self.config.llm, AnswerStore(self.store), self.run_id, observed=observed)


def answer_all(respondent: Respondent, shards: Sequence[ShardKey], submit: Submit, title: str) -> None:
    """Run the task of every shard, repeatedly while it has questions.

    Memory: the questions of `SHARDS_AT_ONCE` shards.

    Raises:
        ValueError: the questions would cost more than the budget; nothing was sent.
    """
    model = respondent.model()
    if model is None:
        wait_for_all([submit(shard, {}) for shard in shards], title)
        return
    groups = [shards[start : start + SHARDS_AT_ONCE] for start in range(0, len(shards), SHARDS_AT_ONCE)]
    paid = model if isinstance(model, PaidModel) else None
    before, estimated = 0.0, 0.0
    if paid is not None:
        before = paid.spent_usd
        estimated = _within_budget(paid, (_open(group, submit, paid.unanswered, title) for group in groups), title)
    for number, group in enumerate(groups):
        while missing := _open(group, submit, model.unanswered, title).now:
            model.ask(missing)
            load_calls(respondent.store, respondent.run_id, number, model.calls)
            model.calls.clear()
    if paid is not None:
        _say_what_was_spent(paid, paid.spent_usd - before, estimated, title)


def _say_what_was_spent(model: PaidModel, usd: float, estimated: float, title: str) -> None:
    """Report the cost of a stage compared with its estimate."""
    about = f"${usd:.4f} spent"
    if usd and estimated:
        about += f"; the estimate was ${estimated:.4f}, {estimated / usd:.2f} times as much"
    set_aside = model.ledger.of_run.set_aside
    if set_aside >= 5e-5:  # rounding errors of sums
        about += f"; ${set_aside:.4f} reserved for questions whose outcome is unknown"
    console.print(f"{title}: {about}; {len(model.unanswered)} questions left without an answer", soft_wrap=True)


def _open(group: Sequence[ShardKey], submit: Submit, unanswered: dict[str, Answer], title: str) -> Questions:
    found = wait_for_all([submit(shard, unanswered) for shard in group], title)
    return Questions(*([prompt for one in found for prompt in one[part]] for part in range(2)))


def _within_budget(model: PaidModel, questions: Iterable[Questions], title: str) -> float:
    """Report the estimated cost of the questions and of those that follow from them, and refuse them if a limit is
    lower; returns the cost in USD."""
    found = [model.estimate(prompts) for one in questions for prompts in one]
    total = Estimate(*(sum(column) for column in zip(*found, strict=True))) if found else Estimate(0, 0, 0, 0)
    if total.n_questions == 0:
        return 0.0
    about = (
        f"{total.n_questions} questions to {model.model}, about {total.input_tokens:,.0f} tokens to read and "
        f"{total.output_tokens:,.0f} to write, about ${total.usd:.2f}"
    )
    reached = model.ledger.limit_reached(total.usd, model.limits)
    if reached is not None:
        raise ValueError(f"{title}: {about}; {reached}. Nothing was sent. Raise the limit, or ask less")
    console.print(f"{title}: {about} of a budget of ${model.settings.budget_usd:.2f}")
    return total.usd
