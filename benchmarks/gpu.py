"""What each stage reaches on a device, beside what the device can do: the GPU kit, made for minutes on a borrowed one.

    python -m benchmarks.gpu [--device cuda] [--shapes gpt2,smollm2,gemma2-2b] [--out gpu.jsonl] [--seconds 420]

Weights are random, in the shapes of the models named; transcoders are TopK ones. Every part runs in a process of its
own with a limit of its own, and its line of JSON is in `--out` as soon as it is there: what a machine that is taken
away has measured by then is not lost. `share_of_float32` compares with the rate of the device's own large products,
and `…_share_of_peak` that rate with its maker's figure, where `flows/costs/machines.py` has the device. The part
`circuit-tracer` is what circuit-tracer takes for what `attribution` measures, where `make oracles` has installed it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_parts import PARTS, SHAPES, measure, shape_for_peers

PEER = "circuit-tracer"
LIMITS_S = {
    "device": 40, "projections": 60, "corpus": 60, "training": 60, "attribution": 90, PEER: 60, "steering": 60
}  # fmt: skip
"""Seconds that each part has, start-up included, in the order in which they are measured; a part that is slower is
ended, and its line says so."""

PEERS = Path(__file__).parents[1] / ".venv-oracles" / "bin" / "python"
"""The Python that has circuit-tracer."""


def lines(device: str, shapes: list[str], seconds: float) -> Iterator[dict[str, object]]:
    """A result a part and shape, each measured by a process of its own, until the time is up."""
    began = time.monotonic()
    for part in LIMITS_S:
        for shape in shapes if part != "device" else shapes[:1]:
            left = seconds - (time.monotonic() - began)
            about: dict[str, object] = {"benchmark": "gpu", "part": part, "shape": shape, "device": device}
            if left <= 0:
                yield {**about, "not_measured": "the time was up"}
                continue
            limit = min(left, LIMITS_S[part])
            command = [sys.executable, "-m", "benchmarks.gpu", "--device", device, "--part", part, "--shapes", shape]
            if part == PEER:
                if not PEERS.is_file():
                    yield {**about, "not_measured": f"{PEER} is not installed (make oracles)"}
                    continue
                script, known = (
                    Path(__file__).with_name("circuitlens_peers_gpu.py"),
                    json.dumps(shape_for_peers(SHAPES[shape])),
                )
                command = [str(PEERS), str(script), device, known]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            except subprocess.TimeoutExpired:
                yield {**about, "not_measured": f"longer than {limit:.0f} s"}
                continue
            if done.returncode:
                yield {**about, "not_measured": done.stderr.strip().splitlines()[-1][:300] if done.stderr else "ended"}
            else:
                yield {**about, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Measure, and write each line as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default="gpt2,smollm2,gemma2-2b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--seconds", type=float, default=420.0, help="for all of it")
    parser.add_argument("--part", choices=list(PARTS), help="measure one part in this process and print its line")
    arguments = parser.parse_args()
    shapes = arguments.shapes.split(",")
    if arguments.part is not None:
        print(json.dumps(measure(arguments.part, shapes[0], arguments.device)))
        return
    with arguments.out.open("a", encoding="utf-8") as file:
        for line in lines(arguments.device, shapes, arguments.seconds):
            print(json.dumps(line), flush=True)
            print(json.dumps(line), file=file, flush=True)


if __name__ == "__main__":
    main()
