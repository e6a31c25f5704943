"""Transcoder releases on disk. Each format is one file with an `open_…` function that returns a `TranscoderFolder`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from interp.capture import InputHook, OutputHook
from storage.foreign import check_path
from storage.formats.autoencoders import refuse_autoencoder_folder
from storage.formats.circuit_tracer import lists_layers, open_circuit_tracer
from storage.formats.circuit_tracer_clt import open_circuit_tracer_clt
from storage.formats.dunefsky import open_dunefsky
from storage.formats.folder import TranscoderFolder, refuse_links_out
from storage.formats.gemma_scope import open_gemma_scope
from storage.formats.gemma_scope_2 import KINDS as GEMMA_SCOPE_2_KINDS
from storage.formats.gemma_scope_2 import open_gemma_scope_2
from storage.formats.gemma_scope_2_clt import open_gemma_scope_2_clt
from storage.formats.hooks import HookNames
from storage.formats.llamascopium import open_llamascopium
from storage.formats.sae_lens import open_sae_lens
from storage.formats.sparsify import open_sparsify

__all__ = ["TranscoderFolder", "open_transcoders"]


class Format(NamedTuple):
    """How a format is recognised and opened."""

    expected: str
    patterns: tuple[str, ...]
    """A folder is of this format if it has a file that matches one of these patterns."""
    open: Callable[[Path, HookNames], TranscoderFolder]
    beside: str | None = None
    """A file that must be in the same folder, where two formats use the same name for weights."""

    def is_in(self, path: Path) -> bool:
        """Whether a folder has files of this format."""
        files = (file for pattern in self.patterns for file in path.glob(pattern))
        return any(self.beside is None or file.with_name(self.beside).is_file() for file in files)


CIRCUIT_TRACER = Format(
    "config.yaml with layer_N.safetensors (circuit-tracer)", ("layer_*.safetensors",), open_circuit_tracer
)

FORMATS = (
    CIRCUIT_TRACER,
    Format(
        "config.yaml with W_enc_N.safetensors and W_dec_N.safetensors (circuit-tracer's cross-layer transcoders)",
        ("W_enc_*.safetensors", "W_dec_*.safetensors"),
        open_circuit_tracer_clt,
    ),
    Format("layer_N/width_…/average_l0_…/params.npz (Gemma Scope)", ("layer_*/**/params.npz",), open_gemma_scope),
    Format(
        "layer_N_width_…/params.safetensors (Gemma Scope 2)",
        ("layer_*/params.safetensors", *(f"{kind}/layer_*/params.safetensors" for kind in GEMMA_SCOPE_2_KINDS)),
        open_gemma_scope_2,
    ),
    Format(
        "params_layer_N.safetensors (Gemma Scope 2's cross-layer transcoders)",
        ("**/params_layer_*.safetensors",),
        open_gemma_scope_2_clt,
    ),
    Format("…_blocks.N.ln2.hook_normalized_….pt (Dunefsky et al.)", ("*_blocks.*.pt",), open_dunefsky),
    Format(
        "…/sae_weights.safetensors with cfg.json (SAELens)",
        ("**/sae_weights.safetensors",),
        open_sae_lens,
        beside="cfg.json",
    ),
    Format(
        "…/sae_weights.safetensors with config.json (Llamascopium)",
        ("**/sae_weights.safetensors",),
        open_llamascopium,
        beside="config.json",
    ),
    Format("layers.N.mlp/sae.safetensors with cfg.json (sparsify)", ("*/sae.safetensors",), open_sparsify),
)


def open_transcoders(
    path: Path,
    model_type: str,
    input_hook: InputHook | None = None,
    output_hook: OutputHook | None = None,
    only: tuple[int, ...] | None = None,
) -> TranscoderFolder:
    """Recognise the format of a folder by its files and open it. No weights are read yet.

    `model_type` is the model's `config.model_type`, on which the meaning of hook names depends. `input_hook` and
    `output_hook` override those that the folder names; only the layers `only` are read.

    Raises:
        ValueError: the folder does not exist, its format is unknown or ambiguous, a link leads out of the folder, or a
            setting or layer file does not fit.
    """
    if not check_path(path).is_dir():
        raise ValueError(f"transcoder.path: no folder {path}")
    refuse_links_out(path)
    found = [known for known in FORMATS if known.is_in(path)]
    if lists_layers(path):
        found = [CIRCUIT_TRACER]  # its config.yaml lists the files to read
    if len(found) == 1:
        return found[0].open(path, HookNames(model_type, input_hook, output_hook, only))
    names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    if not found:
        refuse_autoencoder_folder(path)
    if found:
        raise ValueError(
            f"transcoder.path: {path} holds files of several formats: " + "; ".join(one.expected for one in found)
        )
    expected = "; ".join(known.expected for known in FORMATS)
    raise ValueError(f"transcoder.path: {path} is not a known transcoder folder; found {names}; expected {expected}")
