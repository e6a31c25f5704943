"""What scaling is worth: transcoders of all layers trained with and without it, from one pass of the model.

    python -m benchmarks.training_scaling MODEL TEXT.jsonl [--steps 100] [--layers 0,1,…]
        [--arms scaled:0.004,unscaled:0.004,unscaled:0.002] [--threads 2]

Every arm has the same tokens in the same order (2,048 positions a step, each text once), the same 2,048 TopK features
(k = 32) with the same seed, and the same schedule of the learning rate. `scaled` is the product's trainer; `unscaled`
is the same on inputs and outputs as the model has them: not centred, not divided by their size, and without the first
gain. Prints a line of JSON a layer: of each arm, explained variance and the share of features that are never active on
the last 64 rows, which were not trained on; and a last line with the processor seconds.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.texts import first_tokens
from interp.activations.settings import ActivationSettings
from interp.capture import Hooks
from interp.products import fast_products
from interp.training.settings import TrainingSettings
from interp.training.streams import captured
from interp.training.together import Streams
from interp.training.trainer import Scaling, Trainer, first_parameters
from interp.transcoder import Transcoder
from tasks.loaded_models import loaded_model, threads

HOOKS = Hooks("mlp_in", "mlp_out")
N_POS, ROWS, HELD_OUT_ROWS = 128, 16, 64


class Arm(NamedTuple):
    """A way to train."""

    is_scaled: bool
    learning_rate: float

    @classmethod
    def named(cls, name: str) -> "Arm":
        """From `scaled:0.004`."""
        kind, _, rate = name.partition(":")
        if kind not in ("scaled", "unscaled"):
            raise ValueError(f"arm {name!r}; expected scaled:RATE or unscaled:RATE")
        return cls(kind == "scaled", float(rate))

    def started(self, streams: Streams, n_steps: int) -> Trainer:
        """A trainer, started from the first batch."""
        settings = TrainingSettings(
            d_transcoder=2048, k=32, n_steps=n_steps, batch_tokens=ROWS * N_POS, learning_rate=self.learning_rate,
            dead_after_tokens=100_000, dtype="bfloat16",
        )  # fmt: skip
        if self.is_scaled:
            return Trainer.started(*streams, settings)
        x, y = streams
        nothing = x.new_zeros(x.shape[1])
        return Trainer(first_parameters(x, y, settings), Scaling(nothing, 1.0, nothing, 1.0), settings)


def figures(coder: Transcoder, streams: Streams) -> tuple[float, float]:
    """Explained variance, and the share of features that are never active."""
    x, y = streams
    a = coder.encode(x)
    left, whole = (y - coder.decode(a, x)).double().square().sum(), (y - y.mean(0)).double().square().sum()
    return 1 - float(left / whole), 1 - float((a > 0).any(0).float().mean())


def measured(
    model_path: Path, text: Path, arms: dict[str, Arm], n_steps: int, asked: list[int] | None, pool: Executor
) -> Iterator[dict[str, object]]:
    """A line a layer."""
    folder, model = loaded_model(model_path, dtype=torch.bfloat16)
    layers = asked or list(range(folder.n_layers))
    n_rows = n_steps * ROWS + HELD_OUT_ROWS
    tokens = torch.tensor(first_tokens(folder, text, n_rows * N_POS)).view(n_rows, N_POS)
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, : ActivationSettings().skip_row_start] = False

    def read(rows: slice) -> dict[int, Streams]:
        return captured(model, folder.family, HOOKS, layers, (tokens[rows], counted[rows]), pool)

    trainers: dict[int, dict[str, Trainer]] = {}
    with fast_products(folder.d_model):
        for step in range(n_steps):
            streams = read(slice(step * ROWS, (step + 1) * ROWS))
            if not trainers:
                trainers = {
                    at: {name: arm.started(streams[at], n_steps) for name, arm in arms.items()} for at in layers
                }

            of_layers = [(list(trainers[layer].values()), streams[layer]) for layer in layers]
            list(pool.map(_train, of_layers))
        held_out = read(slice(n_steps * ROWS, None))
        for layer in layers:
            line: dict[str, object] = {"benchmark": "training scaling", "layer": layer}
            for name, trainer in trainers[layer].items():
                variance, dead = figures(trainer.transcoder(), held_out[layer])
                line |= {f"{name}, explained variance": round(variance, 4), f"{name}, dead": round(dead, 4)}
            yield line


def _train(of_layer: tuple[list[Trainer], Streams]) -> None:
    trainers, streams = of_layer
    for trainer in trainers:
        trainer.step(*streams)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--layers", help="all if left out")
    parser.add_argument("--arms", default="scaled:0.004,unscaled:0.004,unscaled:0.002")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    arms = {name: Arm.named(name) for name in asked.arms.split(",")}
    layers = [int(layer) for layer in asked.layers.split(",")] if asked.layers else None
    began = time.process_time()
    with threads(asked.threads) as pool:
        for line in measured(asked.model, asked.text, arms, asked.steps, layers, pool):
            print(json.dumps(line), flush=True)
    print(json.dumps({"benchmark": "training scaling", "processor_s": round(time.process_time() - began, 1)}))


if __name__ == "__main__":
    main()
