"""Ingestion at Gemma-2-2B shapes: memory of the whole command, and the speed of arrays beside the disk's own.

    python -m benchmarks.ingest [--json] [--folder FOLDER] [--layers 26] [--whole] [--tokens 1024]

Transcoders of random bfloat16 weights, 26 layers of 16,384 features and d_model 2,304 (3.9 GB), and a Gemma-2 of that
width and depth whose MLPs and vocabulary are tiny, so that what is measured is the transcoders; --whole: of the real
sizes. `write` and `read` are
layers into and shards out of Zarr; `disk_write` and `disk_read` the same bytes copied to a file and read from it. Reads
come from the page cache, all of them. Needs 9 GB of disk.
"""

import argparse
import json
import multiprocessing
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
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from interp.capture import Hooks
from storage.checkpoints import Checkpoint, write_layer
from storage.formats import open_transcoders
from storage.formats.circuit_tracer import folder_config
from storage.store import Store, shards

D_TRANSCODER, D_MODEL, D_VOCAB = 16_384, 2304, 2000
N_TIMED = 4
"""Layers that are timed one by one."""

SHARD = 2048


THIN: dict[str, Any] = {
    "vocab_size": D_VOCAB, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
}  # fmt: skip
WHOLE: dict[str, Any] = {
    "vocab_size": 256_000, "intermediate_size": 9216, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 256,
}  # fmt: skip
"""Sizes of Gemma-2-2B."""


def write_folders(folder: Path, n_layers: int, sizes: dict[str, Any]) -> None:
    """A model, its transcoders and a text."""
    torch.manual_seed(0)
    config = Gemma2Config(
        **sizes,
        hidden_size=D_MODEL,
        num_hidden_layers=n_layers,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.set_default_dtype(torch.bfloat16)
    model: Any = Gemma2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "model")
    words = {"<bos>": 0, **{f"w{i}": i for i in range(1, sizes["vocab_size"])}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<bos>")
    fast.save_pretrained(folder / "model")
    transcoders = folder / "transcoders"
    transcoders.mkdir()
    for layer in range(n_layers):
        W_enc, W_dec = (torch.randn(D_TRANSCODER, D_MODEL).bfloat16() for _ in range(2))
        biases = {"b_enc": torch.zeros(D_TRANSCODER).bfloat16(), "b_dec": torch.zeros(D_MODEL).bfloat16()}
        save_file({"W_enc": W_enc, "W_dec": W_dec, **biases}, transcoders / f"layer_{layer}.safetensors")
    (transcoders / "config.yaml").write_text(folder_config("random", Hooks("mlp_in", "mlp_out"), "relu", None))
    (folder / "text.txt").write_text(" ".join(f"w{i * 37 % D_VOCAB}" for i in range(1, 2000)))


def ingest(folder: Path, n_tokens: int) -> dict[str, float]:
    """The whole command, as a user runs it."""
    settings = {
        "store": folder / "store",
        "model.path": folder / "model",
        "transcoder.path": folder / "transcoders",
        "transcoder.accept_poor_quality": "true",
        "corpus.source": folder / "text.txt",
        "quality_tokens": n_tokens,
    }
    config = Path(__file__).parents[1] / "configs" / "demo.yaml"
    began = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "ingest", config, *(f"{k}={v}" for k, v in settings.items())]
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=config.parents[1])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return {"ingest_s": round(time.perf_counter() - began, 1), "peak_rss_gb": round(peak, 2)}


def speeds(folder: Path) -> dict[str, float]:
    """MB/s of some layers, in turns with the same bytes as plain files."""
    release, store = open_transcoders(folder / "transcoders", "gemma2"), Store(folder / "timed")
    seconds: dict[str, float] = dict.fromkeys(("write", "disk_write", "read", "disk_read"), 0.0)
    n_bytes = 0

    def timed(name: str, began: float) -> None:
        seconds[name] += time.perf_counter() - began

    for layer in release.layers[:N_TIMED]:
        coder, file = release.read(layer), folder / "timed" / f"plain-{layer}"
        data = coder.W_enc.view(torch.int16).numpy().tobytes() + coder.W_dec.view(torch.int16).numpy().tobytes()
        n_bytes += len(data)
        began = time.perf_counter()
        write_layer(store, "c", layer, coder, None, None)
        timed("write", began)
        began = time.perf_counter()
        file.write_bytes(data)
        timed("disk_write", began)
        began = time.perf_counter()
        checkpoint = Checkpoint(store.checkpoint("c"))
        for key in shards("", layer, D_TRANSCODER, SHARD):
            for name in ("W_enc", "W_dec"):
                checkpoint.rows(layer, name, key.start, key.stop)
        timed("read", began)
        began = time.perf_counter()
        file.read_bytes()
        timed("disk_read", began)
    return {f"{name}_mb_per_s": round(n_bytes / 1e6 / spent) for name, spent in seconds.items()}


def main() -> None:
    """Write the folders, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--folder", type=Path, help="work here")
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--whole", action="store_true", help="the model whole: 2.6 billion weights, 6 GB more of disk")
    parser.add_argument("--tokens", type=int, default=1024, help="on which the transcoders are measured")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        # In a process of its own: what a process took at most counts for those that it starts as well.
        writing = multiprocessing.get_context("spawn").Process(
            target=write_folders, args=(folder, arguments.layers, WHOLE if arguments.whole else THIN)
        )
        writing.start()
        writing.join()
        if writing.exitcode:
            raise RuntimeError(f"writing the checkpoint ended with {writing.exitcode}")
        timed = {} if arguments.whole else speeds(folder)
        figures = {"layers": arguments.layers, **ingest(folder, arguments.tokens), **timed}
        print(json.dumps(figures) if arguments.json else figures)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
