"""Seconds and peak memory of many interventions in one call.

    python -m benchmarks.interventions STORE PROMPTS.txt [--each 50] [--keep FILE.jsonl]

On every prompt of the file, a line each, `--each` features that are active there (drawn at random) are switched off one
by one; the target is the likeliest next token. The rows go into the store's table `interventions`: take a copy.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from flows.intervene_batch import run_batch
from flows.one_prompt.activations import active_at
from flows.one_prompt.opened import Opened, open_named


def lines_of(opened: Opened, prompts: list[str], each: int) -> list[dict[str, object]]:
    """The interventions of every prompt."""
    chance = random.Random(0)
    lines: list[dict[str, object]] = []
    for prompt in prompts:
        places = sorted({(one.layer, one.feature) for one in active_at(opened, opened.read(prompt))})
        chosen = chance.sample(places, min(each, len(places)))
        lines += [{"prompt": prompt, "changes": [f"{layer}/{feature}=off"]} for layer, feature in chosen]
    return lines


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--keep", type=Path, help="where the file of interventions is left")
    arguments = parser.parse_args()
    opened = open_named(arguments.store, None)
    prompts = [line for line in arguments.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    lines = lines_of(opened, prompts, arguments.each)
    n_tokens = sum(len(opened.read(prompt).tokens) for prompt in prompts)
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.keep or Path(folder) / "interventions.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        started, cpu = time.monotonic(), time.process_time()
        run_batch(arguments.store, None, file)
    seconds, processors = time.monotonic() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(lines)} interventions on {len(prompts)} prompts ({n_tokens} tokens): {seconds:.1f} s, "
        f"{processors:.1f} s of processors, peak memory {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
