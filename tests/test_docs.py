"""The documentation keeps up with the code: reference pages, queries, and every table, view, command and setting."""

import json
import re
from pathlib import Path

import pytest
import yaml

from docs.reference import PAGES
from storage.catalog.database import open_catalog
from storage.catalog.tables import TABLES, VIEWS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
QUERY = re.compile(r"```sql\n(.*?)```", re.DOTALL)
QUOTED = re.compile(r'```python title="(.*?)"\n(.*?)```', re.DOTALL)
EXAMPLE = re.compile(r"```(yaml|json)\n(.*?)```", re.DOTALL)
MENTION = re.compile(r'docs/([\w-]+)\.md(?:, section (\d+)|, "([^"]+)")?')
SECTION, SETTING = re.compile(r"^## (.+)$"), re.compile(r"^\| `(\w+)` \|")


@pytest.mark.parametrize("page", PAGES)
def test_reference_pages_are_as_the_code_is(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == PAGES[page](), "run `make reference`"


def test_every_query_of_the_documentation_is_answered(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.duckdb"
    with open_catalog(catalog, write=True):
        pass
    queries = [
        (page, query) for page in DOCS.rglob("*.md") for query in QUERY.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(queries) > 25
    with open_catalog(catalog) as connection:
        for page, query in queries:
            assert connection.execute(query).description, page


def test_every_table_and_view_has_a_query() -> None:
    queries = " ".join(QUERY.findall((DOCS / "queries.md").read_text(encoding="utf-8")))
    missing = [name for name in (*TABLES, *VIEWS) if not re.search(rf"(FROM|JOIN) {name}\b", queries)]
    assert not missing


def test_code_that_the_walks_quote_is_the_code() -> None:
    quoted = [found for page in (DOCS / "extend").glob("*.md") for found in QUOTED.findall(page.read_text("utf-8"))]
    assert len(quoted) > 10
    for file, code in quoted:
        assert code in (ROOT / file).read_text(encoding="utf-8"), f"{file}: the code has changed since it was quoted"


def settings() -> set[str]:
    """Every setting and section of the configuration, by its dotted name."""
    found, section = set[str](), ""
    for line in (DOCS / "configuration.md").read_text(encoding="utf-8").splitlines():
        if heading := SECTION.match(line):
            section = "" if heading[1] == "At the top" else f"{heading[1]}."
            found.add(section.rstrip("."))
        if setting := SETTING.match(line):
            found.add(section + setting[1])
    return found


def test_examples_of_configurations_and_json_can_be_read() -> None:
    known = settings()
    assert {"weightlens.z_tokens", "evaluate.how.max_copied"} <= known
    n = 0
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for kind, text in EXAMPLE.findall(page.read_text(encoding="utf-8")):
            n += 1
            if kind == "json":
                whole = text.splitlines()[0] == "{"  # otherwise each line is an object
                assert all(isinstance(json.loads(one), dict) for one in ([text] if whole else text.splitlines())), page
                continue
            example = yaml.safe_load(text)
            assert isinstance(example, dict), page
            for name, value in example.items():
                inner = value if isinstance(value, dict) else {}
                unknown = {name, *(f"{name}.{key}" for key in inner)} - known
                assert not unknown, f"{page.name}: {unknown}"
    assert n > 10


def test_pages_and_sections_that_the_code_mentions_exist() -> None:
    folders = ("interp", "storage", "tasks", "flows", "configs", "explorer", "benchmarks")
    n = 0
    for file in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        text = " ".join(file.read_text(encoding="utf-8").split())
        for page, number, title in MENTION.findall(text):
            n += 1
            content = (DOCS / f"{page}.md").read_text(encoding="utf-8")
            wanted = rf"^## {number}\. " if number else rf"^#+ {re.escape(title)}$" if title else "^# "
            assert re.search(wanted, content, re.MULTILINE), f"{file}: {page}.md has no section {number or title}"
    assert n > 10
