"""Where the model and the transcoders of a configuration come from: local folders, or repositories of the Hub."""

from pathlib import Path
from typing import NamedTuple

from configs.inputs import ModelConfig, TranscoderConfig
from configs.run import RunConfig
from storage.formats.autoencoders import place_of_repo
from storage.hub import RemoteFile, fetch, missing, resolve, select
from storage.models import SETTINGS_FILES

MODEL_FILES = (*SETTINGS_FILES, "*.safetensors", "model.safetensors.index.json")
"""Files of a model's repository that are read. Never code, nor a format that can contain code."""

TRANSCODER_FILES = tuple(f"**/*.{suffix}" for suffix in ("safetensors", "npz", "pt", "json", "yaml", "yml"))
"""Files of a release's repository that are read, unless the configuration names fewer."""


class Origin(NamedTuple):
    """A local folder and where it came from."""

    path: Path
    name: str
    """The repository's id; for a folder, its path."""
    commit: str | None
    """None for a folder."""


def pinned(config: RunConfig) -> RunConfig:
    """The configuration with commits in place of branches and tags, so that the whole run reads the same files.

    Raises:
        ValueError: no such repository or revision, no access, no network and never seen, or one of
            autoencoders that are not read.
    """
    sections: dict[str, ModelConfig | TranscoderConfig] = {}
    for name, section in (("model", config.model), ("transcoder", config.transcoder)):
        if section.repo is not None:
            if name == "transcoder":
                place_of_repo(section.repo)  # refuses some before anything is downloaded
            commit = resolve(section.repo, section.revision)
            sections[name] = section.model_copy(update={"revision": commit})
    return config.model_copy(update=sections)


def model_origin(model: ModelConfig) -> Origin:
    """The model's folder; a repository is downloaded."""
    if model.repo is not None:
        path, commit = fetch(model.repo, model.revision, MODEL_FILES)
        return Origin(path, model.repo, commit)
    assert model.path is not None
    return Origin(model.path, str(model.path), None)


def transcoder_origin(transcoder: TranscoderConfig) -> Origin | None:
    """The release's folder; a repository is downloaded. None if transcoders are trained."""
    if transcoder.repo is not None:
        path, commit = fetch(transcoder.repo, transcoder.revision, transcoder_files(transcoder))
        return Origin(path / (transcoder.subfolder or ""), transcoder.repo, commit)
    return None if transcoder.path is None else Origin(transcoder.path, str(transcoder.path), None)


def transcoder_files(transcoder: TranscoderConfig) -> tuple[str, ...]:
    """Patterns of the files of a release's repository."""
    if transcoder.files is not None:
        return transcoder.files
    below = f"{transcoder.subfolder.strip('/')}/" if transcoder.subfolder else ""
    return tuple(below + pattern for pattern in TRANSCODER_FILES)


def to_download(config: RunConfig) -> list[RemoteFile]:
    """The files of a pinned configuration on the Hub that are not in the cache."""
    files = []
    for section, patterns in (
        (config.model, MODEL_FILES),
        (config.transcoder, transcoder_files(config.transcoder)),
    ):
        if section.repo is not None:
            chosen = select(section.repo, section.revision, patterns)
            files += missing(section.repo, section.revision, chosen)
    return files
