"""What reading all layers in one pass takes, beside passes of the model alone.

    python -m benchmarks.one_pass STORE TEXTS.jsonl [--checkpoint NAME] [--n-texts 400] [--features 40] [--rows 16]

Two lines of JSON, in processor seconds of one thread, each the median of three times that alternate with its floor:

- `held-out texts`: the activations of some features of every layer on texts of 32 tokens, as evaluation reads them
  (half of these features are described, half are like them). `times` is that divided by a forward pass over the same
  batches, logits included. `times_without_logits` is the same beside a pass that ends at the highest layer that is
  read, and `encoders` is what the encoders take alone, as a share of that: with TopK, a feature's activation depends on
  all features of its layer.
- `quality`: explained variance, L0, dead features and the loss with each layer and with all layers replaced, on rows of
  128 tokens, as ingestion measures them. `passes` is the time divided by one forward pass over the rows with its loss.
  Measured for one layer after the other, it takes `one_by_one` passes: that is timed for three layers, a low, a middle
  and the highest one, and multiplied.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.texts import first_tokens
from flows.one_prompt.opened import Opened, open_named
from interp.activations.settings import ActivationSettings
from interp.capture import HookedModel, read_inputs
from interp.fade.texts import chosen_activations
from interp.products import fast_products
from interp.quality import Text, measure_quality, of_each
from tasks.evaluation.text_activations import TOKENS_AT_ONCE, Wanted, read_activations
from tasks.loaded_models import loaded_encoder

TEXT_TOKENS, ROW_TOKENS, SKIPPED, TIMES = 32, 128, 4, 3


def alternating(*works: Callable[[], object]) -> list[float]:
    """The median processor seconds of each of some works, which take turns."""
    took: list[list[float]] = [[] for _ in works]
    for turn in range(TIMES + 1):
        for own, work in zip(took, works, strict=True):
            began = time.process_time()
            work()
            if turn:
                own.append(time.process_time() - began)
    return [statistics.median(own) for own in took]


def held_out(opened: Opened, ids: list[int], n_features: int) -> dict[str, object]:
    """Reading texts beside passes over them."""
    texts, checkpoint = [ids[at : at + TEXT_TOKENS] for at in range(0, len(ids), TEXT_TOKENS)], opened.checkpoint
    chosen = np.linspace(0, checkpoint.attributes.d_transcoder - 1, n_features).astype(np.int64)
    features = dict.fromkeys(checkpoint.layers, chosen)
    wanted = Wanted(checkpoint, opened.folder.path, features, ActivationSettings(skip_row_start=SKIPPED))
    hooked = HookedModel(opened.model, opened.folder.family, checkpoint.hooks)
    bos = [] if checkpoint.bos is None else [checkpoint.bos]
    rows = torch.tensor([bos + text for text in texts])
    batches = rows.split(TOKENS_AT_ONCE // rows.shape[1])
    highest, width = max(checkpoint.layers), checkpoint.attributes.d_model
    encoders, which = [loaded_encoder(checkpoint, layer) for layer in checkpoint.layers], torch.from_numpy(chosen)
    x = torch.randn(rows.numel() - SKIPPED * len(rows), width)

    def passes() -> None:
        for batch in batches:
            read_inputs(hooked, batch, [highest], lambda layer, x: None)

    def logits() -> None:
        for batch in batches:
            opened.model(input_ids=batch, use_cache=False)

    def encode() -> None:
        for encoder in encoders:
            chosen_activations(encoder, which, x)

    read, whole, floor, own = alternating(lambda: read_activations(wanted, texts), logits, passes, encode)
    return {
        "benchmark": "held-out texts", "texts": len(texts), "tokens": rows.numel(), "layers": len(encoders),
        "features": n_features, "read_s": read, "pass_s": whole, "times": read / whole,
        "times_without_logits": read / floor, "encoders": own / floor,
    }  # fmt: skip


def quality(opened: Opened, ids: list[int]) -> dict[str, object]:
    """Measuring all layers together beside one after the other."""
    checkpoint, family, hooks = opened.checkpoint, opened.folder.family, opened.checkpoint.hooks
    rows = torch.tensor(ids).view(-1, ROW_TOKENS)
    counted = torch.ones_like(rows, dtype=torch.bool)
    counted[:, :SKIPPED] = False
    layers = list(checkpoint.layers)
    coders = {layer: opened.transcoder(layer) for layer in layers}

    def text() -> Iterator[Text]:
        for batch, its in zip(rows.split(4), counted.split(4), strict=True):
            yield batch, torch.ones_like(its), its

    with ThreadPoolExecutor(1) as pool:

        def measured(chosen: list[int]) -> Callable[[], object]:
            own = of_each({layer: coders[layer] for layer in chosen})
            return lambda: measure_quality(opened.model, family, hooks, own, text(), pool)

        def passes() -> None:
            for batch in rows.split(4):
                _loss(opened, batch)

        few = [layers[0], layers[len(layers) // 2], layers[-1]]
        whole, floor, *alone = alternating(measured(layers), passes, *(measured([layer]) for layer in few))
    one_by_one = sum(alone) / len(alone) * len(layers)
    return {
        "benchmark": "quality", "tokens": rows.numel(), "layers": len(layers), "quality_s": whole, "pass_s": floor,
        "passes": whole / floor, "one_by_one": one_by_one / floor, "share": whole / one_by_one,
    }  # fmt: skip


@torch.no_grad()
def _loss(opened: Opened, batch: Tensor) -> Tensor:
    logits = opened.model(input_ids=batch, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--n-texts", type=int, default=400)
    parser.add_argument("--features", type=int, default=40, help="of each layer")
    parser.add_argument("--rows", type=int, default=16, help=f"of {ROW_TOKENS} tokens, for the quality")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    opened = open_named(asked.store, asked.checkpoint)
    with fast_products(opened.checkpoint.attributes.d_model), torch.no_grad():
        for line in (
            held_out(opened, first_tokens(opened.folder, asked.texts, asked.n_texts * TEXT_TOKENS), asked.features),
            quality(opened, first_tokens(opened.folder, asked.texts, asked.rows * ROW_TOKENS)),
        ):
            print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}))


if __name__ == "__main__":
    main()
