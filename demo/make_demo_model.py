"""Make the demo checkpoint: a small GPT-2 that has read Python's documentation, and its transcoders.

    make demo-model        (rm -r demo/checkpoint first to make the model anew as well)

The tokenizer, the model and the transcoders are trained from nothing on the reference topics and
docstrings of the running Python and of some of the pinned packages. Documents whose SHA-256 ends in a
zero nibble are held out. Figures are written to demo/checkpoint/training.json beside the weights.
"""

import hashlib
import importlib.util
import json
import math
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from configs.inputs import CorpusConfig, ModelConfig, TranscoderConfig
from configs.run import RunConfig
from flows.train_transcoders import train_transcoders
from interp.quality import measure_quality, of_each
from interp.training.settings import TrainingSettings
from storage.corpora.packing import PADDING, one_side, pack
from storage.corpora.python_docs import docstrings, python_docs
from storage.corpora.texts import whole_texts
from storage.formats import open_transcoders
from storage.formats.circuit_tracer import layer_tensors
from storage.models import open_model

FOLDER = Path(__file__).parent / "checkpoint"
PACKAGES = (
    "numpy",
    "scipy",
    "sklearn",
    "dask",
    "distributed",
    "prefect",
    "zarr",
    "torch",
    "pydantic",
    "huggingface_hub",
)
BOS = "<|bos|>"
D_VOCAB, D_MODEL, N_LAYERS, N_HEADS, N_POS = 2000, 128, 4, 4, 128
N_STEPS, BATCH_ROWS, LEARNING_RATE, SEED = 6000, 32, 3e-3, 0
TRANSCODERS = TrainingSettings(d_transcoder=1024, activation="topk", k=24, n_steps=1500, batch_tokens=4096)
TITLE = TextColumn("{task.description}")

console = Console()


def documents() -> tuple[list[str], list[str]]:
    """Training and held-out documents."""
    texts = list(python_docs())
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        texts += docstrings(Path(spec.origin).parent)
    training, held_out = [], []
    for text in texts:
        (held_out if hashlib.sha256(text.encode()).hexdigest().endswith("0") else training).append(text)
    return training, held_out


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE: every text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, unk_token=BOS)


def rows_of(texts: list[str], tokenizer: Any) -> torch.Tensor:
    """All full rows of the packed documents."""
    rows = np.concatenate([block.rows.tokens for block in pack(whole_texts(texts), tokenizer, one_side(0, N_POS))])
    return torch.from_numpy(rows[(rows != PADDING).all(1)]).long()


def train_model(rows: torch.Tensor) -> tuple[GPT2LMHeadModel, list[list[float]]]:
    """Train the language model; returns it and its loss curve as [step, nats a token]."""
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=D_VOCAB, n_positions=N_POS, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    curve, running = [], 0.0
    columns = (TITLE, MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("language model", total=N_STEPS, loss=math.nan)
        for step in range(N_STEPS):
            warm = min(1.0, (step + 1) / 200)
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * step / N_STEPS)) / 2)
            batch = rows[torch.randint(len(rows), (BATCH_ROWS,))]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            running = float(loss.detach()) if step == 0 else 0.98 * running + 0.02 * float(loss.detach())
            progress.update(task, advance=1, loss=running)
            if step % 100 == 99:
                curve.append([step + 1, round(running, 4)])
                console.log(f"step {step + 1}: loss {running:.3f}") if not console.is_terminal else None
    return model.eval(), curve


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, rows: torch.Tensor) -> float:
    """Next-token loss in nats."""
    losses = [float(model(input_ids=batch, labels=batch).loss) for batch in rows.split(BATCH_ROWS)[:-1]]
    return sum(losses) / len(losses)


def unigram_cross_entropy(train_rows: torch.Tensor, rows: torch.Tensor) -> float:
    """Loss in nats of guessing by the training text's token frequencies (add-one smoothed)."""
    counts = torch.bincount(train_rows.flatten(), minlength=D_VOCAB).double() + 1
    return float(-(counts / counts.sum()).log()[rows[:, 1:].flatten()].mean())


def make_transcoders(training: list[str], held_out_rows: torch.Tensor, workplace: Path) -> list[dict[str, Any]]:
    """Train transcoders for the saved model through the product's own flow; save them as float16.

    Returns each layer's figures on held-out text, measured with the weights as saved.
    """
    texts = workplace / "training.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in training))
    config = RunConfig(
        name="demo",
        store=workplace / "store",
        model=ModelConfig(path=FOLDER / "model"),
        transcoder=TranscoderConfig(train=TRANSCODERS),
        corpus=CorpusConfig(source=str(texts), n_pos=N_POS),
    )
    trained = open_transcoders(Path(train_transcoders(config)), "gpt2")
    shutil.copytree(trained.path, FOLDER / "transcoders", ignore=shutil.ignore_patterns("*.json"))
    folder, figures = open_model(FOLDER / "model"), []
    model = folder.load()
    coders = {}
    for layer in range(N_LAYERS):
        transcoder = trained.read(layer).to(torch.float16)
        save_file(layer_tensors(transcoder), FOLDER / "transcoders" / f"layer_{layer}.safetensors")
        coders[layer] = transcoder.to(torch.float32)
    every = ((rows, torch.ones_like(rows, dtype=torch.bool), rows != 0) for rows in held_out_rows[:512].split(16))
    with ThreadPoolExecutor(1) as pool:
        for quality in measure_quality(model, folder.family, trained.hooks, of_each(coders), every, pool):
            figures.append({name: round(value, 4) for name, value in vars(quality).items()})
            console.log(figures[-1])
    return figures


def main() -> None:
    """Train and save everything; a model that is already there is kept, and only its transcoders are made."""
    began = time.monotonic()
    training, held_out = documents()
    if not (FOLDER / "training.json").exists():
        make_model(training, held_out, began)
    figures = json.loads((FOLDER / "training.json").read_text())
    began = time.monotonic()
    held_out_rows = rows_of(held_out, open_model(FOLDER / "model").tokenizer)
    shutil.rmtree(FOLDER / "transcoders", ignore_errors=True)
    with tempfile.TemporaryDirectory() as workplace:
        figures["transcoders"] = make_transcoders(training, held_out_rows, Path(workplace))
    figures["transcoder_minutes"] = round((time.monotonic() - began) / 60, 1)
    (FOLDER / "training.json").write_text(json.dumps(figures, indent=1) + "\n")


def make_model(training: list[str], held_out: list[str], began: float) -> None:
    """Train and save tokenizer and model, with their figures."""
    tokenizer = train_tokenizer(training)
    rows, held_out_rows = rows_of(training, tokenizer), rows_of(held_out, tokenizer)
    console.log(f"{len(training)} documents, {rows.numel():,} tokens; held out {held_out_rows.numel():,}")
    model, curve = train_model(rows)
    model = model.half().float()  # as it will be read back
    figures = {
        "n_documents": len(training),
        "n_tokens": rows.numel(),
        "n_tokens_held_out": held_out_rows.numel(),
        "tokens_seen": N_STEPS * BATCH_ROWS * N_POS,
        "held_out_loss_nats": round(held_out_loss(model, held_out_rows), 4),
        "held_out_unigram_cross_entropy_nats": round(unigram_cross_entropy(rows, held_out_rows), 4),
        "loss_curve": curve,
        "model_minutes": round((time.monotonic() - began) / 60, 1),
    }
    shutil.rmtree(FOLDER, ignore_errors=True)
    model.half().save_pretrained(FOLDER / "model")
    tokenizer.save_pretrained(FOLDER / "model")
    (FOLDER / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
    console.log({name: value for name, value in figures.items() if name != "loss_curve"})


if __name__ == "__main__":
    main()
