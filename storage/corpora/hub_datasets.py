"""Datasets on the Hugging Face Hub, pinned to a commit and read in ranges, never downloaded whole."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from urllib.parse import unquote

from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

HUB = "hf://datasets/"
_SOURCE = re.compile(HUB + r"([\w.-]+/[\w.-]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?/(.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OFFLINE = "to try without a network, set corpus.source=python-docs"

BYTES_PER_REQUEST = 2**23


def pin(source: str) -> str:
    """The source at the commit that its revision currently means. A full commit is taken as it is, without the network.

    Raises:
        ValueError: the name has another form, or the dataset is missing, gated or cannot be reached.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise ValueError(
            f"corpus: {source} is not a Hub dataset's files; expected {HUB}OWNER/NAME[@REVISION]/PATH, "
            "where PATH is a file, a folder or a glob like data/*.parquet"
        )
    name, revision, path = match.groups()
    revision = unquote(revision or "main")
    if not _COMMIT.fullmatch(revision):
        with _told(source):
            revision = HfApi().dataset_info(name, revision=revision).sha
    return f"{HUB}{name}@{revision}/{path}"


def remote_files(source: str) -> list[str]:
    """The files of a pinned source, in the order of their names, without hidden ones.

    Raises:
        ValueError: there are none, or the Hub does not list them.
    """
    path = source.removeprefix("hf://")
    with _told(source):
        files = HfFileSystem()
        found = files.glob(path) if any(c in path for c in "*?[") else files.find(path)
        names = [f"hf://{name}" for name in sorted(found) if files.isfile(name)]
    names = [name for name in names if "/." not in name]
    if not names:
        raise ValueError(f"corpus: no files {source}")
    return names


def open_remote(name: str) -> IO[bytes]:
    """Open a file of a pinned source, read in ranges of `BYTES_PER_REQUEST`."""
    with _told(name):
        file = HfFileSystem().open(name, "rb", block_size=BYTES_PER_REQUEST)
    return io.BufferedReader(file, 2**16)  # pyright: ignore[reportArgumentType]


@contextmanager
def _told(source: str) -> Iterator[None]:
    try:
        yield
    except GatedRepoError:
        problem = "is gated: accept its terms on its page, then set HF_TOKEN to a token of yours"
    except RevisionNotFoundError:
        problem = "has no such revision"
    except RepositoryNotFoundError:
        problem = "is not on the Hub, or is private: then set HF_TOKEN"
    except OfflineModeIsEnabled:
        problem = f"cannot be reached: HF_HUB_OFFLINE is set; {_OFFLINE}"
    except FileNotFoundError as error:
        problem = f"has no such file ({error})"
    except Exception as error:  # the Hub's client raises whatever its transports do
        problem = f"cannot be reached ({type(error).__name__}: {' '.join(str(error).split())[:200]}); {_OFFLINE}"
    else:
        return
    raise ValueError(f"corpus: {source} {problem}")
