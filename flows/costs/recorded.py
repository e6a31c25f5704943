"""Recorded sizes of the presets' models and transcoders, for a plan without a network."""

from pathlib import Path

import yaml

from configs.run import RunConfig
from flows.costs.sizes import Sizes, guessed_tokens

RECORDED = Path(__file__).with_name("recorded_sizes.yaml")


def recorded_sizes(config: RunConfig) -> Sizes | None:
    """The sizes of the configuration's model and transcoders on the Hub, from `recorded_sizes.yaml`.

    None if it does not have both.
    """
    table = yaml.safe_load(RECORDED.read_text(encoding="utf-8"))
    model = table["models"].get(config.model.repo)
    release = table["transcoders"].get(config.transcoder.repo)
    if model is None or release is None:
        return None
    return Sizes(
        n_layers=model["n_layers"],
        d_model=model["d_model"],
        n_tokens=model["n_tokens"],
        n_weights=model["n_weights"],
        d_transcoder=release["d_transcoder"],
        n_bytes=model["n_bytes"] + release["n_bytes"],
        corpus_tokens=guessed_tokens(config),
        n_embeddings=model["n_embeddings"],
    )
