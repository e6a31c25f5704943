"""Training of transcoders: what a step takes beside its floor, and how a run grows with the model's layers.

    python -m benchmarks.training [--json] [--model FOLDER --text FILE.jsonl]

`grown` trains a small Llama of 1, 6 and 24 layers (d_model 64, 512 features a layer, 50 steps of 2,048 tokens) and
gives processor seconds. With a model folder, `step` gives the processor seconds of one step of all layers (2,048
features each, 4,096 tokens) beside its floor: one forward pass without the unembedding, and the encoders' products.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from interp.capture import Hooks
from interp.families import Family, family_of
from interp.training.settings import TrainingSettings
from interp.training.streams import POSITIONS_PER_PASS, captured
from interp.training.together import train_together
from interp.training.trainer import Trainer
from storage.models import open_model
from tasks.loaded_models import threads

HOOKS = Hooks("mlp_in", "mlp_out")
N_POS = 128


def text_of(n_rows: int, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Random rows, all of whose positions count but the first."""
    tokens = torch.randint(n_tokens, (n_rows, N_POS), generator=torch.Generator().manual_seed(0))
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, 0] = False
    return tokens, counted


def grown(n_layers: int) -> float:
    """Processor seconds of a training of all layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=n_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    model, family = LlamaForCausalLM(config).eval().requires_grad_(False), family_of("llama")
    settings = TrainingSettings(d_transcoder=512, k=16, n_steps=50, batch_tokens=2048)
    texts = [text_of(16, 512) for _ in range(4)]

    def run(n_steps: int) -> None:
        few = TrainingSettings(d_transcoder=512, k=16, n_steps=n_steps, batch_tokens=2048)
        with threads(1) as pool:
            train_together(
                lambda step, layers: captured(model, family, HOOKS, layers, texts[step % 4], pool),
                list(range(n_layers)),
                few,
                pool,
                lambda *_: None,
            )

    run(1)  # compiles
    began = time.process_time()
    run(settings.n_steps)
    return time.process_time() - began


def step(model: nn.Module, family: Family, tokens: Tensor) -> dict[str, float]:
    """Processor seconds of one step of all layers, and of its parts."""
    text = tokens, torch.ones_like(tokens, dtype=torch.bool)
    text[1][:, 0] = False
    layers = list(range(len(family.block_modules(model))))
    settings = TrainingSettings(d_transcoder=2048, k=32)
    with threads(1) as pool:
        streams = captured(model, family, HOOKS, layers, text, pool)
        trainers = {layer: Trainer.started(*streams[layer], settings) for layer in layers}
        for layer in layers:
            trainers[layer].step(*streams[layer])

        began = time.process_time()
        with torch.no_grad():
            for rows in tokens.split(POSITIONS_PER_PASS // N_POS):
                model.get_submodule("model")(input_ids=rows, use_cache=False)
        forward = time.process_time() - began
        began = time.process_time()
        streams = captured(model, family, HOOKS, layers, text, pool)
        capturing = time.process_time() - began
        began = time.process_time()
        for layer in layers:
            trainers[layer].step(*streams[layer])
        training = time.process_time() - began
        began = time.process_time()
        for layer in layers:
            torch.mm(streams[layer][0], trainers[layer].parameters.W_enc.T)
        encoders = time.process_time() - began
    floor = forward + encoders
    return {
        "forward_s": forward, "encoders_s": encoders, "captured_s": capturing, "trained_s": training,
        "times_floor": (capturing + training) / floor,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON a result")
    parser.add_argument("--model", type=Path, help="a Llama's folder")
    parser.add_argument("--text", type=Path, help="texts in lines of JSON, field text")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, object]] = [
        {"benchmark": "training grown", "layers": n, "processor_s": round(grown(n), 2)} for n in (1, 6, 24)
    ]
    if args.model is not None:
        folder = open_model(args.model)
        lines = args.text.read_text(encoding="utf-8").splitlines()
        ids: list[int] = folder.tokenizer(" ".join(json.loads(line)["text"] for line in lines[:20]))["input_ids"]
        tokens = torch.tensor(ids[: 32 * N_POS]).view(32, N_POS)
        figures = {name: round(value, 3) for name, value in step(folder.load(), folder.family, tokens).items()}
        results.append({"benchmark": "training step", "layers": folder.n_layers, **figures})
    for result in results:
        print(json.dumps(result) if args.json else "  ".join(f"{name} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
