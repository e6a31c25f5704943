"""The whole pipeline at GPT-2-small shapes: 294,912 features, validation included, from folders to catalog.

    python -m benchmarks.full_run [--json] [--folder FOLDER] [key=value …]

A GPT-2-small of random weights and random transcoders with about 45 active features a token, through the command line
as a user would: `ingest`, then `weightlens`. Prints the seconds of both, the peak memory, and two ratios of the time
that the second one's float32 products would take at the rate of large ones, measured before and after, over the time it
took: by the clock (`weightlens_ratio`), and by processor time (`processor_ratio`), in which what else runs on the
machine counts little. Needs 6 GB of disk.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from flows.costs.rates import gemm_flops
from interp.capture import Hooks
from storage.catalog.database import open_catalog
from storage.formats.circuit_tracer import folder_config

N_LAYERS, D_TRANSCODER, D_MODEL, D_VOCAB = 12, 24_576, 768, 50_257
QUIET_BIAS = -2.9
"""With unit encoder rows and a layer norm before them, about 45 of 24,576 features exceed it."""


def write_model(folder: Path, n_layers: int = N_LAYERS) -> None:
    """A randomly initialised GPT-2-small, or its first layers, and a vocabulary of as many words."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=n_layers, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    words = {"<bos>": 0, **{f"w{i}": i for i in range(1, D_VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<bos>").save_pretrained(folder)


def write_transcoders(folder: Path, n_layers: int = N_LAYERS) -> None:
    """Random directions of unit norm."""
    folder.mkdir()
    for layer in range(n_layers):
        W_enc, W_dec = (torch.nn.functional.normalize(torch.randn(D_TRANSCODER, D_MODEL), dim=1) for _ in range(2))
        biases = {"b_enc": torch.full((D_TRANSCODER,), QUIET_BIAS), "b_dec": torch.zeros(D_MODEL)}
        save_file({"W_enc": W_enc, "W_dec": W_dec, **biases}, folder / f"layer_{layer}.safetensors")
    (folder / "config.yaml").write_text(folder_config("random", Hooks("mlp_in", "mlp_out"), "relu", None))


def stage_seconds(store: Path) -> dict[str, float]:
    """Seconds of each stage, as the catalog has them."""
    with open_catalog(store / "catalog.duckdb") as connection:
        query = "SELECT stage, epoch(finished_at - started_at) FROM runs WHERE status = 'completed'"
        return {f"{stage}_s": round(seconds, 1) for stage, seconds in connection.execute(query).fetchall()}


def stage_flops() -> int:
    """Of the stage's products: every token through the model's blocks and all encoders, then the projections."""
    blocks = 2 * N_LAYERS * 12 * D_MODEL**2
    encoders = 2 * N_LAYERS * D_TRANSCODER * D_MODEL
    columns = 2 * N_LAYERS * D_VOCAB + N_LAYERS * (N_LAYERS - 1) // 2 * D_TRANSCODER
    return D_VOCAB * (blocks + encoders) + 2 * D_MODEL * D_TRANSCODER * columns


def processor_seconds() -> float:
    """Of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def core_flops() -> float:
    """A second of one core's time, for large float32 products."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, W, out = torch.randn(512, D_MODEL), torch.randn(2048, D_MODEL), torch.empty(512, 2048)
    torch.mm(x, W.T, out=out)
    began = time.process_time()
    for _ in range(400):
        torch.mm(x, W.T, out=out)
    rate = 400 * 2 * x.shape[0] * W.shape[0] * D_MODEL / (time.process_time() - began)
    torch.set_num_threads(n_threads)
    return rate


def main() -> None:
    """Write the folders if they are not there, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--folder", type=Path, help="keep models and store here")
    arguments, overrides = parser.parse_known_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    if not (folder / "transcoders" / "config.yaml").exists():
        write_model(folder / "model")
        write_transcoders(folder / "transcoders")
        (folder / "text.txt").write_text(" ".join(f"w{i * 37 % D_VOCAB}" for i in range(1, 2000)))
    settings = {
        "name": "gpt2-shapes",
        "store": folder / "store",
        "model.path": folder / "model",
        "transcoder.path": folder / "transcoders",
        "transcoder.accept_poor_quality": "true",
        "corpus.source": folder / "text.txt",
        "quality_tokens": 512,
        "shard_size": 2048,
        "weightlens": "{mode: paper, z_tokens: 4, z_features: 3}",
    }
    config = Path(__file__).parents[1] / "configs" / "demo.yaml"
    changes = [*(f"{k}={v}" for k, v in settings.items()), *overrides]
    rates, of_core = [gemm_flops(D_MODEL, torch.get_num_threads())], [core_flops()]
    began = time.perf_counter()
    for command in ("ingest", "weightlens"):
        before = processor_seconds()
        subprocess.run(
            [sys.executable, "-m", "flows.cli", command, config, *changes],
            check=True, stdout=sys.stderr, cwd=config.parents[1],
        )  # fmt: skip
    figures: dict[str, Any] = {"benchmark": "full_run", "features": N_LAYERS * D_TRANSCODER}
    figures |= {"total_s": round(time.perf_counter() - began, 1), **stage_seconds(folder / "store")}
    figures["weightlens_processor_s"] = round(processor_seconds() - before, 1)
    rates.append(gemm_flops(D_MODEL, torch.get_num_threads()))
    of_core.append(core_flops())
    figures["gemm_gflops"] = [round(rate / 1e9, 1) for rate in rates]
    figures["core_gflops"] = [round(rate / 1e9, 1) for rate in of_core]
    figures["weightlens_ratio"] = round(stage_flops() / (sum(rates) / 2) / figures["weightlens_s"], 3)
    figures["processor_ratio"] = round(stage_flops() / (sum(of_core) / 2) / figures["weightlens_processor_s"], 3)
    figures["peak_rss_gb"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6, 2)
    print(json.dumps(figures) if arguments.json else figures)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
