"""Breaks files of every format and reads each in a process of its own: `python -m tests.fuzz --mutations 500`.

Prints one JSON object a format; exit code 1 if any reading hung, ended in another error than a refusal, did not name
the file, filled more than a screen, or took more memory than it may. `--only "FORMAT:NUMBER"` shows one again.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.fuzz.formats import FORMATS
from tests.fuzz.watch import Outcome, fuzz, imported


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--only", help='FORMAT:NUMBER of a mutation, whose answer is printed: "npz:17".')
    chosen = parser.parse_args()
    imported()
    name, _, number = (chosen.only or "").rpartition(":")
    bad = 0
    for kind in [name] if name else chosen.formats:
        numbers = [int(number)] if name else range(chosen.mutations)
        with tempfile.TemporaryDirectory() as folder:
            outcomes = fuzz(kind, Path(folder), chosen.seed, numbers)
        bad += sum(outcome.is_bad for outcome in outcomes)
        print(json.dumps(summary(kind, outcomes)), flush=True)
        for outcome in outcomes:
            if outcome.is_bad or name:
                print(f"  {kind}:{outcome.number} {outcome.kind} {outcome.message[:3000]}", file=sys.stderr, flush=True)
    sys.exit(bad > 0)


def summary(kind: str, outcomes: list[Outcome]) -> dict[str, object]:
    counts = {what: sum(outcome.kind == what for outcome in outcomes) for what in sorted({o.kind for o in outcomes})}
    return {
        "format": kind,
        "mutations": len(outcomes),
        **counts,
        "cpu_s_max": round(max(outcome.cpu_s for outcome in outcomes), 2),
        "memory_mb_beyond_file_max": round(max(outcome.beyond_file for outcome in outcomes) / 1e6),
    }


if __name__ == "__main__":
    main()
