"""Transcoder releases on disk. Each format is one file with an `open_…` that returns a `TranscoderFolder`."""

from pathlib import Path

from storage.formats.circuit_tracer import open_circuit_tracer
from storage.formats.folder import TranscoderFolder

__all__ = ["TranscoderFolder", "open_transcoders"]


def open_transcoders(path: Path) -> TranscoderFolder:
    """Recognise a folder's format by its files and open it. No weights are read yet.

    Raises:
        ValueError: no such folder, unknown format, or a setting or layer file that does not fit.
    """
    if not path.is_dir():
        raise ValueError(f"transcoder.path: no folder {path}")
    if (path / "config.yaml").is_file():
        return open_circuit_tracer(path)
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise ValueError(
        f"transcoder.path: {path} is not a known transcoder folder; found {found}; "
        "expected config.yaml with layer_N.safetensors (circuit-tracer)"
    )
