"""How the graph of a prompt grows with its length: seconds, memory, and what had to be cut.

    python -m benchmarks.prompts STORE TEXT [--tokens 16 64 256 1024] [--max-features 7500] [--max-memory 8] [--json]

STORE has an ingested checkpoint with its model; TEXT is a file of text, of whose beginning so many tokens are the
prompt. Each length is a process of its own: `seconds` from the opened model to the finished graph, `processor` those
that processors worked on it, `memory` the most that the process held, in GB, model and transcoders included
(`memory_opened` before the prompt); `cut` what was left out to stay within `--max-memory`.
"""

import argparse
import json
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path

from flows.one_prompt.graphs import Asked, Wanted, attribution
from flows.one_prompt.opened import open_named
from interp.circuitlens.graph import GraphSettings
from storage.tokenising import token_ids


def measure(store: Path, text: str, n_tokens: int, settings: GraphSettings, answer: Connection) -> None:
    """Attribute the beginning of a text; the figures go to `answer`."""
    opened = open_named(store, None)
    (ids,) = token_ids(opened.folder.tokenizer, [text[: 12 * n_tokens]])
    prompt = "".join(opened.texts[token] for token in ids[:n_tokens])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, worked = time.perf_counter(), time.process_time()
    found = attribution(opened, Asked(prompt), Wanted(settings)).file
    answer.send(
        {
            "benchmark": "prompts",
            "tokens": n_tokens,
            "seconds": round(time.perf_counter() - began, 1),
            "processor": round(time.process_time() - worked, 1),
            "memory": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            "memory_opened": round(before / 1e6, 2),
            "nodes": len(found["nodes"]),
            "links": len(found["links"]),
            "scores": found["metadata"]["scores"],
            "cut": found["metadata"].get("cut"),
        }
    )


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--max-features", type=int, default=7500)
    parser.add_argument("--max-memory", type=float, default=8.0)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    settings = GraphSettings(max_features=arguments.max_features, max_memory_gb=arguments.max_memory)
    text, processes = arguments.text.read_text(encoding="utf-8"), multiprocessing.get_context("spawn")
    for n_tokens in arguments.tokens:
        here, there = processes.Pipe()
        child = processes.Process(target=measure, args=(arguments.store, text, n_tokens, settings, there))
        child.start()
        there.close()
        figures = here.recv()
        child.join()
        print(json.dumps(figures) if arguments.json else figures, flush=True)


if __name__ == "__main__":
    main()
