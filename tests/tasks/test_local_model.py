"""Asking a chat model of this machine: real transformers folders, offline."""

import json
from pathlib import Path

import pytest

from interp.descriptions.llm_questions import Prompt
from interp.descriptions.prompts import DESCRIPTION
from storage.answers import AnswerStore, look_up
from storage.store import Store
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
    assert (call["status"], call["cost_usd"]) == ("ok", 0.0)
    assert call["input_tokens"] > 5
    assert call["output_tokens"] == 2
    assert asked(path, tmp_path).calls == []


@pytest.mark.parametrize("takes_system", [True, False])
def test_an_answer_that_does_not_fit_is_asked_for_again_in_the_same_conversation(
    tmp_path: Path, takes_system: bool
) -> None:
    path = write_chat_model(tmp_path / "chat", first="sure:", second=GOOD, takes_system=takes_system)
    model = asked(path, tmp_path)
    assert said(model) == ("the token ‘x’", None)
    assert [call["status"] for call in model.calls] == ["malformed", "ok"]
    assert model.calls[1]["input_tokens"] > model.calls[0]["input_tokens"]


def test_what_stays_malformed_is_kept_as_such_and_not_asked_for_again(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "chat", first="x", second="y", random=True)
    model = asked(path, tmp_path)
    assert said(model) == (None, "malformed")
    assert [call["status"] for call in model.calls] == ["malformed", "malformed"]
    assert asked(path, tmp_path).calls == []


def test_a_folder_without_a_chat_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no readable model"):
        asked(tmp_path / "empty", tmp_path)
    path = write_chat_model(tmp_path / "plain", first="x", second="y")
    template = path / "chat_template.jinja"
    template.unlink()
    with pytest.raises(ValueError, match="no chat template"):
        asked(path, tmp_path)
