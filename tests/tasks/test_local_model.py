"""Asking a chat model of this machine: real transformers folders, offline."""

import json
from pathlib import Path

import pytest
import torch

from interp.batches import forget_sizes
from interp.descriptions.explainer_prompts import DESCRIPTION
from interp.descriptions.llm_questions import Prompt
from storage.answers import AnswerStore, look_up
from storage.store import Store
from tasks.llm import local_model
from tasks.llm.local_model import LocalModel
from tests.tasks.chat_model import write_chat_model

GOOD = json.dumps({"description": "the token ‘x’"})
PROMPT = Prompt("explain", "You describe.", "<data>\n{}\n</data>", DESCRIPTION, 20)


def asked(path: Path, folder: Path) -> LocalModel:
    model = LocalModel(path, "print", AnswerStore(Store(folder)), "run")
    model.ask([PROMPT, PROMPT])
    return model


def said(model: LocalModel) -> tuple[str | None, str | None]:
    answer = look_up(model.answers, model.model, PROMPT, {})
    assert answer is not None
    return (answer.value["description"] if answer.value else None), answer.problem


@pytest.mark.parametrize("takes_system", [True, False])
def test_an_answer_that_fits_is_asked_for_once(tmp_path: Path, takes_system: bool) -> None:
    path = write_chat_model(tmp_path / "chat", first=GOOD, second="no", takes_system=takes_system)
    model = asked(path, tmp_path)
    assert said(model) == ("the token ‘x’", None)
    (call,) = model.calls
    assert (call.status, call.cost_usd) == ("ok", 0.0)
    assert call.input_tokens > 5
    assert call.output_tokens == 2
    assert asked(path, tmp_path).calls == []


@pytest.mark.parametrize("takes_system", [True, False])
def test_an_answer_that_does_not_fit_is_asked_for_again_in_the_same_conversation(
    tmp_path: Path, takes_system: bool
) -> None:
    path = write_chat_model(tmp_path / "chat", first="sure:", second=GOOD, takes_system=takes_system)
    model = asked(path, tmp_path)
    assert said(model) == ("the token ‘x’", None)
    assert [call.status for call in model.calls] == ["malformed", "ok"]
    assert model.calls[1].input_tokens > model.calls[0].input_tokens


def test_what_stays_malformed_is_kept_as_such_and_not_asked_for_again(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "chat", first="x", second="y", random=True)
    model = asked(path, tmp_path)
    assert said(model) == (None, "malformed")
    assert [call.status for call in model.calls] == ["malformed", "malformed"]
    assert asked(path, tmp_path).calls == []


def test_a_folder_without_a_chat_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no readable model"):
        asked(tmp_path / "empty", tmp_path)
    path = write_chat_model(tmp_path / "plain", first="x", second="y")
    template = path / "chat_template.jinja"
    template.unlink()
    with pytest.raises(ValueError, match="no chat template"):
        asked(path, tmp_path)


def several(n: int) -> list[Prompt]:
    """Questions of different lengths, with room for answers of different lengths."""
    return [PROMPT._replace(user="x " * (1 + 3 * at), max_tokens=4 + at % 3) for at in range(n)]


@pytest.mark.parametrize("random", [True, False])
def test_questions_that_are_answered_together_have_the_answers_that_they_have_alone(
    tmp_path: Path, random: bool
) -> None:
    path, prompts = write_chat_model(tmp_path / "chat", first="sure:", second=GOOD, random=random), several(7)
    kept = []
    for at_once in (1, 3):
        answers = AnswerStore(Store(tmp_path / str(at_once)))
        model = LocalModel(path, "print", answers, "run", at_once=at_once)
        model.ask(prompts)
        kept.append([answers.read(prompt.sha256(model.model)) for prompt in prompts])
        told = [(call.prompt_sha256, call.input_tokens, call.output_tokens) for call in model.calls]
        assert len(told) == 14
    alone, together = ([(one.text, one.problem, one.attempts) for one in many if one] for many in kept)
    assert alone == together
    assert len(alone) == 7


def test_a_gpu_without_room_answers_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes, turns = write_chat_model(tmp_path / "chat", first=GOOD, second="no"), [], local_model._turns

    def crowded(of: LocalModel, conversations: list, max_tokens: list) -> list:
        sizes.append(len(conversations))
        if len(conversations) > 2:
            raise torch.cuda.OutOfMemoryError
        return turns(of, conversations, max_tokens)

    monkeypatch.setattr(local_model, "_turns", crowded)
    model = LocalModel(path, "print", AnswerStore(Store(tmp_path)), "run")
    model.ask(several(5))
    forget_sizes()
    assert sizes == [5, 3, 2, 2, 1]
    assert [call.status for call in model.calls] == ["ok"] * 5
