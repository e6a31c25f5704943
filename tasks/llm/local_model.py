"""Ask a chat model from a local folder, on this machine and for nothing."""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.descriptions.llm_questions import Answer, Prompt, parsed
from storage.answers import MAX_ANSWERS, AnswerStore, Kept
from tasks.llm.repair import MEND, instructions_with_schema

OPTIONS: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Nothing is downloaded, and no code of the folder is run."""


def chat_folder(path: Path | None) -> Path:
    """The folder of a chat model.

    Raises:
        ValueError: none is set, or it holds no config.json.
    """
    if path is None:
        raise ValueError("local_model.path is not set: name the folder of a chat model")
    if not (path / "config.json").is_file():
        raise ValueError(f"local_model.path: {path} holds no config.json; name the folder of a chat model")
    return path


def check_chat_model(path: Path | None) -> None:
    """Refuse a folder that is no chat model, without reading its weights.

    Raises:
        ValueError: none is set, it holds no config.json or no safetensors weights, or its tokenizer no chat template.
    """
    path = chat_folder(path)
    if not any(path.glob("*.safetensors")):
        raise ValueError(f"local_model.path: {path} holds no *.safetensors weights")
    _tokenizer(path)


def _tokenizer(path: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **OPTIONS)
    except Exception as error:  # transformers raises whatever its parsers do
        raise _unreadable(path, error) from None
    if not tokenizer.chat_template:
        raise ValueError(f"local_model.path: the tokenizer of {path} has no chat template; a chat model is needed")
    return tokenizer


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"local_model.path: {path} holds no readable model ({' '.join(str(error).split())[:300]})")


@lru_cache(maxsize=1)
def _load(path: Path) -> tuple[Any, Any]:
    """The model, whose weights are safetensors, and its tokenizer.

    Raises:
        ValueError: the folder holds no such model, or its tokenizer has no chat template.
    """
    tokenizer = _tokenizer(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, **OPTIONS)
    except Exception as error:
        raise _unreadable(path, error) from None
    return model.eval(), tokenizer


@dataclass
class LocalModel:
    """Asks a model of this machine; greedy, so the same question has the same answer."""

    path: Path
    fingerprint: str
    """Of the folder's files."""
    answers: AnswerStore
    run_id: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    unanswered: dict[str, Answer] = field(default_factory=dict)
    spent_usd: float = 0.0

    @property
    def model(self) -> str:
        return f"local:{self.path.name}:{self.fingerprint}"

    def outstanding(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Of some questions, each once, those that have to be asked."""
        different = {prompt.sha256(self.model): prompt for prompt in prompts}
        return [prompt for sha256, prompt in different.items() if self.answers.read(sha256) is None]

    def ask(self, prompts: Sequence[Prompt]) -> None:
        """Have every question answered, one after the other.

        Raises:
            ValueError: the folder holds no chat model.
        """
        for prompt in self.outstanding(prompts):
            kept = self._asked(prompt)
            self.answers.write(prompt.sha256(self.model), kept)
            self.calls += kept.calls

    def _asked(self, prompt: Prompt) -> Kept:
        """What a model says to a question; an answer that does not fit is shown to it and asked for again, once."""
        messages, calls, text = _messages(prompt), [], ""
        for attempt in range(1, MAX_ANSWERS + 1):
            began = time.monotonic()
            text, n_read, n_written = _generate(self.path, messages, prompt.max_tokens)
            fits = parsed(text, prompt.schema) is not None
            calls.append({
                "call_id": uuid.uuid4().hex, "run_id": self.run_id, "purpose": prompt.purpose, "model": self.model,
                "prompt_sha256": prompt.sha256(self.model), "latency_s": time.monotonic() - began, "cached": False,
                "status": "ok" if fits else "malformed", "error": None, "input_tokens": n_read,
                "output_tokens": n_written, "cost_usd": 0.0,
            })  # fmt: skip
            if fits:
                return Kept(text, None, "", attempt, calls)
            messages = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": MEND}]
        return Kept(text, "malformed", text[:500], MAX_ANSWERS, calls)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    system = instructions_with_schema(prompt)
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt.user}]


@torch.no_grad()
def _generate(path: Path, messages: list[dict[str, str]], max_tokens: int) -> tuple[str, int, int]:
    """The model's next turn of a conversation, and tokens read and written."""
    model, tokenizer = _load(path)
    if "system" not in tokenizer.chat_template:
        (system, first), later = messages[:2], messages[2:]
        messages = [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *later]
    read = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    n_read = read["input_ids"].shape[1]
    written = model.generate(**read, max_new_tokens=max_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    answer = written[0, n_read:]
    return tokenizer.decode(answer, skip_special_tokens=True), n_read, len(answer)
