"""Repositories of the Hugging Face Hub: the commit that a name means, and folders with only the files that are read.

Downloads are in huggingface_hub's own cache ($HF_HOME), where other programs find them too. A token comes from
$HF_TOKEN or `hf auth login`; only that library handles it.
"""

import errno
import glob
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import httpx2
from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import disable_progress_bars

from storage.hashing import short_hash

COMMIT = re.compile(r"[0-9a-f]{40}")

ATTEMPTS = 3
"""How often a download is resumed after its connection broke, before giving up."""


class RemoteFile(NamedTuple):
    """A file of a repository."""

    name: str
    n_bytes: int
    blob: str
    """Name of its content in the Hub's cache; empty if unknown."""


class UnreachableError(ValueError):
    """The Hub does not answer, and the cache does not have what was asked for."""


def resolve(repo: str, revision: str) -> str:
    """The commit that a branch, a tag or a commit names; without a network, the one it named last.

    Raises:
        ValueError: there is no such repository or revision, no access, or no network and no earlier answer.
    """
    if COMMIT.fullmatch(revision):
        return revision
    with _told(repo, revision):
        return HfApi().resolve_revision(repo, revision=revision).resolved


def references(repo: str) -> dict[str, str]:
    """The commits of a repository's branches and tags, by name.

    Raises:
        ValueError: there is no such repository, no access, or no network.
    """
    with _told(repo, "main"):
        found = HfApi().list_repo_refs(repo)
    return {ref.name: ref.target_commit for ref in (*found.tags, *found.branches)}


def select(repo: str, commit: str, patterns: Sequence[str]) -> list[RemoteFile]:
    """The files of a commit that match a pattern: `*` matches within a folder's name, `**` any folders.

    Raises:
        ValueError: none matches, or the Hub does not list them.
    """
    files = _files(repo, commit)
    chosen = [file for file in files if any(_matches(file.name.split("/"), p.split("/")) for p in patterns)]
    if not chosen:
        found = ", ".join(sorted(file.name for file in files)[:8]) or "nothing"
        raise ValueError(f"{repo} at {commit[:12]} has no file like {' or '.join(patterns)}; found {found}")
    return chosen


def missing(repo: str, commit: str, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The files that are not in the cache."""
    snapshot, blobs = _snapshot(repo, commit), _folder(repo) / "blobs"
    return [
        file
        for file in files
        if not (snapshot / file.name).is_file() and not (file.blob and (blobs / file.blob).is_file())
    ]


def fetch(repo: str, revision: str, patterns: Sequence[str]) -> tuple[Path, str]:
    """A folder with the files that match, and their commit; files that the cache lacks are downloaded.

    Completed files are never downloaded again. Progress is shown if there is a terminal.

    Raises:
        ValueError: there is no such repository, revision or file, no access, no network, or the disk is full.
    """
    commit = resolve(repo, revision)
    files = select(repo, commit, patterns)
    snapshot = _snapshot(repo, commit)
    if not all((snapshot / file.name).is_file() for file in files):
        _expect_room(repo, sum(file.n_bytes for file in missing(repo, commit, files)))
        with _told(repo, commit):
            _download(repo, commit, [file.name for file in files])
    with _told(repo, commit):
        return _linked(repo, commit, [file.name for file in files]), commit


def fetch_dataset(repo: str, revision: str, patterns: Sequence[str]) -> Path:
    """A folder with the files of a data set that match; files that the cache lacks are downloaded.

    Raises:
        ValueError: there is no such data set or revision, no access, no network, or no file matches.
    """
    with _told(repo, revision):
        folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    if not any(path.is_file() for path in folder.rglob("*")):
        raise ValueError(f"{repo} at {revision} has no file like {' or '.join(patterns)}")
    return folder


def remote_shapes(repo: str, commit: str, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file's tensors; only its header is downloaded."""
    with _told(repo, commit):
        header = HfApi().parse_safetensors_file_metadata(repo, name, revision=commit)
    return {tensor: tuple(info.shape) for tensor, info in header.tensors.items()}


def _download(repo: str, commit: str, names: list[str]) -> None:
    patterns = [glob.escape(name) for name in names]
    for attempt in range(ATTEMPTS):
        try:
            with nullcontext() if sys.stderr.isatty() else disable_progress_bars():
                snapshot_download(repo, revision=commit, allow_patterns=patterns)
        except httpx2.ReadError:  # other broken connections are already retried within a file
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def _files(repo: str, commit: str) -> list[RemoteFile]:
    try:
        return [RemoteFile(file.path, file.size, file.blob_id) for file in get_cached_repo_tree(repo, revision=commit)]
    except CachedRepoTreeNotFoundError:
        pass
    try:
        with _told(repo, commit):
            siblings = HfApi().model_info(repo, revision=commit, files_metadata=True).siblings or []
    except UnreachableError:
        snapshot = _snapshot(repo, commit)
        if not snapshot.is_dir():
            raise
        here = [path for path in snapshot.rglob("*") if path.is_file()]
        return [RemoteFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, "") for path in here]
    return [
        RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in siblings
    ]


def _matches(name: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(name[start:], pattern[1:]) for start in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _folder(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _snapshot(repo: str, commit: str) -> Path:
    return _folder(repo) / "snapshots" / commit


def linked_folders() -> Path:
    """The folder with folders of links to downloaded files."""
    return Path(constants.HF_HOME) / "circuit-insights"


def _linked(repo: str, commit: str, names: list[str]) -> Path:
    """A folder of links to these files only, since the cache's folder also has files downloaded for other purposes."""
    key = short_hash(commit=commit, names=sorted(names))
    folder = linked_folders() / f"{repo.replace('/', '--')}-{key}"
    for name in names:
        link, target = folder / name, (_snapshot(repo, commit) / name).absolute()
        if link.is_symlink() and link.readlink() == target:
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another run made it at the same time
            link.symlink_to(target)
    return folder


def _expect_room(repo: str, n_bytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
    if n_bytes > free:
        raise ValueError(
            f"{repo}: {n_bytes / 1e9:.1f} GB to download, {free / 1e9:.1f} GB free in {cache}; "
            "make room, or set HF_HOME to a folder on another disk"
        )


@contextmanager
def _told(repo: str, revision: str) -> Iterator[None]:
    """The error as a sentence. Requests, which contain the token, are never part of it."""
    try:
        yield
    except (httpx2.HTTPError, OSError, RevisionResolutionError) as error:
        raise _explained(error, repo, revision) from None


def _explained(error: BaseException, repo: str, revision: str) -> ValueError:
    cause: BaseException | None = error
    while cause is not None:  # huggingface_hub wraps refusals in "not found here"
        if isinstance(cause, HfHubHTTPError):
            return _refused(cause, repo, revision)
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return ValueError(
                f"{repo}: disk full while downloading to {constants.HF_HUB_CACHE}; finished files are kept: "
                "make room and run the same command again, or set HF_HOME to a folder on another disk"
            )
        cause = cause.__cause__
    if isinstance(error, httpx2.TransportError | LocalEntryNotFoundError | RevisionResolutionError):
        return UnreachableError(f"{repo} at {revision}: {_no_connection()}")
    if isinstance(error, OfflineModeIsEnabled):
        return UnreachableError(f"{repo} at {revision} is not in the cache, and HF_HUB_OFFLINE is set")
    return ValueError(f"{repo} at {revision}: the download failed ({' '.join(str(error).split())[:200]})")


def _no_connection() -> str:
    if constants.is_offline_mode():
        return f"not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set"
    return (
        f"no connection to {constants.ENDPOINT}, and not whole in the cache {constants.HF_HUB_CACHE}; "
        "finished files are kept: run the same command again when there is a network"
    )


def _refused(error: HfHubHTTPError, repo: str, revision: str) -> ValueError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return ValueError(
            f"{repo} is gated: accept its licence at {constants.ENDPOINT}/{repo}, "
            "then set HF_TOKEN to an access token of that account"
        )
    if isinstance(error, RevisionNotFoundError):
        return ValueError(f"{repo} has no revision '{revision}'")
    if isinstance(error, RepositoryNotFoundError):
        return ValueError(
            f"no repository {repo} at {constants.ENDPOINT}; if it is a private one, set HF_TOKEN to an access token"
        )
    if status == 401:
        return ValueError(f"{repo}: {constants.ENDPOINT} does not know the access token in HF_TOKEN")
    if status >= 500:
        return UnreachableError(f"{repo} at {revision}: {constants.ENDPOINT} answers {status}; try again later")
    return ValueError(f"{repo} at {revision}: {constants.ENDPOINT} answers {status}")
