"""The documentation that is part of every Python installation, as texts."""

import ast
import os
import sysconfig
from collections import deque
from collections.abc import Iterator
from pathlib import Path

MIN_DOCSTRING_CHARACTERS = 80
_NOT_DOCUMENTATION = {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"}

_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
"""Fields of statements that contain statements, in the order of the text."""


def python_docs() -> Iterator[str]:
    """The running Python's documentation: the language reference topics, then the library's docstrings."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]
    yield from docstrings(Path(sysconfig.get_path("stdlib")))


def docstrings(root: Path) -> Iterator[str]:
    """The docstrings below a folder, file by file in order, one document for each file."""
    for path in sorted(_sources(root)):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # templates and deliberately broken sources
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) for node in _statements(tree) if isinstance(node, documented)]
        long_enough = [text for text in found if text and len(text) >= MIN_DOCSTRING_CHARACTERS]
        if long_enough:
            yield "\n\n".join(long_enough)


def _sources(root: Path) -> Iterator[Path]:
    """Source files of the library; installed packages, which are most of the files below the folder, are not
    included."""
    for folder, folders, names in os.walk(root):
        folders[:] = set(folders) - _NOT_DOCUMENTATION
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and all its statements, breadth first. Expressions have no docstrings and are most of a syntax
    tree."""
    left: deque[ast.AST] = deque([tree])
    while left:
        node = left.popleft()
        yield node
        for block in _BLOCKS:
            left.extend(getattr(node, block, ()))
