"""The documentation that every Python carries, as texts."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MIN_DOCSTRING_CHARACTERS = 80
_NOT_DOCUMENTATION = {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"}


def python_docs() -> Iterator[str]:
    """The running Python's documentation: the language reference topics, then the library's docstrings."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]
    yield from docstrings(Path(sysconfig.get_path("stdlib")))


def docstrings(root: Path) -> Iterator[str]:
    """The docstrings below a folder, file by file in order, one document a file."""
    for path in sorted(root.rglob("*.py")):
        if _NOT_DOCUMENTATION.intersection(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # templates and deliberately broken sources
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
        long_enough = [text for text in found if text and len(text) >= MIN_DOCSTRING_CHARACTERS]
        if long_enough:
            yield "\n\n".join(long_enough)
