"""The parts of `benchmarks.gpu`: what each measures, on which shapes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, PretrainedConfig, PreTrainedModel

from flows.costs.machines import MACHINES, Machine
from interp.activations.encoding import Encoder, find_active
from interp.capture import HookedModel, Hooks, read_inputs
from interp.circuitlens.attribution import Targets, contributions, feature_targets, read_until
from interp.circuitlens.frozen import freeze
from interp.circuitlens.linear import linear_model
from interp.families import family_of
from interp.interventions.changes import Changes, FeatureChange
from interp.interventions.generating import continuations
from interp.interventions.running import SteerableModel
from interp.projection import OutlierRule, project
from interp.training.settings import TrainingSettings
from interp.training.streams import captured
from interp.training.trainer import Trainer
from interp.transcoder import Transcoder
from tasks.loaded_models import threads

HOOKS = Hooks("mlp_in", "mlp_out")


@dataclass(frozen=True, eq=False)
class Shape:
    """A model by its configuration, its transcoders, and how much of it is run."""

    config: PretrainedConfig
    d_transcoder: int
    tokens: int = 8192
    """Of the corpus pass and of a step of training."""
    n_pos: int = 128
    rows: int = 2048
    """Features that are projected."""
    steered: int = 700
    coders: int = 4
    """Different random transcoders, which the layers take in turns: speed does not depend on which, memory does."""


SHAPES = {
    "tiny": Shape(
        GPT2Config(vocab_size=60, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0),
        24, 64, 16, 8, 6, 2,
    ),
    "gpt2": Shape(GPT2Config(), 24_576),
    "smollm2": Shape(
        LlamaConfig(
            vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, tie_word_embeddings=True,
        ),
        2048,
    ),
    "gemma2-2b": Shape(
        Gemma2Config(
            vocab_size=256_000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
            num_key_value_heads=4, head_dim=256,
        ),
        16_384, tokens=4096, rows=1024, steered=280,
    ),
}  # fmt: skip


class Place(NamedTuple):
    """A device, and what one second of it can do."""

    device: str
    float32: float
    """Operations of a large product."""
    bandwidth: float
    """Bytes of a large copy, read and written."""


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


LEAST_S = 0.2
"""For so long a part is measured, at least."""


def seconds(work: Callable[[], object], device: str) -> float:
    """Of one call: the mean of as many as fill `LEAST_S`, after one that warms up."""
    work()
    wait(device)
    began, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - began < LEAST_S:
        work()
        wait(device)
        n += 1
    return (time.perf_counter() - began) / n


@cache
def place_of(device: str, size: int) -> Place:
    """The device's own rates, by a product and a copy of matrices of some width."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    return Place(
        device, 2 * size**3 / seconds(lambda: a @ b, device), 2 * a.nbytes / seconds(lambda: a.clone(), device)
    )


@cache
def model_of(shape: Shape, device: str) -> PreTrainedModel:
    """A model with random weights, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(shape.config, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


@cache
def coders_of(shape: Shape, device: str) -> list[Transcoder]:
    d_model, n = shape.config.hidden_size, shape.d_transcoder
    draw = torch.Generator(device=device).manual_seed(1)

    def matrix() -> torch.Tensor:
        return torch.randn(n, d_model, generator=draw, device=device) / d_model**0.5

    zeros = torch.zeros(n, device=device), torch.zeros(d_model, device=device)
    return [Transcoder(matrix(), zeros[0], matrix(), zeros[1], "topk", k=min(32, n)) for _ in range(shape.coders)]


def rows_of(shape: Shape, device: str, n_tokens: int) -> torch.Tensor:
    n = max(1, n_tokens // shape.n_pos)
    draw = torch.Generator().manual_seed(2)
    return torch.randint(3, shape.config.vocab_size, (n, shape.n_pos), generator=draw).to(device)


def block_flops(model: nn.Module) -> float:
    """Operations a token below the unembedding."""
    blocks = [one.numel() for name, one in model.named_parameters() if ".h." in name or ".layers." in name]
    return 2.0 * sum(blocks)


def hardware(shape: Shape, device: str) -> dict[str, float | str]:
    """Its products in each format, its copies, and its peak where that is known."""
    size = 8192 if device.startswith("cuda") else 512 if shape.d_transcoder > 100 else 64
    place, found = place_of(device, size), dict[str, float | str]()
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    found["float32_tflops"] = place.float32 / 1e12
    found["bfloat16_tflops"] = 2 * size**3 / seconds(lambda: a @ b, device) / 1e12
    found["copies_gb_per_s"] = place.bandwidth / 1e9
    host = torch.empty(size, size)
    pinned = host.pin_memory() if device.startswith("cuda") else host
    found["to_device_gb_per_s"] = host.nbytes / seconds(lambda: pinned.to(device, non_blocking=True), device) / 1e9
    known = named(device)
    if known is not None:
        found["float32_share_of_peak"] = place.float32 / known.float32
        found["copies_share_of_peak"] = place.bandwidth / known.bandwidth
    return found


def named(device: str) -> Machine | None:
    """What its maker says of a GPU."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device).lower()
    return next((one for key, one in MACHINES.items() if key in name and one.is_gpu), None)


def projections(shape: Shape, device: str) -> dict[str, float]:
    """Features against the vocabulary, outliers of both tails kept: WeightLens."""
    d_model, n = shape.config.hidden_size, shape.config.vocab_size
    rows = torch.randn(shape.rows, d_model, device=device)
    columns = torch.randn(n, d_model)
    tiles = [(at, columns[at : at + 2048]) for at in range(0, n, 2048)]
    rule = OutlierRule("paper", min(400, n), 3.0)
    took = seconds(lambda: project(rows, lambda: iter(tiles), n, rule), device)
    return {"features_per_s": shape.rows / took, **_share(2.0 * shape.rows * n * d_model / took, device)}


def corpus(shape: Shape, device: str) -> dict[str, float]:
    """Tokens through the model, active features of every layer."""
    model, coders = model_of(shape, device), coders_of(shape, device)
    encoders = [Encoder(one.W_enc, one.b_enc, one.activation, one.threshold, one.k) for one in coders]
    rows = rows_of(shape, device, shape.tokens)
    n_layers = shape.config.num_hidden_layers
    hooked = HookedModel(model, family_of(shape.config.model_type), HOOKS)
    place = np.arange(rows.numel(), dtype=np.uint32)
    found = []

    def receive(layer: int, x: torch.Tensor) -> None:
        found.append(len(find_active(encoders[layer % len(encoders)], x.flatten(0, 1), place)[0]))

    took = seconds(lambda: read_inputs(hooked, rows, range(n_layers), receive), device)
    flops = block_flops(model) + 2.0 * n_layers * shape.d_transcoder * shape.config.hidden_size
    return {"tokens_per_s": rows.numel() / took, **_share(rows.numel() * flops / took, device)}


def training(shape: Shape, device: str) -> dict[str, float]:
    """A step of a few layers' trainers and the pass that feeds them."""
    model, rows = model_of(shape, device), rows_of(shape, device, shape.tokens).cpu()
    layers = list(range(shape.config.num_hidden_layers))[: shape.coders]
    settings = TrainingSettings(d_transcoder=shape.d_transcoder, k=min(32, shape.d_transcoder))
    family, text = family_of(shape.config.model_type), (rows, torch.ones_like(rows, dtype=torch.bool))
    with threads(1) as pool:
        streams = captured(model, family, HOOKS, layers, text, pool)
        trainers = {layer: Trainer.started(*streams[layer], settings) for layer in layers}

        def step() -> None:
            new = captured(model, family, HOOKS, layers, text, pool)
            for layer, trainer in trainers.items():
                trainer.step(*new[layer])

        took = seconds(step, device)
    share = len(layers) / shape.config.num_hidden_layers
    flops = share * block_flops(model) + 10.0 * len(layers) * shape.d_transcoder * shape.config.hidden_size
    return {"tokens_per_s": rows.numel() / took, **_share(rows.numel() * flops / took, device)}


def attribution(shape: Shape, device: str) -> dict[str, float]:
    """A sequence frozen, and ten features of it attributed: CircuitLens."""
    model, coders = model_of(shape, device), coders_of(shape, device)
    model.set_attn_implementation("eager")
    linear = linear_model(model, family_of(shape.config.model_type), HOOKS)
    tokens, n_layers = rows_of(shape, device, shape.n_pos)[0], linear.n_layers
    draw = np.random.default_rng(0)
    layer, position = np.sort(draw.integers(0, n_layers, 10)), draw.integers(1, len(tokens), 10)
    until = read_until(layer, position, n_layers)

    def coder(at: int) -> Transcoder:
        return coders[at % len(coders)]

    def frozen_once():
        return freeze(linear, coder, tokens, until, keep_decoders=True)

    frozen = frozen_once()
    at = torch.from_numpy(position).to(device)
    each = [
        feature_targets(linear, frozen, int(one), coder(int(one)), torch.tensor([i], device=device), at[[i]])
        for i, one in enumerate(layer)
    ]
    targets = Targets(*(torch.cat(columns) for columns in zip(*each, strict=True)))
    freezing = seconds(frozen_once, device)
    sweep = seconds(lambda: list(contributions(linear, frozen, targets, max_bytes=256_000_000)), device)
    model.set_attn_implementation("sdpa")
    return {"frozen_ms": 1e3 * freezing, "sweep_ms": 1e3 * sweep, "targets_per_s": 10 / (freezing + sweep)}


def shape_for_peers(shape: Shape) -> dict[str, object]:
    """A shape as `circuitlens_peers_gpu.py` reads it: the model as TransformerLens configures one, and sizes."""
    config = shape.config
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    model: dict[str, object] = {
        "n_layers": config.num_hidden_layers, "d_model": config.hidden_size, "n_ctx": 1024, "d_head": d_head,
        "n_heads": config.num_attention_heads, "d_vocab": config.vocab_size,
    }  # fmt: skip
    if config.model_type == "gpt2":
        model |= {"d_mlp": 4 * config.hidden_size, "act_fn": "gelu_new", "normalization_type": "LN"}
    else:
        model |= {
            "d_mlp": config.intermediate_size, "act_fn": "silu", "normalization_type": "RMS", "gated_mlp": True,
            "final_rms": True, "positional_embedding_type": "rotary", "rotary_dim": d_head,
            "n_key_value_heads": config.num_key_value_heads,
        }  # fmt: skip
    if config.model_type == "gemma2":
        model |= {
            "act_fn": "gelu_pytorch_tanh", "attn_scores_soft_cap": 50.0, "output_logits_soft_cap": 30.0,
            "use_normalization_before_and_after": True,
        }  # fmt: skip
    d_transcoder, n_pos = shape.d_transcoder, shape.n_pos
    return {
        "model": model, "d_transcoder": d_transcoder, "n_pos": n_pos, "k": min(32, d_transcoder), "coders": shape.coders
    }  # fmt: skip


def steering(shape: Shape, device: str) -> dict[str, float]:
    """Continuations of ten tokens with a feature held: evaluation."""
    model, coders = model_of(shape, device), coders_of(shape, device)
    layer = shape.config.num_hidden_layers // 2
    prompts = rows_of(shape, device, 7 * shape.n_pos)[:, :8].repeat(shape.steered // 7 + 1, 1)[: shape.steered]
    of = SteerableModel(model, family_of(shape.config.model_type), HOOKS, lambda _: coders[0])
    held = Changes([FeatureChange(row, layer, row % 5).held_at(float(row % 7)) for row in range(len(prompts))])
    took = seconds(lambda: continuations(of, held, prompts, 7), device)
    return {"tokens_per_s": 7 * len(prompts) / took}


def _share(flops: float, device: str) -> dict[str, float]:
    """Of the rate of the device's own large products."""
    size = 8192 if device.startswith("cuda") else 512
    return {"tflops": flops / 1e12, "share_of_float32": flops / place_of(device, size).float32}


PARTS = {
    "device": hardware,
    "projections": projections,
    "corpus": corpus,
    "training": training,
    "attribution": attribution,
    "steering": steering,
}


def measure(part: str, shape: str, device: str) -> dict[str, object]:
    """A part's line."""
    found = PARTS[part](SHAPES[shape], device)
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in found.items()}
    about: dict[str, object] = {"benchmark": "gpu", "part": part, "shape": shape, "device": device}
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        about |= {"name": torch.cuda.get_device_name(device), "peak_gb": round(peak, 2)}
    return {**about, **rounded}
