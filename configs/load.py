"""A configuration read from YAML, a preset's or a file's, and changed by `key=value`."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from configs.run import RunConfig
from interp.descriptions.llm_questions import Purpose
from storage.foreign import check_path, parse_yaml, read_yaml, shown

PATHS = (
    "store", "model.path", "transcoder.path", "corpus.source", "local_model.path", "evaluate.embeddings",
    "evaluate.surprisal", *(f"prompts.{purpose}" for purpose in get_args(Purpose)),
)  # fmt: skip
"""Settings that are paths. In a YAML file they are relative to the file, on the command line to the working folder."""


NO_PATHS = ("python-docs", "subject")
"""Values of these settings that are not files."""

MAX_PROBLEMS = 15
"""Largest number of mistakes that one message lists."""


def preset_or_file(path: Path) -> Path:
    """The file of a configuration, which may be given by the name of a preset, like `gpt2`.

    Raises:
        ValueError: there is neither such a file nor such a preset.
    """
    if check_path(path).is_file():
        return path
    presets = {file.stem: file for file in Path(__file__).parent.glob("*.yaml")}
    if str(path) in presets:
        return presets[str(path)]
    raise ValueError(f"no configuration file {path}; presets are {', '.join(sorted(presets))}")


def load_config(path: Path, overrides: list[str], store: str | None = None) -> RunConfig:
    """Read a configuration and change it by `section.key=value` (the value is read as YAML).

    `path` is a file, or the name of a preset; a preset's own paths are then relative to the working folder.

    Raises:
        ValueError: the file does not exist or is not YAML, a key is unknown, or a value does not fit; each is named.
    """
    file = preset_or_file(path)
    values = read_yaml(file) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected settings by name, found {type(values).__name__}")
    beside = path if file == path else Path.cwd() / "configs" / file.name  # the folder of the presets in a checkout
    for name in PATHS:
        _change(values, name, lambda value: _beside(beside, value))
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"'{override}': expected key=value, like engine.workers=2")
        _set(values, name, parse_yaml(text, shown(override)))
    if store is not None:
        values["store"] = store
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        problems = [f"  {'.'.join(map(str, e['loc'])) or 'configuration'}: {_problem(e)}" for e in found[:MAX_PROBLEMS]]
        if len(found) > MAX_PROBLEMS:
            problems.append(f"  and {len(found) - MAX_PROBLEMS} more")
        raise ValueError(f"{path}:\n" + "\n".join(problems)) from None


def _problem(error: ErrorDetails) -> str:
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return "unknown key"
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    return message if isinstance(value, dict) else f"{message}, found {shown(value)}"


def _beside(path: Path, value: object) -> object:
    if isinstance(value, list):
        return [_beside(path, one) for one in value]
    if not isinstance(value, str) or value in NO_PATHS or "://" in value:
        return value
    try:
        return str((path.parent / check_path(value).expanduser()).resolve())
    except (ValueError, OSError, RuntimeError):  # wrong values are reported where the setting is checked
        return value


def _change(values: dict[str, object], name: str, change: Callable[[object], object]) -> None:
    *sections, key = name.split(".")
    for section in sections:
        inner = values.get(section)
        if not isinstance(inner, dict):
            return
        values = inner
    if values.get(key) is not None:
        values[key] = change(values[key])


def _set(values: dict[str, object], name: str, value: object) -> None:
    *sections, key = name.split(".")
    for section in sections:
        inner = values.get(section)
        if not isinstance(inner, dict):
            inner = values[section] = dict[str, object]()
        values = inner
    values[key] = value
