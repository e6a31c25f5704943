"""Ask a chat model from a local folder, on the CPU or a GPU, several questions at a time."""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.batches import in_batches
from interp.descriptions.llm_questions import Answer, Prompt, parsed
from storage.answers import MAX_ANSWERS, AnswerStore, Call, Kept
from tasks.device_memory import turn_on
from tasks.llm.ask_again import MEND, instructions_with_schema

OPTIONS: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Settings with which nothing is downloaded and no code of the folder is run."""


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
    """Refuse a folder without a chat model; its weights are not read.

    Raises:
        ValueError: none is set, it has no config.json or no safetensors weights, or its tokenizer has no chat template.
    """
    path = chat_folder(path)
    if not any(path.glob("*.safetensors")):
        raise ValueError(f"local_model.path: {path} holds no *.safetensors weights")
    _tokenizer(path)


def _tokenizer(path: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **OPTIONS)
    except Exception as error:  # transformers' parsers can raise almost any exception
        raise _unreadable(path, error) from None
    if not tokenizer.chat_template:
        raise ValueError(f"local_model.path: the tokenizer of {path} has no chat template; a chat model is needed")
    return tokenizer


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"local_model.path: {path} has no readable model ({' '.join(str(error).split())[:300]})")


@lru_cache(maxsize=1)
def _load(path: Path, device: str) -> tuple[Any, Any]:
    """The model on a device, and its tokenizer, which pads on the left.

    Raises:
        ValueError: the folder has no model with safetensors weights, or its tokenizer has no chat template.
    """
    tokenizer = _tokenizer(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, **OPTIONS)
    except Exception as error:
        raise _unreadable(path, error) from None
    tokenizer.padding_side = "left"  # generated text follows on the right
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    placed: Any = model.eval()
    return placed.to(device), tokenizer


class Turn(NamedTuple):
    """The model's output, and the numbers of tokens read and written."""

    text: str
    n_read: int
    n_written: int


Messages = list[dict[str, str]]


@dataclass
class LocalModel:
    """Asks a model on this machine; greedy, so the same question always gets the same answer."""

    path: Path
    fingerprint: str
    """Hash of the folder's files."""
    answers: AnswerStore
    run_id: str
    calls: list[Call] = field(default_factory=list)
    unanswered: dict[str, Answer] = field(default_factory=dict)
    spent_usd: float = 0.0
    device: str = "cpu"
    """PyTorch's name of the device."""
    at_once: int = 8
    """Questions in a batch."""

    @property
    def model(self) -> str:
        """The name under which its answers are kept: the folder's, and a hash of its files."""
        return f"local:{self.path.name}:{self.fingerprint}"

    def outstanding(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """The questions that have no answer yet, each once."""
        different = {prompt.sha256(self.model): prompt for prompt in prompts}
        return [prompt for sha256, prompt in different.items() if self.answers.read(sha256) is None]

    def ask(self, prompts: Sequence[Prompt]) -> None:
        """Answer every question, in batches of similar length.

        Memory: the model, and keys and values of `at_once` conversations; fewer on a GPU without room for them.

        Raises:
            ValueError: the folder has no chat model.
        """
        left = sorted(self.outstanding(prompts), key=lambda prompt: prompt.n_characters)
        for start in range(0, len(left), self.at_once):
            self._ask_together(left[start : start + self.at_once])

    def _ask_together(self, prompts: Sequence[Prompt]) -> None:
        """Answer a batch. An answer that does not fit is shown to the model once for correction."""
        conversations = {at: _messages(prompt) for at, prompt in enumerate(prompts)}
        calls: dict[int, list[Call]] = {at: [] for at in conversations}
        for attempt in range(1, MAX_ANSWERS + 1):
            began, asked = time.monotonic(), list(conversations)
            turns = _generate(self, [conversations[at] for at in asked], [prompts[at].max_tokens for at in asked])
            latency = (time.monotonic() - began) / len(asked)
            for at, turn in zip(asked, turns, strict=True):
                prompt, messages = prompts[at], conversations[at]
                fits = parsed(turn.text, prompt.schema) is not None
                calls[at].append(self._call(prompt, turn, latency, fits=fits))
                if fits or attempt == MAX_ANSWERS:
                    problem, detail = (None, "") if fits else ("malformed", turn.text[:500])
                    kept = Kept(turn.text, problem, detail, attempt, calls[at])
                    self.answers.write(prompt.sha256(self.model), kept)
                    self.calls += kept.calls
                    del conversations[at]
                else:
                    again = {"role": "user", "content": MEND}
                    conversations[at] = [*messages, {"role": "assistant", "content": turn.text}, again]
            if not conversations:
                return

    def _call(self, prompt: Prompt, turn: Turn, latency: float, *, fits: bool) -> Call:
        return Call(
            call_id=uuid.uuid4().hex,
            run_id=self.run_id,
            purpose=prompt.purpose,
            model=self.model,
            prompt_sha256=prompt.sha256(self.model),
            latency_s=latency,
            status="ok" if fits else "malformed",
            characters=prompt.n_characters,
            input_tokens=turn.n_read,
            output_tokens=turn.n_written,
        )


def _messages(prompt: Prompt) -> Messages:
    system = instructions_with_schema(prompt)
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt.user}]


def _generate(of: LocalModel, conversations: Sequence[Messages], max_tokens: Sequence[int]) -> list[Turn]:
    """The model's next turn of each conversation; in halves where a GPU has no room for all of them."""
    found: list[Turn] = []

    def some(part: slice) -> None:
        found.extend(_turns(of, conversations[part], max_tokens[part]))

    with turn_on(of.device):
        in_batches(f"questions to {of.path}", of.device, len(conversations), of.at_once, some)
    return found


@torch.no_grad()
def _turns(of: LocalModel, conversations: Sequence[Messages], max_tokens: Sequence[int]) -> list[Turn]:
    model, tokenizer = _load(of.path, of.device)
    texts = [
        tokenizer.apply_chat_template(_for_template(tokenizer, messages), add_generation_prompt=True, tokenize=False)
        for messages in conversations
    ]
    read = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").to(of.device)
    written = model.generate(
        input_ids=read["input_ids"],
        attention_mask=read["attention_mask"],
        max_new_tokens=max(max_tokens),
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    ends = _ends(model, tokenizer)
    turns = []
    for row, mask, most in zip(written, read["attention_mask"], max_tokens, strict=True):
        answer = row[read["input_ids"].shape[1] :][:most].tolist()
        stop = next((at + 1 for at, token in enumerate(answer) if token in ends), len(answer))
        text = tokenizer.decode(answer[:stop], skip_special_tokens=True)
        turns.append(Turn(text, int(mask.sum()), stop))
    return turns


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer."""
    known = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}


def _for_template(tokenizer: Any, messages: Messages) -> Messages:
    """A conversation with the system's turn merged into the first, if the template does not support it."""
    if "system" in tokenizer.chat_template:
        return messages
    (system, first), later = messages[:2], messages[2:]
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *later]
