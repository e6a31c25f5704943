"""Limits that keep the code readable: lengths of files, numbers of parameters, and how often a type is left open."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from configs.stages import StageName
from tests.conftest import ROOT
from tests.test_typed_seams import MISTAKES

PACKAGES = ("circuit_insights", "configs", "explorer", "flows", "interp", "storage", "tasks")
SOURCES = {".py", ".js", ".css", ".html"}
MAX_LINES = 400
MAX_LINES_OF_A_STAGE = 150
MAX_PARAMETERS = 6
MAX_LINES_WITH_ANY = 100


def product() -> Iterator[tuple[str, str]]:
    """Every source file of the product: its path in the repository, and its text."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*")):
            if file.suffix in SOURCES:
                yield str(file.relative_to(ROOT)), file.read_text()


def too_long(files: Iterator[tuple[str, str]], most: int) -> list[str]:
    return [f"{path}: {text.count(chr(10))} lines" for path, text in files if text.count("\n") > most]


def too_many_parameters(path: str, text: str) -> list[str]:
    """Functions with more than `MAX_PARAMETERS`, except compiled kernels and commands of the command line."""
    return [
        f"{path}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and n_parameters(node.args) > MAX_PARAMETERS
        and not any(re.match(r"njit\b|intrinsic\b|app\.command\b", ast.unparse(one)) for one in node.decorator_list)
    ]


def n_parameters(arguments: ast.arguments) -> int:
    """How many arguments a caller can give; `self` and `cls` are none of them."""
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    return len(names) - (names[:1] in (["self"], ["cls"])) + len(arguments.kwonlyargs)


def _members(path: str, text: str) -> Iterator[tuple[str, ast.ClassDef | None, ast.FunctionDef | ast.ClassDef]]:
    """Public classes, functions and methods, each with its place and its class."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{path}:{node.lineno} {node.name}", None, node
            for member in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield f"{path}:{member.lineno} {node.name}.{member.name}", node, member


def undocumented(files: list[tuple[str, str]]) -> list[str]:
    """Public classes, functions, methods and properties without a docstring, except those that a Protocol in these
    files documents."""
    members = [one for path, text in files for one in _members(path, text)]
    interface = {
        node.name
        for _, owner, node in members
        if owner and "Protocol" in {getattr(base, "id", "") for base in owner.bases} and ast.get_docstring(node)
    }
    return [
        where
        for where, owner, node in members
        if not ast.get_docstring(node) and not (owner and node.name in interface)
    ]


def test_no_file_of_the_product_is_longer_than_one_reads() -> None:
    assert too_long(product(), MAX_LINES) == []


def test_a_stage_fits_in_a_short_file() -> None:
    stages = {f"flows/{stage}.py" for stage in ("ingest", *get_args(StageName))}
    files = {path: text for path, text in product() if path in stages}
    assert set(files) == stages
    assert too_long(iter(files.items()), MAX_LINES_OF_A_STAGE) == []


def test_no_function_has_more_parameters_than_one_remembers() -> None:
    sources = [(path, text) for path, text in product() if Path(path).suffix == ".py"]
    assert [found for path, text in sources for found in too_many_parameters(path, text)] == []


def test_types_are_said() -> None:
    lines = [line for path, text in product() if path.endswith(".py") for line in text.splitlines()]
    assert sum(bool(re.search(r"\bAny\b", line)) for line in lines) < MAX_LINES_WITH_ANY


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(a, b, c, d, e, f): ...", False),
        ("def f(a, b, c, d, e, f, g): ...", True),
        ("def f(a, b, c, /, d, e, *, f, g): ...", True),
        ("class C:\n    def f(self, a, b, c, d, e, f): ...", False),
        ("class C:\n    def f(self, a, b, c, d, e, f, g): ...", True),
        ("@njit(cache=True)\ndef f(a, b, c, d, e, f, g): ...", False),
        ("@intrinsic\ndef f(a, b, c, d, e, f, g): ...", False),
        ("@app.command('x')\ndef f(a, b, c, d, e, f, g): ...", False),
        ("@task\nasync def f(a, b, c, d, e, f, g): ...", True),
    ],
)
def test_parameters_are_counted_as_a_caller_counts_them(code: str, found: bool) -> None:
    assert bool(too_many_parameters("x.py", code)) is found


def test_what_a_newcomer_is_pointed_to_is_there() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[\w./-]*)`", guide)
    assert len(named) > 25
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_deliberate_mistakes_are_made_in_code_that_is_there() -> None:
    """`test_typed_seams` takes a minute and runs seldom; what it changes must still stand in the files."""
    gone = [name for name, one in MISTAKES.items() if one.right not in (ROOT / one.path).read_text(encoding="utf-8")]
    assert gone == []


def test_what_is_public_has_a_docstring() -> None:
    assert undocumented([one for one in product() if one[0].endswith(".py")]) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f():\n    return 1", ["x.py:1 f"]),
        ('def f():\n    """Is one."""\n    return 1', []),
        ("def _f():\n    return 1", []),
        ("class A:\n    def f(self):\n        return 1", ["x.py:1 A", "x.py:2 A.f"]),
        ('class A:\n    """Has f."""\n    @property\n    def f(self):\n        return 1', ["x.py:4 A.f"]),
        (
            'class P(Protocol):\n    """Has f."""\n    def f(self):\n        """Is one."""\n        ...\n'
            'class A:\n    """Has f."""\n    def f(self):\n        return 1\n    def g(self):\n        return 1',
            ["x.py:10 A.g"],
        ),
    ],
)
def test_docstrings_are_missed_where_a_reader_would_miss_them(code: str, found: list[str]) -> None:
    assert undocumented([("x.py", code)]) == found
