"""Mutation testing of `interp/`: small mistakes are made in a copy, one at a time, and the tests have to notice.

    nice python -m benchmarks.mutants [--mutants 150] [--seed 0] [--of interp/projection.py ...] [--limit 120]

A mutant exchanges an operator or a comparison, changes a number by one (a float by half of itself), takes a condition
for its opposite, or leaves out one of two terms. Mutants are drawn at random among all that there are, so a run that is
stopped early is a smaller sample. Each is tried with the files of `tests/interp` that import its module, first those
that name it; if none does, with those of `--tests` that reach it. What takes longer than `--limit` seconds counts as
noticed. Prints a line of JSON a mutant, and one with the score at the end. A person reads what survives: some mutants
change nothing that can be seen, such as the size of a block.
"""

import argparse
import ast
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ROOMS = ("interp", "storage", "tasks", "explorer", "tests")
WHOLE = [
    "tests/tasks/test_activations.py", "tests/tasks/test_coactivation.py", "tests/tasks/test_circuitlens.py",
    "tests/explorer/test_graphs.py",
]  # fmt: skip
LONGEST = 300.0
"""Seconds that a test file may take without a mutant."""

KEPT_OUT = shutil.ignore_patterns(".git", ".venv*", "store", "site", "node_modules", ".pytest_cache", ".hypothesis")

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}  # fmt: skip
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


class Mutant(NamedTuple):
    """One mistake: a file, the bytes of it that are replaced, and by what."""

    path: Path
    line: int
    start: int
    stop: int
    before: str
    after: str


def mutants_of(path: Path) -> list[Mutant]:
    """Every mistake that can be made in a file, in order."""
    source = (ROOT / path).read_bytes()
    firsts = [0]
    for line in source.splitlines(keepends=True):
        firsts.append(firsts[-1] + len(line))
    found = []
    for node in _expressions(ast.parse(source)):
        start = firsts[node.lineno - 1] + node.col_offset
        stop = firsts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = source[start:stop].decode()
        for after in _mistakes(node):
            found.append(Mutant(path, node.lineno, start, stop, before, f"({ast.unparse(after)})"))
    return found


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions that are computed: no annotations, decorators, texts or messages of errors."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.JoinedStr, ast.Raise, ast.Assert)):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from _expressions(child)


def _mistakes(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.BinOp(left, op, right) if not _is_none(left) and not _is_none(right):
            if type(op) in OPERATORS:
                yield ast.BinOp(left, OPERATORS[type(op)](), right)
            if isinstance(op, (ast.Add, ast.Sub)):
                yield left
        case ast.Compare(left, [first, *others], comparators) if type(first) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(first)](), *others], comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            yield values[0]
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield ast.Constant(value * 1.5 or 1.0)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


@cache
def _imports(path: Path) -> frozenset[Path]:
    """Files of ours that a file imports by name."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_bytes())):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                candidates = [module, *(f"{module}.{alias.name}" for alias in names)]
            case ast.Import(names=names):
                candidates = [alias.name for alias in names]
            case _:
                continue
        for name in candidates:
            file = Path(*name.split("."))
            found |= {file.with_suffix(".py"), file / "__init__.py"}
    return frozenset(one for one in found if one.parts[0] in ROOMS and (ROOT / one).is_file())


def _reached(path: Path, through: Sequence[str]) -> set[Path]:
    """Files that are imported, directly or through files of some folders."""
    found, left = set(), [path]
    while left:
        new = {one for one in _imports(left.pop()) if one not in found}
        found |= new
        left += [one for one in new if one.parts[0] in through]
    return found


def tests_of(module: Path, whole: Sequence[str]) -> list[Path]:
    """Test files that a module's mutants are tried with, the likeliest to notice first; `whole` where no unit test
    names the module."""
    unit = sorted(path.relative_to(ROOT) for path in (ROOT / "tests/interp").rglob("test_*.py"))
    naming = [path for path in unit if module in _reached(path, ["tests"])]
    reaching = [path for path in unit if path not in naming and module in _reached(path, ["tests", "interp"])]
    others = [] if naming else [Path(name) for name in whole if module in _reached(Path(name), ROOMS)]
    return naming + reaching + others


def run_tests(copy: Path, tests: Sequence[Path], limit: float, numba_cache: Path) -> tuple[str, float]:
    """Whether the tests notice, in a process of its own that has all libraries from the start."""
    began, child = time.monotonic(), os.fork()
    if not child:
        os.setsid()
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        for name in [name for name in sys.modules if (ROOT / name.split(".")[0]).is_dir()]:
            del sys.modules[name]  # what is ours is imported anew, from the copy
        os.environ["NUMBA_CACHE_DIR"] = str(numba_cache)
        sys.dont_write_bytecode = True
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not browser", "--hypothesis-seed=0"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # libraries were imported before
        os._exit(int(pytest.main([*options, *map(str, tests)])))
    while time.monotonic() - began < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return ("survived" if code in (0, 5) else "killed"), time.monotonic() - began
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too slow", time.monotonic() - began


@cache
def refuse_what_fails(copy: Path, test: Path, numba_cache: Path) -> None:
    """Run a test file without any mistake.

    Raises:
        ValueError: it fails even so, and would notice every mutant.
    """
    outcome, seconds = run_tests(copy, [test], LONGEST, numba_cache)
    if outcome != "survived":
        raise ValueError(f"{test}: {outcome} after {seconds:.0f} s without a mutant, expected to pass")


def try_mutant(mutant: Mutant, copy: Path, tests: Sequence[Path], limit: float, numba_cache: Path) -> tuple[str, float]:
    """Make the mistake in the copy, run the tests, and put the file back."""
    if not tests:
        return "survived", 0.0
    file = copy / mutant.path
    source, stat = file.read_bytes(), file.stat()
    file.write_bytes(source[: mutant.start] + mutant.after.encode() + source[mutant.stop :])
    try:
        if mutant.path.parent.name != "kernels":
            return run_tests(copy, tests, limit, numba_cache)
        with tempfile.TemporaryDirectory() as fresh:  # what is compiled with the mistake is kept by nobody
            return run_tests(copy, tests, limit, Path(fresh))
    finally:
        file.write_bytes(source)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def drawn(paths: Sequence[Path], n: int, seed: int) -> list[Mutant]:
    """So many of all mutants of some files, in the order of the draw."""
    everything = [mutant for path in paths for mutant in mutants_of(path)]
    return random.Random(seed).sample(everything, min(n, len(everything)))


def import_libraries() -> None:
    """What takes seconds to import, and nothing of ours: children find it there."""
    import beartype
    import duckdb
    import jaxtyping
    import numba
    import pyarrow
    import pytest
    import torch
    import transformers

    torch.set_num_threads(1)
    del beartype, duckdb, jaxtyping, numba, pyarrow, pytest, transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--of", nargs="*", default=["interp"], help="files or folders")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that the tests of a mutant may take")
    parser.add_argument("--tests", nargs="*", default=WHOLE, help="files for modules that no unit test names")
    given = parser.parse_args()
    paths = sorted(
        {Path(file) for name in given.of for file in ([name] if name.endswith(".py") else Path(name).rglob("*.py"))}
    )
    import_libraries()
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy, numba_cache = Path(folder) / "copy", Path(folder) / "numba"
        shutil.copytree(ROOT, copy, ignore=KEPT_OUT)
        for mutant in drawn(paths, given.mutants, given.seed):
            tests = tests_of(mutant.path, given.tests)
            for test in tests:
                refuse_what_fails(copy, test, numba_cache)
            outcome, seconds = try_mutant(mutant, copy, tests, given.limit, numba_cache)
            counts[outcome] = counts.get(outcome, 0) + 1
            line = {"file": str(mutant.path), "line": mutant.line, "before": mutant.before, "after": mutant.after}
            print(
                json.dumps({**line, "outcome": outcome, "tests": len(tests), "seconds": round(seconds, 1)}), flush=True
            )
    n = sum(counts.values())
    print(json.dumps({**counts, "mutants": n, "score": round(1 - counts.get("survived", 0) / max(1, n), 3)}))


if __name__ == "__main__":
    main()
