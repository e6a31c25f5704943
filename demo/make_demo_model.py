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
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
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
D_VOCAB, N_WORDS = 4000, 3000
WORD = r"'(?:[sdmt]|ll|ve|re)\b| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What the tokenizer takes for a word: letters, one digit, or a run of signs, each with the space before it."""
D_MODEL, N_LAYERS, N_HEADS, N_POS = 128, 4, 4, 128
N_STEPS, BATCH_ROWS, LEARNING_RATE, MATRIX_RATE, SEED = 4000, 16, 3e-3, 0.02, 0
TRANSCODERS = TrainingSettings(
    d_transcoder=1024, activation="topk", k=16, max_frequency=0.029, n_steps=3000, batch_tokens=4096,
    learning_rate=1e-2, dtype="bfloat16",
)  # fmt: skip
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
    """Three quarters of the vocabulary are the commonest whole words, with or without a space before them, and signs.

    Other words are spelled in the pieces of a byte-level BPE, which is trained on these other words alone, so every
    text can be written. With `ignore_merges`, a word that is in the vocabulary is one token whatever the merges are.
    """
    split = pre_tokenizers.Split(Regex(WORD), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    counts = Counter(word for text in texts for word, _ in split.pre_tokenize_str(text))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = to_bytes
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB - N_WORDS,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(([word] * counts[word] for word in words[N_WORDS:]), trainer)
    state = json.loads(pieces.to_str())["model"]
    vocabulary = dict(state["vocab"])
    for word in words:
        if len(vocabulary) < D_VOCAB:
            vocabulary.setdefault(to_bytes.pre_tokenize_str(word)[0][0], len(vocabulary))
    merges = [(left, right) for left, right in state["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS])
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
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    optimizers = [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.1),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    curve, running = [], 0.0
    columns = (TITLE, MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("language model", total=N_STEPS, loss=math.nan)
        for step in range(N_STEPS):
            warm = min(1.0, (step + 1) / 100)
            rate = warm * (0.05 + 0.95 * (1 + math.cos(math.pi * step / N_STEPS)) / 2)
            for optimizer, peak in zip(optimizers, (MATRIX_RATE, LEARNING_RATE), strict=True):
                optimizer.param_groups[0]["lr"] = peak * rate
            batch = rows[torch.randint(len(rows), (BATCH_ROWS,))]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
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
