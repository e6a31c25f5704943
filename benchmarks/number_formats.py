"""What a number format of the model's weights changes, beside float32.

    python -m benchmarks.number_formats MODEL TRANSCODERS TEXT.jsonl --layers 5,15,25 [--dtype bfloat16] [--rows 128]
        [--single 4096] [--no-bos]

Prints a line of JSON a layer: of the active features of a float32 model (pairs of feature and position), of the tokens
that activate a feature alone (by which WeightLens validates candidates; z-scores of these are computed from weights, in
float32 in any case), and of the examples drawn, the share that is the same, and the rank correlation of their
activations.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.texts import first_tokens
from interp.activations.encoding import Encoder, find_active
from interp.activations.sampling import draw_samples
from interp.activations.settings import ActivationSettings
from interp.capture import HookedModel, read_inputs
from interp.products import fast_products
from interp.sparse import feature_tokens
from interp.weightlens.single_token import single_token_inputs
from storage.formats import open_transcoders
from storage.formats.folder import TranscoderFolder
from storage.models import ModelFolder
from tasks.loaded_models import loaded_model

N_POS, SKIPPED, ROWS_AT_ONCE = 128, 4, 16
FIRST_SINGLE = 0.4
"""Where in the vocabulary the tokens that are run alone begin: special and rare ones stand at its ends."""

Pairs = dict[tuple[int, int], float]
"""An activation by feature and position or token."""


class Work(NamedTuple):
    """What is read."""

    model: Path
    release: TranscoderFolder
    rows: int
    n_single: int
    text: Path
    layers: Sequence[int]
    with_bos: bool
    """Whether the tokenizer's BOS stands before single tokens."""


def activations(work: Work, dtype: torch.dtype) -> dict[int, dict[str, Pairs]]:
    """By layer: what is active in the text, on single tokens, and among the examples."""
    folder, model = loaded_model(work.model, dtype=dtype)
    coders = {layer: work.release.read(layer).to(torch.float32) for layer in work.layers}
    encoders = {layer: Encoder(c.W_enc, c.b_enc, c.activation, c.threshold, c.k) for layer, c in coders.items()}
    tokens = rows_of(work, folder)
    hooked, n_read = HookedModel(model, folder.family, work.release.hooks), max(work.layers) + 1
    counted = np.arange(tokens.numel(), dtype=np.uint32).reshape(tokens.shape)[:, SKIPPED:]
    found: dict[int, list[tuple[np.ndarray, ...]]] = {layer: [] for layer in work.layers}
    with fast_products(folder.d_model):
        for start in range(0, work.rows, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)

            def receive(layer: int, x: torch.Tensor, part: slice = part) -> None:
                if layer in encoders:
                    kept = x[:, SKIPPED:].flatten(0, 1).contiguous()
                    found[layer].append(find_active(encoders[layer], kept, counted[part].ravel()))

            read_inputs(hooked, tokens[part], range(n_read), receive)
        first = int(FIRST_SINGLE * folder.n_tokens)
        single = range(first, min(first + work.n_single, folder.n_tokens))
        bos = folder.bos if work.with_bos else None
        hooks = work.release.hooks
        alone = single_token_inputs(model, folder.family, hooks, n_read, single, bos) if single else {}
    result = {}
    for layer, encoder in encoders.items():
        token, feature, value = (np.concatenate(column) for column in zip(*found[layer], strict=True))
        drawn = draw_samples(
            feature_tokens(feature, token, value, encoder.d_transcoder), layer, 0, ActivationSettings()
        )
        result[layer] = {
            "active": _pairs(feature, token, value),
            "examples": _pairs(drawn.feature, drawn.position, drawn.activation),
        }
        if single:
            one, of, much = find_active(encoder, alone[layer], np.array(single, np.int32))
            result[layer]["single tokens"] = _pairs(of, one, much)
    return result


def rows_of(work: Work, folder: ModelFolder) -> torch.Tensor:
    """The first rows of the text, (rows, N_POS)."""
    return torch.tensor(first_tokens(folder, work.text, work.rows * N_POS)).view(work.rows, N_POS)


def _pairs(feature: np.ndarray, token: np.ndarray, value: np.ndarray) -> Pairs:
    return dict(zip(zip(feature.tolist(), token.tolist(), strict=True), value.tolist(), strict=True))


def lines(work: Work, dtype: str) -> Iterator[dict[str, object]]:
    """A line a layer."""
    expected, found = activations(work, torch.float32), activations(work, getattr(torch, dtype))
    for layer in work.layers:
        line: dict[str, object] = {"benchmark": "number formats", "dtype": dtype, "layer": layer}
        for what, own in expected[layer].items():
            other = found[layer][what]
            both = sorted(own.keys() & other.keys())
            rank = spearmanr([own[pair] for pair in both], [other[pair] for pair in both])
            line |= {f"{what}, n": len(own), f"{what}, same": round(len(both) / len(own), 4)}
            line[f"{what}, rank correlation"] = round(float(np.asarray(rank)[0]), 5)
        yield line


def arguments(about: str | None, n_rows: int) -> argparse.ArgumentParser:
    """Arguments that name what is read, and the format."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("transcoders", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--layers", required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--rows", type=int, default=n_rows, help=f"of {N_POS} tokens")
    return parser


def work_of(asked: argparse.Namespace, *, n_single: int, with_bos: bool) -> Work:
    """What these arguments ask to read."""
    folder, _ = loaded_model(asked.model)
    release = open_transcoders(asked.transcoders, folder.family.model_type)
    layers = [int(layer) for layer in asked.layers.split(",")]
    return Work(asked.model, release, asked.rows, n_single, asked.text, layers, with_bos)


def main() -> None:
    """Measure, print."""
    parser = arguments(__doc__, 128)
    parser.add_argument("--single", type=int, default=4096, help="tokens of the vocabulary")
    parser.add_argument("--no-bos", action="store_true", help="for a model that was trained without one")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    work = work_of(asked, n_single=asked.single, with_bos=not asked.no_bos)
    for line in lines(work, asked.dtype):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
