"""Writes the pages that follow from the code: commands, settings and prompts (`make reference`)."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer.main
import yaml

from configs.run import RunConfig
from flows.cli import app
from interp.descriptions.llm_questions import FENCE_NOTE, Purpose
from tasks.llm.instructions import prompt_file

HERE = Path(__file__).parent

NOTE = "<!-- Written by `make reference` from the code; a test fails when it is behind. -->"


def cli_markdown() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    lines = ["# Commands", "", NOTE, "", COMMANDS, ""]
    for name, command in sorted(group.commands.items()):
        lines += _command(name, command)
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    words = " ".join(_name(one) if one.required else f"[{_name(one)}]" for one in arguments)
    yield from (f"## {name}", "", "```", f"circuit-insights {name} {words}".rstrip(), "```", "")
    yield from (inspect.cleandoc(command.help or ""), "")
    shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    if shown:
        yield from ("| | | |", "|---|---|---|")
        yield from (_parameter(one) for one in shown)
        yield ""


def _name(argument: Any) -> str:
    return argument.metavar or argument.name.upper()


def _parameter(one: Any) -> str:
    is_argument = one.param_type_name == "argument"
    names = f"`{_name(one)}`" if is_argument else ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    plain = isinstance(one.default, str | int | float) and not isinstance(one.default, bool)
    return f"| {names} | {f'`{one.default}`' if plain else ''} | {_cell(getattr(one, 'help', None) or '')} |"


def configuration_markdown() -> str:
    """Every setting with its type, its default and what it means."""
    schema = RunConfig.model_json_schema()
    lines = [
        "# The configuration",
        "",
        NOTE,
        "",
        CONFIGURATION,
        "",
    ]
    for path, section in _sections("", schema, schema):
        lines += _section(path, section, schema)
    return "\n".join(lines).rstrip() + "\n"


def _sections(path: str, section: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A section and those inside it, each with its dotted name."""
    yield path, section
    for name, value in section["properties"].items():
        inner = _object_in(value, schema)
        if inner is not None:
            yield from _sections(f"{path}.{name}".lstrip("."), inner, schema)


def _object_in(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """The section that a setting is, if it is one."""
    for one in (value, *value.get("anyOf", ()), *value.get("allOf", ())):
        found = schema["$defs"][one["$ref"].rsplit("/", 1)[1]] if "$ref" in one else one
        if found.get("type") == "object" and "properties" in found:
            return found
    return None


def _section(path: str, section: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"## {path or 'At the top'}", "")
    if path and section.get("description"):
        yield from (inspect.cleandoc(section["description"]), "")
    plain = {name: one for name, one in section["properties"].items() if _object_in(one, schema) is None}
    if plain:
        yield from ("| setting | type | default | |", "|---|---|---|---|")
        for name, one in plain.items():
            required = name in section.get("required", ())
            default = "required" if required else f"`{_yaml(one.get('default'))}`"
            yield f"| `{name}` | {_cell(_type(one, schema))} | {_cell(default)} | {_cell(one.get('description', ''))} |"
        yield ""


def _type(value: dict[str, Any], schema: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(one, schema) for one in value["anyOf"]))
    if "$ref" in value:
        return _type(schema["$defs"][value["$ref"].rsplit("/", 1)[1]], schema)
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type(value['items'], schema)}" if "items" in value else "list"
    names = {
        "null": "null",
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
    }
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    kind: str = value.get("type", "value")
    limits = [f"{sign} {value[key]:g}" for key, sign in bounds.items() if key in value]
    return " ".join([names.get(kind, kind), ", ".join(limits)]).strip()


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(one) for one in value) + "]"
    return str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def prompts_markdown() -> str:
    """The instructions of every kind of question, as language models get them."""
    lines = ["# Prompts", "", NOTE, "", PROMPTS, ""]
    for purpose in get_args(Purpose):
        found = prompt_file(purpose)
        lines += [f"## {purpose}", "", f"Version {found.version}.", ""]
        lines += [line for line in "".join(f"> {line}\n" for line in found.text.split("\n")).split("\n")]
    lines += ["## The note about quoted material", "", "It replaces `{fence_note}`:", "", f"> {FENCE_NOTE}"]
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


COMMANDS = """Most used are `plan` and `run` for a configuration, `doctor` if something seems wrong, `show`, `search`,
`sql` and `serve` to look at results, and `attribute`, `steer` and `intervene` for a prompt.

Every command answers `--help`. Settings of a configuration are changed by `section.key=value` after its file; see [the
configuration](configuration.md). Exit codes: 0, done; 1, a failure of the program; 2, bad input; 130, ended by Ctrl-C.
Some commands can [answer as JSON](json.md)."""

CONFIGURATION = """One YAML file is one run; [your own model](guides/models.md) has examples, `configs/` has presets.
The sections `model`, `transcoder` and `corpus` say what a run is about, the others belong to the stages of the same
name; [methods](methods.md) explains what their settings do. A run needs `name` and where model, transcoders and text
come from; all else has a default.

A key that is not listed here is refused, and so is a setting that would have no effect. Paths in the file are relative
to it. On the command line a setting is `section.key=value`, with the value as YAML."""

PROMPTS = """The instructions that language models get, word for word, from the files of `tasks/llm/prompts/`. What a
question is about follows as JSON between `<data>` and `</data>`, escaped so that nothing inside can close it. Every
answer has to fit a JSON schema.

To use instructions of your own, set `prompts.explain=FILE` (or another name of this page) in a configuration or on the
command line. They must contain `{fence_note}`, which is replaced by the note at the end of this page; `synthesise` may
also contain `{n_texts}`, the number of texts to write. The version of an instruction, or the content of your file, is
part of the recipe that names a stage's output: with other instructions, the questions are asked anew.

The stage `describe` uses `explain` and `join` (one description from those of several mechanisms); `evaluate` uses the
others. Which models can be asked, and what that costs, is in [language models](guides/language-models.md)."""

LLMS_HEAD = """# Circuit Insights

> Explains every feature of a language model's transcoders from weights (WeightLens) and circuits (CircuitLens), judges
> the explanations, and leaves all of it in one DuckDB catalog and a folder of arrays. A command line, a Python API, an
> explorer in the browser, and an MCP server for agents.

Install with `make setup`; `make demo` describes a small model in three minutes and leaves `store/demo/catalog.duckdb`.
Ask it with `circuit-insights sql "SELECT …" --store store/demo`, or from an agent with
`circuit-insights mcp --store store/demo`.
"""


def llms_text() -> str:
    """What language models read first of the site: what this is, and every page by its name."""
    lines = LLMS_HEAD.splitlines()
    sections: list[Any] = yaml.safe_load((HERE.parent / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    for section in sections:
        for title, pages in section.items():
            if isinstance(pages, list):
                lines += ["", f"## {title}", ""]
                lines += [f"- [{name}]({page})" for one in pages for name, page in one.items()]
    return "\n".join(lines) + "\n"


PAGES = {
    "cli.md": cli_markdown,
    "configuration.md": configuration_markdown,
    "prompts.md": prompts_markdown,
    "llms.txt": llms_text,
}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (HERE / page).write_text(write(), encoding="utf-8")
