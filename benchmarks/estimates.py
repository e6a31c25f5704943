"""What describing and judging with a language model was estimated at, beside what it cost: a sample first, then more.

    python -m benchmarks.estimates CONFIG --store STORE --tokenizer FOLDER

The store is finished and described by rule; a copy of it is used. The model is a local server that speaks OpenAI's API,
counts what it reads and writes with the tokenizer of a model folder, and answers in the form that is asked for, with
descriptions of five to forty words drawn by the question. It costs $3 and $15 a million tokens.
"""

import argparse
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_httpserver import HTTPServer
from transformers import AutoTokenizer

from tests.tasks.openai_server import OpenAIServer, completion

SPENT = re.compile(r"\$([\d.]+) spent; \$([\d.]+) were estimated")

WORDS = ("the", "token", "number", "word", "code", "line", "before", "after", "where", "it", "fires", "mostly", "often")

STEPS = {
    "describe, sample of 20": ["describe", "--sample", "20"],
    "describe, 25 a layer": ["describe", "describe.features_per_layer=25"],
    "judge, sample of 12": ["evaluate", "--sample", "12"],
    "judge, 10 a layer": ["evaluate"],
}


def answered(body: dict[str, Any]) -> str:
    """What the server says: the form asked for, filled by chance that the question fixes."""
    asked = body["messages"][-1]["content"]
    material = json.loads(asked[asked.index("<data>") + 6 : asked.rindex("</data>")])
    wanted = body["response_format"]["json_schema"]["schema"]["properties"]
    chance = random.Random(zlib.crc32(asked.encode()))
    words = lambda: " ".join(chance.choices(WORDS, k=chance.randint(5, 40)))  # noqa: E731
    numbers = [text["id"] for text in material.get("texts", material.get("groups", []))]
    if "description" in wanted:
        return json.dumps({"description": words()})
    if "ratings" in wanted:
        return json.dumps({"ratings": [{"id": at, "rating": chance.randint(0, 2)} for at in numbers]})
    if "intruders" in wanted:
        return json.dumps({"intruders": [{"id": at, "text": chance.randint(0, 4)} for at in numbers]})
    if "firing" in wanted:
        return json.dumps({"firing": [{"id": at, "tokens": [0]} for at in numbers if chance.random() < 0.5]})
    return json.dumps({"texts": [words() for _ in range(10)]})


def main() -> None:
    """Print a line for every step that asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    arguments = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer, local_files_only=True)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        text = answered(body)
        read = sum(len(tokenizer(message["content"])["input_ids"]) for message in body["messages"])
        return completion(text, prompt_tokens=read, completion_tokens=len(tokenizer(text)["input_ids"]))

    with tempfile.TemporaryDirectory() as folder, HTTPServer() as server:
        api = OpenAIServer(server, answer, models=["some-model"])
        store = shutil.copytree(arguments.store, Path(folder) / "store")
        settings = [
            "describe.explainer=openai", "evaluate.judge=openai", f"openai.base_url={api.url}",
            "openai.model=some-model", "openai.prices={input: 3, output: 15}", "llm.budget_usd=1000",
            "describe.methods=[maxact, wl+cl]", "evaluate.methods=[maxact, wl+cl]",
            "evaluate.how.features_per_layer=10", "evaluate.how.faithfulness={features_per_layer: 0}",
        ]  # fmt: skip
        print("| step | estimated, $ | spent, $ | ratio |\n|---|---|---|---|")
        for name, (command, *more) in STEPS.items():
            said = _said([command, str(arguments.config), *settings, *more, "--store", str(store)])
            for spent, estimated in SPENT.findall(said):
                print(f"| {name} | {estimated} | {spent} | {float(estimated) / float(spent):.2f} |", flush=True)


def _said(arguments: Sequence[str]) -> str:
    """What a command says on its way."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    ran = subprocess.run(
        command, env={**os.environ, "OPENAI_API_KEY": "none"}, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        sys.exit(ran.stderr)
    return ran.stderr


if __name__ == "__main__":
    main()
