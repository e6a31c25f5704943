"""The content of a store: every kind of file, what it is made from, how it is checked, and what follows its removal.

Vacuum, doctor and every check for damage use this description of the store's layout and no other. `docs/design.md`
shows the same as a tree.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

PARTIAL = ".partial"
"""Suffix of files that are being written; leftovers are removed when the next run locks the store."""

UNFINISHED = ".unfinished"
"""Suffix of a corpus that is still being tokenised. It outlives its run, so that a later one can continue it."""

MIRROR = ".mirror"
"""Folder in a store that is a mirror of a bucket; see `storage.bucket.mirror`."""


class Check(StrEnum):
    """How damage to a file is found when it is read."""

    STAMP = "a CRC-32C of all its bytes, in the file itself"
    CHUNK = "a CRC-32C after each chunk; for zarr.json, one in the file itself"
    ARRAY = "a CRC-32 of each array in the block's zarr.json"
    ZIP = "the CRC-32 of each array in the zip archive"
    DUCKDB = "DuckDB's checksum of each block"
    NONE = "nothing: no computation reads it"


class Origin(StrEnum):
    """Where a file comes from, which decides whether a repair may remove it."""

    INGESTED = "files outside the store"
    """Never removed by a repair, since the original files may no longer exist."""
    DERIVED = "other files of the store"
    """Removed by a repair; the next run computes it again."""
    STATE = "the catalog and records of runs"


class Owner(StrEnum):
    """How `vacuum` decides whether a folder or file is needed, by its name."""

    CHECKPOINT = "a checkpoint of the catalog"
    CORPUS = "a corpus of the catalog"
    TRANSCODERS = "the transcoders of a checkpoint of the catalog"
    RECIPE = "a recipe whose output is in the catalog"
    INDEX = "an index: needed as long as one of the recipes that it names has output"
    ANSWERS = "answers that were paid for: removed only on request"
    STORE = "the store itself"


class Kind(NamedTuple):
    """One kind of file."""

    name: str
    pattern: str
    """Its path from the store's root. `*` matches within a name, `**` any number of folders and a name."""
    n_unit: int
    """Number of names at the start of the path that give the folder or file to remove if this one is damaged."""
    origin: Origin
    made_from: tuple[str, ...]
    """Names of other kinds that it is made from."""
    check: Check
    owner: Owner
    again: str
    """What the next run does after the removal."""

    @property
    def folder(self) -> str:
        """The store's folder that it is in, or its own name at the top of the store."""
        return self.pattern.split("/")[0]

    @property
    def is_repaired(self) -> bool:
        """Whether a repair removes a damaged file, or makes it again."""
        return self.origin is Origin.DERIVED or self.check is Check.DUCKDB or self.name == "fingerprints"

    def matches(self, path: str) -> bool:
        """Whether a file at this path, from the store's root, is of this kind."""
        return _regex(self.pattern).fullmatch(path) is not None


def _regex(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", "[^/]*")
    return re.compile(escaped)


_WEIGHTS = "the checkpoint is ingested again from the files of its model and transcoders"
_TOKENS = "the corpus is tokenised again from its source"
_SHARD = "this shard is computed again and loaded"

KINDS = (
    Kind("embeddings", "checkpoints/*/W_E/**", 2, Origin.INGESTED, (), Check.CHUNK, Owner.CHECKPOINT, _WEIGHTS),
    Kind("unembeddings", "checkpoints/*/W_U/**", 2, Origin.INGESTED, (), Check.CHUNK, Owner.CHECKPOINT, _WEIGHTS),
    Kind("final norm", "checkpoints/*/final_weight/**", 2, Origin.INGESTED, (), Check.CHUNK, Owner.CHECKPOINT,
         _WEIGHTS),
    Kind("layer receipt", "checkpoints/*/layers/*/receipt.json", 2, Origin.INGESTED, (), Check.STAMP, Owner.CHECKPOINT,
         _WEIGHTS),
    Kind("transcoder layer", "checkpoints/*/layers/*/**", 2, Origin.INGESTED, (), Check.CHUNK, Owner.CHECKPOINT,
         _WEIGHTS),
    Kind("provenance", "checkpoints/*/zarr.json", 2, Origin.INGESTED, (), Check.STAMP, Owner.CHECKPOINT, _WEIGHTS),
    Kind("checkpoint receipt", "checkpoints/*/receipt.json", 2, Origin.INGESTED, (), Check.STAMP, Owner.CHECKPOINT,
         _WEIGHTS),
    Kind("quality", "checkpoints/*/quality/*/*.json", 5, Origin.DERIVED, ("corpus",), Check.STAMP, Owner.CHECKPOINT,
         "the layer is measured again"),
    Kind("single-token block", "checkpoints/*/single_token*/block-*.safetensors", 4, Origin.DERIVED,
         ("transcoder layer",), Check.STAMP, Owner.CHECKPOINT, "the block of the vocabulary is run again"),
    Kind("single-token activations", "checkpoints/*/single_token*/*/**", 4, Origin.DERIVED, ("transcoder layer",),
         Check.CHUNK, Owner.CHECKPOINT, "the vocabulary is run through the layer again"),
    Kind("unfinished corpus", f"corpora/*{UNFINISHED}/**", 2, Origin.INGESTED, (), Check.CHUNK, Owner.CORPUS, _TOKENS),
    Kind("corpus", "corpora/*/**", 2, Origin.INGESTED, (), Check.CHUNK, Owner.CORPUS, _TOKENS),
    Kind("trained transcoders", "transcoders/*/*.safetensors", 2, Origin.INGESTED, ("corpus",), Check.STAMP,
         Owner.TRANSCODERS, "the transcoders are trained again"),
    Kind("training record", "transcoders/*/*", 2, Origin.INGESTED, ("corpus",), Check.NONE, Owner.TRANSCODERS,
         "the transcoders are trained again"),
    Kind("activations", "activations/*/rows-*/**", 3, Origin.DERIVED, ("transcoder layer", "corpus"), Check.ARRAY,
         Owner.RECIPE, "these rows are run through the model again"),
    Kind("packed activations", "activations/*/packed-*/**", 3, Origin.DERIVED, ("transcoder layer", "corpus"),
         Check.CHUNK, Owner.RECIPE, "these rows are run through the model again"),
    Kind("co-activation", "coactivation/*/*/**", 3, Origin.DERIVED, ("activations", "packed activations"),
         Check.CHUNK, Owner.RECIPE, "the matrices of this pair of layers are summed up again"),
    Kind("attributed samples", "parts/attributions/*/**", 4, Origin.DERIVED, ("parts",), Check.STAMP, Owner.RECIPE,
         "this block of rows is attributed, or the samples are put in order of rows, again"),
    Kind("calls", "parts/llm_calls/*/*", 4, Origin.DERIVED, ("answers",), Check.STAMP, Owner.RECIPE,
         "nothing: the catalog keeps the rows that it has"),
    Kind("parts", "parts/*/*/**", 5, Origin.DERIVED,
         ("transcoder layer", "single-token activations", "activations", "packed activations", "co-activation",
          "attributed samples", "held-out material", "judgements", "answers"),
         Check.STAMP, Owner.RECIPE, _SHARD),
    Kind("index of equal outputs", "equals/*.json", 2, Origin.DERIVED, ("transcoder layer",), Check.STAMP, Owner.INDEX,
         "nothing; outputs of other checkpoints with these inputs are no longer found"),
    Kind("judgements", "evaluation/*/judged/*.parquet", 4, Origin.DERIVED, ("held-out material", "answers"),
         Check.STAMP, Owner.RECIPE, "the layer is judged again"),
    Kind("held-out material", "evaluation/*/*/*.npz", 4, Origin.DERIVED, ("corpus", "transcoder layer", "parts"),
         Check.ZIP, Owner.RECIPE, "the texts are read again, or the model is steered again"),
    Kind("figures of reports", "reports/*/*.json", 3, Origin.DERIVED, ("parts", "activations"), Check.STAMP,
         Owner.RECIPE, "the figures are computed again"),
    Kind("reports", "reports/*/*", 3, Origin.DERIVED, ("parts",), Check.NONE, Owner.RECIPE,
         "the report is drawn again"),
    Kind("open batches", "answers/batches/*.json", 3, Origin.STATE, (), Check.STAMP, Owner.ANSWERS,
         "its questions are asked, and paid for, again"),
    Kind("answers", "answers/*/*.json", 3, Origin.DERIVED, (), Check.STAMP, Owner.ANSWERS,
         "the question is asked, and paid for, again"),
    Kind("catalog", "catalog.duckdb", 1, Origin.STATE, ("parts",), Check.DUCKDB, Owner.STORE,
         "the catalog is made again from its published copy and the parts"),
    Kind("log of the catalog", "catalog*.duckdb.wal", 1, Origin.STATE, (), Check.DUCKDB, Owner.STORE, "nothing"),
    Kind("published catalog", "catalog.published.duckdb", 1, Origin.STATE, ("catalog",), Check.DUCKDB, Owner.STORE,
         "it is copied again from catalog.duckdb"),
    Kind("catalog set aside", "catalog.damaged-*.duckdb", 1, Origin.STATE, (), Check.NONE, Owner.STORE, "nothing"),
    Kind("search index", "catalog.search.sqlite", 1, Origin.DERIVED, ("catalog",), Check.NONE, Owner.STORE,
         "it is made again from the catalog"),
    Kind("fingerprints", "fingerprints.json", 1, Origin.STATE, (), Check.STAMP, Owner.STORE,
         "the source files are hashed again"),
    Kind("lock", "lock", 1, Origin.STATE, (), Check.NONE, Owner.STORE, "nothing"),
    Kind("mirror's notes", f"{MIRROR}/**", 2, Origin.STATE, (), Check.STAMP, Owner.STORE,
         "files are compared with the bucket's again"),
)  # fmt: skip
"""Every kind of file. A file is of the first kind that matches its path."""

FOLDERS = tuple(sorted({kind.folder for kind in KINDS if "/" in kind.pattern and kind.folder != MIRROR}))
"""The store's folders."""

FILES = tuple(kind.pattern for kind in KINDS if "/" not in kind.pattern and "*" not in kind.pattern)
"""All names that a store may have at its top."""


def kind_of(path: str) -> Kind | None:
    """The kind of a file by its path from the store's root; None if a store has no such file."""
    return next((kind for kind in KINDS if kind.matches(path)), None)


class Place(NamedTuple):
    """A file, and what is to be removed with it."""

    root: Path
    kind: Kind
    unit: Path
    """The folder or file that is removed."""


def placed(path: Path) -> Place | None:
    """The store of a file, and its kind there, from its path alone; None if it is not in a store."""
    tops = {kind.folder for kind in KINDS}
    for at in range(len(path.parts) - 1, -1, -1):
        name = path.parts[at]
        if name in tops or name.startswith("catalog."):
            name = "/".join(path.parts[at:])
            kind = kind_of(name) or kind_of(f"{name}/zarr.json")  # a file, or the folder of an array or a group
            if kind is not None:
                n = min(kind.n_unit, len(path.parts) - at)
                return Place(Path(*path.parts[:at]), kind, Path(*path.parts[: at + n]))
    return None


def remedy(path: Path) -> str:
    """What to do about a damaged file of a store, in words."""
    found = placed(path)
    if found is None:
        return "remove it and run again"
    root, kind, unit = found
    if kind.is_repaired:
        return (
            f"run `circuit-insights doctor --store {root} --repair`, which removes {unit.relative_to(root)}: "
            f"{kind.again}"
        )
    return f"remove {unit} and run again; then {kind.again}"
