"""A language model as judge: the questions it is asked, and how its answers are read."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int8

from interp.descriptions.llm_questions import (
    Answers,
    AnswerValue,
    Instructions,
    Prompt,
    Purpose,
    Schema,
    fenced,
    numbered,
    record,
)
from interp.fade.judge import LACKING, Marked, Text

TEXTS_PER_WRITING = 10
"""Texts asked for in one question."""

TOKENS_PER_TEXT = 60
"""Limit for the text of an answer, in tokens."""

TEXTS = record(texts={"type": "array", "items": {"type": "string"}})
RATINGS = record(
    ratings={"type": "array", "items": record(id={"type": "integer"}, rating={"type": "integer", "enum": [0, 1, 2]})}
)
INTRUDERS = record(intruders={"type": "array", "items": record(id={"type": "integer"}, text={"type": "integer"})})
FIRING = record(
    firing={
        "type": "array",
        "items": record(id={"type": "integer"}, tokens={"type": "array", "items": {"type": "integer"}}),
    }
)


class ModelJudge:
    """Implements `Judge` by asking a language model. Questions without an answer so far are collected in
    `answers.missing`."""

    def __init__(self, answers: Answers, instructions: Instructions, texts_per_question: int) -> None:
        self._answers = answers
        self._instructions = instructions
        self._step = texts_per_question

    def _said(self, purpose: Purpose, about: str, schema: Schema, max_tokens: int) -> AnswerValue | None:
        return self._answers.value(Prompt(purpose, self._instructions[purpose], about, schema, max_tokens))

    def synthesise(self, description: str, n: int) -> list[str]:
        texts: list[str] = []
        for variant in range(-(-n // TEXTS_PER_WRITING)):
            about = fenced({"concept": description, "variant": variant})
            prompt = Prompt(
                "synthesise", self._instructions["synthesise"], about, TEXTS, TEXTS_PER_WRITING * TOKENS_PER_TEXT
            )
            value = self._answers.value(prompt)
            texts += [] if value is None else [text for text in value["texts"] if text.strip()][:TEXTS_PER_WRITING]
        return list(dict.fromkeys(texts))[:n]

    def rate(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        return self._rated("rate", description, [text.whole for text in texts], 2)

    def rate_continuations(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        return self.rate(description, texts)

    def marks_right(self, description: str, texts: Sequence[Marked]) -> Int8[np.ndarray, " n"]:
        return self._rated("mark", description, [_with_marks(marked) for marked in texts], 1)

    def find_odd(self, description: str, groups: Sequence[Sequence[Marked]]) -> Int8[np.ndarray, " n"]:
        found = np.full(len(groups), LACKING, np.int8)
        step = max(1, self._step // max((len(group) for group in groups), default=1))
        for start in range(0, len(groups), step):
            block = groups[start : start + step]
            shown = [{"id": at, "texts": [_with_marks(marked) for marked in group]} for at, group in enumerate(block)]
            about = fenced({"concept": description, "groups": shown})
            value = self._answers.value(
                Prompt("intruder", self._instructions["intruder"], about, INTRUDERS, 40 + 20 * len(block))
            )
            for one in [] if value is None else value["intruders"]:
                if 0 <= one["id"] < len(block) and 0 <= one["text"] < len(block[one["id"]]):
                    found[start + one["id"]] = one["text"]
        return found

    def _rated(self, purpose: Purpose, description: str, texts: Sequence[str], top: int) -> np.ndarray:
        """Ratings of texts; equal texts are asked about once."""
        different = list(dict.fromkeys(texts))
        found = dict.fromkeys(different, LACKING)
        for start in range(0, len(different), self._step):
            block = different[start : start + self._step]
            about = fenced({"concept": description, "texts": numbered(block)})
            value = self._answers.value(
                Prompt(purpose, self._instructions[purpose], about, RATINGS, 40 + 20 * len(block))
            )
            for one in [] if value is None else value["ratings"]:
                if 0 <= one["id"] < len(block) and one["rating"] <= top:
                    found[block[one["id"]]] = one["rating"]
        return np.array([found[text] for text in texts], np.int8)

    def simulate(self, description: str, texts: Sequence[Text]) -> list[Float[np.ndarray, " _"] | None]:
        expected: list[np.ndarray | None] = []
        for start in range(0, len(texts), self._step):
            block = [
                {"id": at, "tokens": list(text.tokens)} for at, text in enumerate(texts[start : start + self._step])
            ]
            about = fenced({"concept": description, "texts": block})
            value = self._answers.value(
                Prompt("simulate", self._instructions["simulate"], about, FIRING, 40 + 60 * len(block))
            )
            if value is None:
                expected += [None] * len(block)
                continue
            told = [np.zeros(len(text["tokens"]), np.float32) for text in block]
            for one in value["firing"]:
                if 0 <= one["id"] < len(block):
                    activity = told[one["id"]]
                    activity[[at for at in one["tokens"] if 0 <= at < len(activity)]] = 1
            expected += told
        return expected


def _with_marks(marked: Marked) -> str:
    return "".join(f"«{token}»" if at in marked.places else token for at, token in enumerate(marked.text.tokens))
