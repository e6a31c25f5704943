"""Deliberate mistakes at the seams between flows, tasks and stages, each of which the type checker must report."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

PACKAGES = ("interp", "storage", "tasks", "flows", "configs")


class Mistake(NamedTuple):
    path: str
    right: str
    """What stands in the file."""
    wrong: str
    """What stands there by mistake."""
    reported: str
    """In the line that the checker must report."""


MISTAKES = {
    "arguments of a task in another order": Mistake(
        "flows/circuitlens.py",
        "attribute_block.submit(store, job, block)",
        "attribute_block.submit(job, store, block)",
        "attribute_block.submit(",
    ),
    "an argument too many": Mistake(
        "flows/circuitlens.py",
        "gather_circuits.submit(store, job, key)",
        "gather_circuits.submit(store, job, key, key)",
        "gather_circuits.submit(",
    ),
    "something else than the job": Mistake(
        "flows/coactivation.py",
        "twera_shard.submit(store, job, key)",
        "twera_shard.submit(store, recipe, key)",
        "twera_shard.submit(",
    ),
    "a stage without one of its functions": Mistake(
        "flows/weightlens.py", "def todo(self", "def left_to_do(self", "perform_alone(WEIGHTLENS"
    ),
    "a stage whose function takes something else": Mistake(
        "flows/describe.py",
        "def load(self, plan: CheckpointPlan, run_id: str)",
        "def load(self, plan: CheckpointPlan, run_id: int)",
        "perform_alone(DESCRIBE",
    ),
    "a misspelt attribute of a checkpoint": Mistake(
        "flows/weightlens.py", "plan.attributes.n_tokens", "plan.attributes.number_of_tokens", "number_of_tokens"
    ),
    "a misspelt attribute of a corpus": Mistake(
        "tasks/activations/corpus_pass.py", "passes[0].corpus_id).n_pos", "passes[0].corpus_id).length", ".length"
    ),
    "a misspelt setting of a job": Mistake("tasks/circuitlens/order.py", "job.settings", "job.setting", "job.setting"),
}
"""By what is wrong."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product, all mistakes in it."""
    tree = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, right, wrong, _ in MISTAKES.values():
        text = (tree / path).read_text()
        assert right in text, f"{path} has no {right!r} any more; the mistake must be made elsewhere"
        (tree / path).write_text(text.replace(right, wrong, 1))
    return tree


@pytest.fixture(scope="module")
def reported(tree: Path) -> Callable[[str], list[str]]:
    """The lines of a file that the checker reports. Only files with mistakes are checked, all at once."""
    files = sorted({mistake.path for mistake in MISTAKES.values()})
    config = {"include": files, "pythonVersion": "3.11", "typeCheckingMode": "standard"}
    (tree / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--project", str(tree), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tree, timeout=500)
    found = [one for one in json.loads(done.stdout)["generalDiagnostics"] if one["severity"] == "error"]

    def lines(path: str) -> list[str]:
        source = (tree / path).read_text().splitlines()
        return [source[one["range"]["start"]["line"]] for one in found if Path(one["file"]) == tree / path]

    return lines


@pytest.mark.slow  # the checker reads every module that the files import, PyTorch's among them
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_at_a_seam_is_reported(reported: Callable[[str], list[str]], mistake: Mistake) -> None:
    assert any(mistake.reported in line for line in reported(mistake.path)), reported(mistake.path)
