"""Run by the oracles' Python: circuit-tracer's attribution graph of a GPT-2, and how it prunes it.

Reads a folder with a GPT-2 of transformers, a folder with transcoders in circuit-tracer's layout, and tokens; writes a
safetensors file with the active features (layer, position, feature), the edges, the logits, and what pruning keeps.
"""

import json
import sys
from pathlib import Path

import torch
import yaml
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.graph import compute_graph_scores, prune_graph
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

TOKENIZER = {
    "decode": lambda *_: "token", "all_special_ids": [0], "padding_side": "right", "bos_token_id": 0,
    "eos_token_id": 0, "pad_token_id": 0, "vocab_size": 0,
}  # fmt: skip


def replacement_model(model_path: Path, transcoder_path: Path) -> TransformerLensReplacementModel:
    theirs = GPT2LMHeadModel.from_pretrained(model_path)
    c = theirs.config
    config = HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, d_head=c.n_embd // c.n_head, n_heads=c.n_head,
        d_mlp=c.n_inner or 4 * c.n_embd, d_vocab=c.vocab_size, eps=c.layer_norm_epsilon, act_fn="gelu_new",
        normalization_type="LN", model_name="local", default_prepend_bos=False, device="cpu",
    )  # fmt: skip
    model = TransformerLensReplacementModel(config)
    state = convert_gpt2_weights(theirs, config)
    model.load_state_dict(state, strict=False)
    settings = yaml.safe_load((transcoder_path / "config.yaml").read_text())
    coders = {}
    for layer in range(c.n_layer):
        tensors = load_file(transcoder_path / f"layer_{layer}.safetensors")
        activation = torch.nn.ReLU()
        if settings.get("activation") == "topk":  # theirs alone would keep negative ones among the k greatest
            activation = torch.nn.Sequential(TopK(settings["k"]), activation)
        d_transcoder, d_model = tensors["W_enc"].shape
        coder = SingleLayerTranscoder(
            d_model, d_transcoder, activation, layer, device=torch.device("cpu"), dtype=torch.float32
        )
        coder.load_state_dict({name: tensors[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")})
        coders[layer] = coder
    model._configure_replacement_model(
        TranscoderSet(coders, settings["feature_input_hook"], settings["feature_output_hook"])
    )
    TOKENIZER["vocab_size"] = c.vocab_size
    model.tokenizer = type("Tokenizer", (), TOKENIZER)()
    return model


def main(model_path: str, transcoder_path: str, tokens: str, output: str) -> None:
    model = replacement_model(Path(model_path), Path(transcoder_path))
    ids = torch.tensor(json.loads(tokens))
    graph = attribute(ids, model, max_n_logits=5, desired_logit_prob=0.9, batch_size=64)
    pruned = prune_graph(graph, 0.8, 0.95)
    save_file(
        {
            "active": graph.active_features.contiguous(),
            "selected": graph.selected_features.contiguous(),
            "edges": graph.adjacency_matrix.contiguous(),
            "logits": graph.logit_token_ids.contiguous(),
            "probability": graph.logit_probabilities.contiguous(),
            "kept_nodes": pruned.node_mask.contiguous(),
            "kept_edges": pruned.edge_mask.contiguous(),
            "influence": pruned.cumulative_scores.contiguous(),
            "scores": torch.tensor(compute_graph_scores(graph), dtype=torch.float64),
        },
        output,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
