"""The text that a benchmark reads."""

import json
from pathlib import Path

from storage.models import ModelFolder
from storage.tokenising import token_ids


def first_tokens(folder: ModelFolder, text: Path, n: int) -> list[int]:
    """The first tokens of the texts of a .jsonl file, one after the other.

    Raises:
        ValueError: there are fewer.
    """
    ids: list[int] = []
    with text.open(encoding="utf-8") as lines:
        for line in lines:
            ids += token_ids(folder.tokenizer, [json.loads(line)["text"]])[0]
            if len(ids) >= n:
                return ids[:n]
    raise ValueError(f"{text}: {len(ids):,} tokens; expected at least {n:,}")
