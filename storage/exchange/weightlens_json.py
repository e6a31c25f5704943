"""The files of the authors' WeightLens, `feature_analysis_layer_N.json`: their content, and reading them.

Each is an array with one object for each feature. `weightlens_export` writes them from a catalog, `weightlens_import`
makes rows of a catalog from them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.foreign import MAX_DIGITS, check_path

FILE = re.compile(r"feature_analysis_layer_([0-9]{1,4})\.json")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class FeatureKey(_Part):
    """Layer and index of a feature."""

    layer: int
    feature_idx: int


class Embedding(_Part):
    """Input tokens; only the upper tail has activations."""

    top_positive_tokens: list[str]
    top_negative_tokens: list[str]
    positive_tokens_activation: list[float]
    top_positive_token_ids: list[int]
    top_positive_tokens_contribution: list[float]
    top_negative_tokens_ids: list[int]
    top_negative_tokens_contribution: list[float]
    top_positive_tokens_relative_contribution: list[float]
    top_negative_tokens_relative_contribution: list[float]


class OutputLogits(_Part):
    """Output tokens of both tails."""

    top_positive_tokens: list[str]
    top_negative_tokens: list[str]


class Contribution(_Part):
    """An edge from an earlier feature."""

    from_layer: int
    from_feature_idx: int
    contribution: float
    relative_contribution: float


class FeatureAnalysis(_Part):
    """One feature in the authors' format, with the fields in their order."""

    feature: FeatureKey
    embedding: Embedding
    output_logits: OutputLogits
    feature_to_feature_contributions: list[Contribution]
    total_input_invariant_detected_contribution: float
    total_input_invariant_contribution: float
    description_soft: list[str] | None
    description: list[str] | None
    validation: bool
    validation_soft: float


ENTRY_CHARACTERS = 2**23
"""This much of a file is in memory at a time, or twice as much. It is also the limit for an entry: tens of thousands of
edges."""

_BLANK = re.compile(r"[ \t\r\n]*")


def layer_files(folder: Path) -> dict[int, Path]:
    """The files of a folder by layer.

    Raises:
        ValueError: there is none.
    """
    if not check_path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with feature_analysis_layer_N.json")
    found = {int(match[1]): path for path in folder.glob("*.json") if (match := FILE.fullmatch(path.name))}
    if not found:
        raise ValueError(f"{folder}: no feature_analysis_layer_N.json")
    return dict(sorted(found.items()))


def read_layer(path: Path, layer: int) -> list[FeatureAnalysis]:
    """Read and check one file. Memory: its features, and the text of some.

    Raises:
        ValueError: names the file, the entry and the field that does not fit.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    features = []
    try:
        for entry in array_entries(path):
            features.append(FeatureAnalysis.model_validate(entry))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, (len(features), *first["loc"])))
        raise ValueError(f"{path}: {where[:200]}: {first['msg'][:500]}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not an array of features ({str(error)[:200]}, after {len(features)} features)"
        ) from None
    seen = set()
    for entry in features:
        where = f"{path}: feature {entry.feature.feature_idx}"
        if entry.feature.layer != layer:
            raise ValueError(f"{where} says layer {entry.feature.layer}, the file's name {layer}")
        if entry.feature.feature_idx in seen:
            raise ValueError(f"{where} occurs twice")
        seen.add(entry.feature.feature_idx)
        of = entry.embedding
        for names in (
            ("top_positive_tokens", "top_positive_token_ids", "top_positive_tokens_contribution"),
            ("top_positive_tokens", "positive_tokens_activation"),
            ("top_negative_tokens", "top_negative_tokens_ids", "top_negative_tokens_contribution"),
        ):
            sizes = {name: len(getattr(of, name)) for name in names}
            if len(set(sizes.values())) != 1:
                raise ValueError(f"{where}: lists of unequal length: {sizes}")
    return features


def array_entries(path: Path) -> Iterator[object]:
    """The entries of a JSON array, one after the other; text that is not one is refused before much of it is parsed."""
    decoder = json.JSONDecoder(parse_int=_bounded_int)
    with path.open(encoding="utf-8-sig") as file:
        text, at, is_first = file.read(ENTRY_CHARACTERS), 0, True
        at = _after(text, at, "[")
        while not text.startswith("]", at):
            at = at if is_first else _after(text, at, ",")
            if len(text) - at < ENTRY_CHARACTERS:
                text, at = text[at:] + file.read(ENTRY_CHARACTERS), 0
            value, at = decoder.raw_decode(text, at)
            yield value
            at, is_first = _after(text, at, ""), False
        if text[at + 1 :].strip() or file.read(1).strip():
            raise ValueError("something after the end of the array")


def _after(text: str, at: int, expected: str) -> int:
    """The position after a character, which blanks may surround.

    Raises:
        ValueError: another character is there.
    """
    at = _blanks(text, at)
    if not text.startswith(expected, at):
        raise ValueError(f"expected {expected!r}, found {text[at : at + 20]!r}")
    return _blanks(text, at + len(expected))


def _blanks(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
