"""How many small mistakes in `interp/` its tests notice: python -m tests.mutants [--seed N] [--skip N] [--json]

A mutant is a copy of the product with one expression within one function changed: a comparison, an arithmetic or
boolean operator, a number, a `not`, True or False. Places are drawn at random. The test files that import the module
are run on it until one fails; where none imports it, those that import a module that does. A mutant that no test
notices is printed with its line: either the tests have a gap, or the change does not matter (a block size, a tie that
cannot occur). Numbers outside functions are defaults and sizes, and are left alone.

Every mutant is a fork of one process that has the libraries in memory. Tests marked slow or whole are not run.
"""

import argparse
import ast
import copy
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("circuit_insights", "configs", "explorer", "flows", "interp", "storage", "tasks")
MAX_FILES = 6
"""Test files that are run on a mutant at most, the nearest by name first."""
MAX_SECONDS = 240
"""A mutant whose tests take longer counts as noticed: it made something endless."""

LOG = "pytest.log"
EXPECTED = (
    pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.NO_TESTS_COLLECTED,
)  # fmt: skip
"""How pytest may end; it is interrupted where a file cannot be imported, and collects none where all are long ones."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Place(NamedTuple):
    """An expression that can be changed."""

    module: Path
    """Relative to the repository."""
    number: int
    """Of the expression among those of its file."""
    line: int
    was: str
    becomes: str


def changed(node: ast.expr) -> ast.expr | None:
    """The expression with a small mistake in it; None for one that is left alone."""
    mutant = copy.deepcopy(node)
    match mutant:
        case ast.Compare(ops=[operator]) if type(operator) in SWAPS:
            mutant.ops = [SWAPS[type(operator)]()]  # pyright: ignore[reportAttributeAccessIssue]
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) if type(operator) in SWAPS:
            mutant.op = SWAPS[type(operator)]()  # pyright: ignore[reportAttributeAccessIssue]
        case ast.UnaryOp(op=ast.Not()):
            return mutant.operand
        case ast.Constant(value=bool(value)):
            mutant.value = not value
        case ast.Constant(value=int(value) | float(value)):
            mutant.value = value + 1
        case _:
            return None
    return mutant


def expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions that are computed when a function runs: no annotations, decorators, defaults or messages."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _inside(child)
        else:
            yield from expressions(child)


def _inside(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    waiting: list[ast.AST] = list(reversed(function.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise | ast.Assert | ast.arguments):
            continue
        if isinstance(node, ast.AnnAssign):
            waiting.extend([node.value] if node.value else [])
            continue
        if isinstance(node, ast.FunctionDef):
            yield from _inside(node)
            continue
        if isinstance(node, ast.expr) and changed(node) is not None:
            yield node
        waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def places(root: Path) -> list[Place]:
    found = []
    for file in sorted((root / "interp").rglob("*.py")):
        for number, node in enumerate(expressions(ast.parse(file.read_text()))):
            mutant = changed(node)
            assert mutant is not None
            found.append(Place(file.relative_to(root), number, node.lineno, ast.unparse(node), ast.unparse(mutant)))
    return found


def mutated(text: str, place: Place) -> str:
    """The file with that place changed; its comments are lost."""
    tree = ast.parse(text)
    target = list(expressions(tree))[place.number]
    mutant = changed(target)
    assert mutant is not None

    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return mutant if node is target else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Swap().visit(tree)))


def imports(text: str) -> set[str]:
    """Modules of the product that a file imports, by dotted name; names that it imports may be modules as well."""
    found = set[str]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return {name for name in found if name.partition(".")[0] in PRODUCT}


def dotted(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


class Tests:
    """Which test files are near a module."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tests = {file: imports(file.read_text()) for file in sorted((root / "tests").rglob("test_*.py"))}
        sources = [file for name in PRODUCT for file in sorted((root / name).rglob("*.py"))]
        self.sources = {dotted(file.relative_to(root)): imports(file.read_text()) for file in sources}

    def near(self, module: Path) -> list[Path]:
        """Those that import the module, else those that import one that does, and so on: in `tests/interp` if any is
        there, else in `tests/tasks`. Those with the module's name come first, then the shorter ones."""
        for room in ("interp", "tasks", "storage"):
            wanted = {dotted(module)}
            for _ in range(4):
                own = [file for file, names in self.tests.items() if names & wanted and room in file.parts]
                if own:
                    return sorted(own, key=lambda file: (module.stem not in file.stem, file.stat().st_size))[:MAX_FILES]
                wanted |= {name for name, names in self.sources.items() if names & wanted}
        return []


def notices(root: Path, file: Path) -> bool:
    """Whether a test of a file fails, in a fork of this process.

    Raises:
        RuntimeError: its tests could not be run.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            os.chdir(root)
            for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
                del sys.modules[name]  # those of the copy are wanted
            written = os.open(root / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(written, 1)
            os.dup2(written, 2)
            chosen = [
                "-q",
                "-x",
                "-n",
                "0",
                "-p",
                "no:cacheprovider",
                "-W",
                "ignore::pytest.PytestAssertRewriteWarning",
                "-m",
                "not slow and not whole and not browser",
            ]
            os._exit(int(pytest.main([*chosen, str(file)])))
        except BaseException:
            traceback.print_exc()
        os._exit(99)
    until = time.monotonic() + MAX_SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code not in EXPECTED and code > 0:
                raise RuntimeError(f"{file}: pytest ended with {code}:\n{(root / LOG).read_text()[-2000:]}")
            return code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def cpu_s() -> float:
    """Processor seconds of the forks that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def preload() -> None:
    """Have what takes long to import in memory before forks are made; nothing of the product."""
    for name in ("numba", "scipy.stats", "torch", "transformers.models.llama.modeling_llama"):
        import_module(name)


def copied(folder: Path) -> Path:
    for name in (*PRODUCT, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("demo", "docs", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=60)
    parser.add_argument("--cpu-minutes", type=float, default=10, help="begin no further mutant after so much work")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first of the drawn: a run in several pieces")
    parser.add_argument("--json", action="store_true", help="one JSON object with the figures at the end")
    arguments = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory() as name:
        root = copied(Path(name))
        sys.path.insert(0, str(root))
        sys.dont_write_bytecode = True
        os.environ.update({"OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(root / "numba")})
        everywhere = places(root)
        drawn = random.Random(arguments.seed).sample(everywhere, min(arguments.mutants, len(everywhere)))
        drawn = drawn[arguments.skip :]
        tests = Tests(root)
        noticed, sound = 0, set[Path]()
        for n_done, place in enumerate(drawn):
            if cpu_s() > 60 * arguments.cpu_minutes:
                drawn = drawn[:n_done]
                break
            file, files = root / place.module, tests.near(place.module)
            text = file.read_text()
            file.write_text(mutated(text, place))
            by = next((test for test in files if notices(root, test)), None)
            file.write_text(text)
            if by is not None and by not in sound and notices(root, by):
                raise RuntimeError(f"{by} fails without a mutant:\n{(root / LOG).read_text()[-2000:]}")
            sound |= {by} if by else set()
            found = by is not None
            noticed += found
            said = "noticed" if found else "MISSED "
            print(f"{said} {place.module}:{place.line}: {place.was} -> {place.becomes}", flush=True)
    figures = {
        "places": len(everywhere),
        "mutants": len(drawn),
        "noticed": noticed,
        "score": round(noticed / len(drawn), 3),
        "cpu_s": round(cpu_s()),
    }
    print(json.dumps(figures) if arguments.json else f"{noticed} of {len(drawn)} noticed ({figures['score']:.0%})")


if __name__ == "__main__":
    main()
