"""What delphi's own reader finds in an exported folder: `python delphi_latents.py FOLDER MODEL OUTPUT`.

Writes, as JSON, of every hookpoint its latents with their number of activations, the greatest of these and its token,
and every explanation by method and latent.
"""

import json
import sys
from pathlib import Path

from delphi.config import ConstructorConfig, SamplerConfig
from delphi.latents import LatentDataset
from transformers import PreTrainedTokenizerFast


def main() -> None:
    folder, model, output = map(Path, sys.argv[1:])
    modules = sorted(path.name for path in (folder / "latents").iterdir())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
    dataset = LatentDataset(folder / "latents", SamplerConfig(), ConstructorConfig(), tokenizer, modules)
    found: dict[str, dict[str, list[float]]] = {module: {} for module in modules}
    for buffer in dataset.buffers:
        for data in buffer:
            assert buffer.tokens is not None
            activations, locations = data.activation_data.activations, data.activation_data.locations
            best = int(activations.argmax())
            row, position = locations[best, 0], locations[best, 1]
            token = int(buffer.tokens[row, position])
            found[data.module][str(data.latent.latent_index)] = [len(activations), float(activations[best]), token]
    explanations = {
        path.relative_to(folder / "explanations").as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in (folder / "explanations").rglob("*.txt")
    }
    output.write_text(json.dumps({"latents": found, "explanations": explanations}), encoding="utf-8")


main()
