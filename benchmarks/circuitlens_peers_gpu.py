"""circuit-tracer on the shapes of `benchmarks.gpu`, which runs this by the oracles' Python (`make oracles`).

    python benchmarks/circuitlens_peers_gpu.py DEVICE SHAPE

SHAPE is a JSON object, by `benchmarks.gpu_parts.shape_for_peers`: keyword arguments of TransformerLens's configuration,
and the sizes of transcoders and prompt. Weights are random. Prints one JSON object: milliseconds for a prompt that
is made ready, and for ten of its features attributed in one batch.
"""

import json
import sys
import time
from typing import Any

import torch
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from transformer_lens import HookedTransformerConfig

N_TARGETS = 10
LEAST_S = 0.2


def replacement_model(shape: dict[str, Any], device: torch.device) -> TransformerLensReplacementModel:
    """A model of random weights with TopK transcoders of random weights, which its layers share."""
    config = HookedTransformerConfig(
        **shape["model"], model_name="local", default_prepend_bos=False, device=str(device)
    )
    torch.manual_seed(0)
    model = TransformerLensReplacementModel(config)
    coders = {}
    for layer in range(config.n_layers):
        activation = torch.nn.Sequential(TopK(shape["k"]), torch.nn.ReLU())
        coder = SingleLayerTranscoder(
            config.d_model, shape["d_transcoder"], activation, layer, device=device, dtype=torch.float32
        )
        for name in ("W_enc", "W_dec"):
            weight = getattr(coders[layer % shape["coders"]], name) if layer >= shape["coders"] else None
            if weight is None:
                weight = torch.nn.Parameter(
                    torch.randn(shape["d_transcoder"], config.d_model, device=device) / config.d_model**0.5
                )
            setattr(coder, name, weight)
        for bias in (coder.b_enc, coder.b_dec):
            torch.nn.init.zeros_(bias)
        coders[layer] = coder
    model._configure_replacement_model(TranscoderSet(coders, "ln2.hook_normalized", "hook_mlp_out"))
    tokenizer = {
        "decode": lambda *_: "token", "all_special_ids": [0], "padding_side": "right", "bos_token_id": 0,
        "eos_token_id": 0, "pad_token_id": 0, "vocab_size": config.d_vocab,
    }  # fmt: skip
    model.tokenizer = type("Tokenizer", (), tokenizer)()
    return model


def main(device_name: str, shape: dict[str, Any]) -> None:
    """Measure and print."""
    device = torch.device(device_name)

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    model = replacement_model(shape, device)
    tokens = torch.randint(3, shape["model"]["d_vocab"], (shape["n_pos"],), device=device)

    def prepared() -> Any:
        context = model.setup_attribution(tokens)
        model.run_forward_pass(tokens, N_TARGETS, context)
        return context

    prepared()  # warms up
    began = wait()
    context = prepared()
    prompt_s = wait() - began
    layers, positions, _ = context.activation_matrix.indices()
    some = torch.linspace(0, len(layers) - 1, N_TARGETS, device=layers.device).long()
    vectors = context.encoder_vecs[some.to(context.encoder_vecs.device)]

    def batch() -> None:
        context.compute_batch(layers[some], positions[some], vectors)

    batch()
    began, n = wait(), 0
    while n == 0 or wait() - began < LEAST_S:
        batch()
        n += 1
    batch_s = (wait() - began) / n
    print(json.dumps({
        "frozen_ms": 1e3 * prompt_s, "sweep_ms": 1e3 * batch_s, "targets_per_s": N_TARGETS / (prompt_s + batch_s)
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
