"""The documentation keeps up with the code: reference pages, queries, and every table, view, command and setting."""

import re
from pathlib import Path

import pytest

from docs.reference import PAGES
from storage.catalog.database import open_catalog
from storage.catalog.tables import TABLES, VIEWS

DOCS = Path(__file__).parents[1] / "docs"
QUERY = re.compile(r"```sql\n(.*?)```", re.DOTALL)


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
