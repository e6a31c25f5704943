"""Batches of questions.

A batch is recorded before it is sent. If its creation got no answer, the server is searched for it before it is created
again.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from interp.descriptions.llm_questions import Prompt
from storage.answers import OpenBatch
from storage.store import write_json
from tasks.llm.endpoint import (
    Batches,
    BusyError,
    NotSentError,
    OutcomeUnknownError,
    Question,
    RejectedError,
    worst_case_usd,
)
from tasks.llm.paid_model import PaidModel, Sent, Unanswered

LOOKS = 3
"""How often the server's list is searched for a batch whose creation got no answer, before it is created again."""


class Outcome(NamedTuple):
    """The questions of a batch that have no answer."""

    returned: dict[str, Unanswered]
    """Questions that a returned batch has no answer for."""
    given_up: dict[str, Unanswered]
    """Questions of a batch that could not be sent, or whose results could not be fetched."""


def send_as_batches(model: PaidModel, prompts: Sequence[Prompt]) -> None:
    """Send batches, each as large as the limits allow in the worst case, and collect them.

    A question whose batch returned without its answer is sent once more.
    """
    left, returned_before = list(prompts), set()
    while left:
        questions = _affordable(model, left)
        if not questions:
            for prompt in left:
                worst = worst_case_usd(model.question(prompt), model.endpoint.prices, batch=True)
                model.failed(model.sha(prompt), prompt.purpose, _over_budget(model, worst), 0.0)
            return
        left = left[len(questions) :]
        returned, given_up = _send(model, questions)
        for sha256, error in returned.items():
            if sha256 in returned_before:
                given_up[sha256] = error
            else:
                left.append(questions[sha256].prompt)
        returned_before |= returned.keys()
        for sha256, error in given_up.items():
            model.failed(sha256, questions[sha256].prompt.purpose, error, 0.0)


def _affordable(model: PaidModel, prompts: Sequence[Prompt]) -> dict[str, Question]:
    """The first questions that fit into one batch and, at their worst-case cost, into the limits."""
    room, chosen = model.ledger.room(model.limits), {}
    for prompt in prompts[: model.settings.max_batch]:
        question = model.question(prompt)
        room -= worst_case_usd(question, model.endpoint.prices, batch=True)
        if room < 0:
            break
        chosen[model.sha(prompt)] = question
    return chosen


def _over_budget(model: PaidModel, usd: float) -> Unanswered:
    return Unanswered("budget", model.ledger.limit_reached(usd, model.limits) or "the budget is spent")


def collect_open_batches(model: PaidModel, prompts: Sequence[Prompt]) -> None:
    """Continue with batches that an earlier run sent, or was about to send."""
    questions = {model.sha(prompt): model.question(prompt) for prompt in prompts}
    for path, batch in list(model.answers.batches()):
        if batch.model not in (None, model.model):
            continue
        if batch.batch_id is None:
            found = _find(model, path, batch)
            if found is None:
                _forget(model, path, 0.0)  # it was never sent
                continue
            batch = _named(path, batch, found)
        asked = {sha256: questions[sha256] for sha256 in batch.sha256 if sha256 in questions}
        outcome = _collect(model, path, batch, asked)
        for sha256, error in outcome.given_up.items():
            model.failed(sha256, "", error, 0.0)


def _send(model: PaidModel, questions: dict[str, Question]) -> Outcome:
    """Send one batch and collect it."""
    worst = sum(worst_case_usd(question, model.endpoint.prices, batch=True) for question in questions.values())
    path = model.answers.batch_path(uuid.uuid4().hex)
    batch = OpenBatch(None, list(questions), datetime.now(UTC).isoformat(), model.model)
    write_json(path, batch._asdict())  # before it is sent, so that a kill loses nothing that was paid for
    if model.ledger.reserve(worst, model.limits, path.stem) is None:
        path.unlink()
        return Outcome({}, dict.fromkeys(questions, _over_budget(model, worst)))
    try:
        batch_id = _create(model, path, batch, questions)
    except Unanswered as error:
        if error.problem == "rejected":
            _forget(model, path, 0.0)
        return Outcome({}, dict.fromkeys(questions, error))
    return _collect(model, path, _named(path, batch, batch_id), questions)


def _create(model: PaidModel, path: Path, batch: OpenBatch, questions: dict[str, Question]) -> str:
    """The id of the batch on the server, which is created only once: if the answer was lost, the server is searched
    first.

    Raises:
        Unanswered: it was rejected, or it is not known whether it was created; the next run searches for it.
        ValueError: the key is not accepted.
    """
    problem = ""
    for attempt in range(model.settings.retries + 1):
        try:
            return _batches(model).create(path.stem, questions)
        except RejectedError as error:
            raise Unanswered("rejected", str(error)) from None
        except ValueError:
            _forget(model, path, 0.0)
            raise
        except (BusyError, NotSentError) as error:
            problem = str(error)
        except OutcomeUnknownError as error:
            problem = str(error)
            for _ in range(LOOKS):
                model.sleep(min(2.0**attempt, model.settings.max_wait_s))
                found = _find(model, path, batch)
                if found is not None:
                    return found
        if attempt < model.settings.retries:
            model.sleep(min(2.0**attempt, model.settings.max_wait_s))
    raise Unanswered("unreachable", problem)


def _find(model: PaidModel, path: Path, batch: OpenBatch) -> str | None:
    """The id of the batch that a recorded batch became, if it did: the one whose results have the ids of its
    questions."""
    batches, ours = _batches(model), set(batch.sha256)
    known = frozenset(other.batch_id for _, other in model.answers.batches() if other.batch_id is not None)
    since = datetime.fromisoformat(batch.sent_at)
    for candidate in model.with_retries(lambda: batches.candidates(path.stem, len(ours), since, known)):
        _wait_for_end(model, candidate)
        first = model.with_retries(lambda one=candidate: next(batches.results(one, {}), None))
        if first is not None and first.custom_id in ours:
            return candidate
    return None


def _named(path: Path, batch: OpenBatch, batch_id: str) -> OpenBatch:
    sent = batch._replace(batch_id=batch_id)
    write_json(path, sent._asdict())
    return sent


def _wait_for_end(model: PaidModel, batch_id: str) -> float:
    """Wait until a batch ends, which takes at most 24 hours. Returns the seconds that it took."""
    while (seconds := model.with_retries(lambda: _batches(model).seconds_taken(batch_id))) is None:
        model.sleep(model.settings.poll_s)
    return seconds


def _collect(model: PaidModel, path: Path, batch: OpenBatch, questions: dict[str, Question]) -> Outcome:
    """Store the answers of a batch, settle its cost, and remove its record."""
    assert batch.batch_id is not None
    try:
        latency = _wait_for_end(model, batch.batch_id)
        usd, lost = model.with_retries(lambda: _keep_results(model, path, batch, questions, latency))
    except Unanswered as error:
        without = {sha256: error for sha256 in batch.sha256 if model.answers.read(sha256) is None}
        if error.problem == "rejected":
            path.unlink()  # the server no longer knows it; the reserved amount may have been charged
        return Outcome({}, without)  # otherwise the next run asks for it again
    _forget(model, path, usd)
    return Outcome(lost, {})


def _keep_results(
    model: PaidModel, path: Path, batch: OpenBatch, questions: dict[str, Question], latency: float
) -> tuple[float, dict[str, Unanswered]]:
    """Store the answers in a batch's results; returns their cost and the questions without an answer."""
    assert batch.batch_id is not None
    usd, lost, ours = 0.0, {}, set(batch.sha256)
    share = model.ledger.set_aside(path.stem) / max(1, len(ours))
    for one in _batches(model).results(batch.batch_id, questions):
        if one.custom_id not in ours:
            continue  # the answer to a question that was not in the batch
        question = questions.get(one.custom_id)
        worst = share if question is None else worst_case_usd(question, model.endpoint.prices, batch=True)
        purpose, n_characters = ("", 0) if question is None else (question.prompt.purpose, question.prompt.n_characters)
        if one.reply is None:
            lost[one.custom_id] = Unanswered(one.problem or "unreachable", one.detail)
        else:
            usd += model.keep(
                one.custom_id, one.reply, Sent(purpose, path.stem, worst, n_characters, batch=True), latency
            )
            ours.discard(one.custom_id)
    for sha256 in ours - lost.keys():
        lost[sha256] = Unanswered("unreachable", "the batch's results do not have it")
    return usd, lost


def _forget(model: PaidModel, path: Path, usd: float) -> None:
    """Settle a batch and remove its record. In this order, since fetching a batch again costs nothing."""
    if model.ledger.is_open(path.stem):
        model.ledger.settle(path.stem, usd)
    path.unlink(missing_ok=True)


def _batches(model: PaidModel) -> Batches:
    batches = model.endpoint.batches
    assert batches is not None
    return batches
