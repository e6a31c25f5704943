"""Read files from outside within limits: of size, of nesting, and of the digits of numbers.

Every settings file, list and index that comes from outside is read here, so that a file made to exhaust time or memory
is refused by name before it can. The limits are far above what any release needs.
"""

import json
import os
import re
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import yaml

MAX_SETTINGS_BYTES = 2_000_000
"""Largest size of a settings file, in bytes."""

MAX_DEPTH = 100
"""Deepest nesting of lists and mappings."""

MAX_YAML_VALUES = 50_000
"""Largest number of values in a YAML file. Values behind an alias are counted for each use, since merging takes as many
steps."""

MAX_DIGITS = 100
"""Largest number of digits of a whole number in JSON; transformers writes 10^30 for no limit."""

MAX_INT = 2**63
"""Whole numbers in YAML must be smaller."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""The beginning of a JSON escape for half of a surrogate pair."""

MAX_PATH_BYTES, MAX_NAME_BYTES = 4095, 255
"""Linux's limits for a path, and for each name in it."""


def check_path(path: str | os.PathLike[str]) -> Path:
    """Check that the operating system accepts a path, so that asking about it does not raise an error of its own.

    Raises:
        ValueError: it is too long, or has a NUL or half of a surrogate pair.
    """
    text = os.fspath(path)
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)} is not a path: it has half a character") from None
    if b"\0" in data:
        raise ValueError(f"{shown(text)} is not a path: it has a NUL")
    longest = max(map(len, data.split(b"/")))
    if len(data) > MAX_PATH_BYTES or longest > MAX_NAME_BYTES:
        raise ValueError(
            f"{shown(text)} is not a path: {len(data)} bytes, its longest name {longest}; expected at most "
            f"{MAX_PATH_BYTES} and {MAX_NAME_BYTES}"
        )
    return Path(text)


def shown(value: object) -> str:
    """A value for an error message: a scalar, shortened if it is long; for anything else its type."""
    if value is None or isinstance(value, str | int | float):
        text = repr(value[:200] if isinstance(value, str) else value)
        return text if len(text) <= 120 else f"{text[:100]}… ({len(str(value))} characters)"
    return f"a {type(value).__name__}"


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        ValueError: it is missing, not a file, not readable, or longer than `max_bytes`.
    """
    check_path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file" if path.exists() else f"no file {path}")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)  # a device or a file of /proc does not report its size
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > max_bytes:
        size = max(path.stat().st_size, len(data))
        raise ValueError(f"{path}: {size} bytes; expected at most {max_bytes}, a short file of settings")
    return data


def read_json(path: Path, max_bytes: int = MAX_SETTINGS_BYTES) -> object:
    """Read a JSON file.

    Raises:
        ValueError: it is missing, longer than `max_bytes`, not JSON, or beyond the limits above.
    """
    return parse_json(read_bytes(path, max_bytes), str(path))


def parse_json(data: bytes, source: str) -> object:
    """Parse a JSON text. `source` names it in errors.

    Raises:
        ValueError: it is not JSON, beyond the limits above, or has half of a surrogate pair.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_int=_bounded_int)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON ({_one_line(error)})") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level for inner in _containers(one)]
    if level:
        raise ValueError(f"{source}: lists and objects more than {MAX_DEPTH} deep; expected settings")
    if SURROGATE.search(data):
        _refuse_half_characters(value, source)
    return value


def _refuse_half_characters(value: object, source: str) -> None:
    """Refuse texts with half of a surrogate pair, since no encoding can write it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(error.object[error.start]):04X}"
        raise ValueError(f"{source}: half of a surrogate pair ({half}) in a text; expected whole characters") from None


def _containers(value: object) -> list[object]:
    """The lists and objects directly inside a value."""
    inner: Iterable[object] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in inner if isinstance(one, dict | list)]


def read_yaml(path: Path) -> object:
    """Read a YAML file; None if it is empty.

    Raises:
        ValueError: it is missing, too long, not YAML, or beyond the limits above.
    """
    data = read_bytes(path, MAX_SETTINGS_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not YAML (not UTF-8: {error.reason} at byte {error.start})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> object:
    """Parse a YAML text of plain values. `source` names it in errors.

    Raises:
        ValueError: it is not YAML, or beyond the limits above.
    """
    try:
        _check_events(text)
        return yaml.load(text, _Loader)
    except Exception as error:  # constructors of values can raise almost any exception
        raise ValueError(f"{source}: not YAML ({_one_line(error)})") from None


class _Loader(yaml.CSafeLoader):
    """Plain values, with limits for whole numbers, and without duplicate keys, of which the library would take the
    last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} occurs twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_events(text: str) -> None:
    """Count values and nesting before anything is built, since libyaml's own composer recurses without a limit.

    `counts` has the number of values so far in each open list or mapping; `sizes` those of each anchor.
    """
    counts, names, sizes = [0], [""], dict[str, int]()
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            names.append(event.anchor or "")
            sizes.pop(names[-1], None)
            if len(counts) > MAX_DEPTH + 1:
                raise ValueError(f"lists and mappings more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            size = counts.pop()
            sizes[names.pop()] = size
            counts[-1] += size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"*{shown(event.anchor)[1:-1]} refers to nothing that is complete")
            counts[-1] += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            sizes[event.anchor or ""] = 1
        if counts[-1] > MAX_YAML_VALUES:
            raise ValueError(f"more than {MAX_YAML_VALUES} values; expected settings")


Construct = Callable[[yaml.CSafeLoader, yaml.ScalarNode], int | float]


def _yaml_number(construct: Construct) -> Construct:
    def number(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > MAX_DIGITS:
            raise ValueError(f"a number of {len(node.value)} characters")
        value = construct(loader, node)
        if isinstance(value, int) and not -MAX_INT <= value < MAX_INT:
            raise ValueError(f"the number {shown(node.value)[1:-1]}; expected at most {MAX_INT - 1}")
        return value

    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _yaml_number(yaml.CSafeLoader.construct_yaml_int))
_Loader.add_constructor("tag:yaml.org,2002:float", _yaml_number(yaml.CSafeLoader.construct_yaml_float))


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error)[:2000].split())[:200]
    return text if text and isinstance(error, ValueError | yaml.YAMLError) else f"{type(error).__name__}: {text}"
