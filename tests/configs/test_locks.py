"""The locks that `make setup` installs: every package by hash, and all that the project asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = sorted(Path().glob("requirements*.lock"))
PINNED = re.compile(r"([A-Za-z0-9._-]+)==(\S+)((?: \\\n {4}--hash=sha256:[0-9a-f]{64})+)")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_hashes(lock: Path) -> None:
    text = lock.read_text()
    pinned = list(PINNED.finditer(text))
    assert len(pinned) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)) > 0
    names = [canonicalize_name(one[1]) for one in pinned]
    assert len(set(names)) == len(names)


def test_all_that_the_project_asks_for_is_locked_at_a_version_it_accepts() -> None:
    locked = {canonicalize_name(one[1]): one[2] for lock in LOCKS for one in PINNED.finditer(lock.read_text())}
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        asked = Requirement(text)
        assert asked.specifier.contains(locked[canonicalize_name(asked.name)]), text
