"""Run by the oracles' Python: tdhook's input-invariant analysis of every feature of some weights.

Reads a safetensors file (`W_E`, `W_U` (d_vocab, d_model); `encoder.N`, `decoder.N` (d_transcoder, d_model), as the
projections see them) and settings as JSON; writes one JSON line a feature.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file
from tdhook.weights import analyze_input_invariant_feature


def main(weights: str, settings: str, output: str) -> None:
    tensors = load_file(weights)
    n_layers = sum(name.startswith("encoder.") for name in tensors)
    encoders = [tensors[f"encoder.{layer}"].T for layer in range(n_layers)]
    decoders = [tensors[f"decoder.{layer}"] for layer in range(n_layers)]
    outputs = [tensors[f"output_decoder.{layer}"] for layer in range(n_layers)]
    with Path(output).open("w") as file:
        for layer, encoder in enumerate(encoders):
            for feature in range(encoder.shape[1]):
                found = analyze_input_invariant_feature(
                    feature_layer=layer,
                    feature_index=feature,
                    embedding=tensors["W_E"],
                    unembedding=tensors["W_U"].T,
                    feature_encoders=encoders,
                    feature_decoders=[*decoders[:layer], *outputs[layer:]],
                    **json.loads(settings),
                )
                file.write(json.dumps(found.to_dict()) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
