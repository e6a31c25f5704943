"""`prices`: the known prices of language models."""

from datetime import date

from flows.cli.app import app, out, report_errors
from flows.reports.tables import Table

OLD_DAYS = 180
"""The table of known prices should be checked when it is older than this, in days."""


@app.command()
def prices() -> None:
    """Show the known prices of language models, and the age of the table."""
    from tasks.llm.prices import known_prices

    with report_errors():
        known = known_prices()
        table = Table(
            "model", "input", "output", "cache write", "cache read", "batch", title="US dollars a million tokens"
        )
        for name, one in known.models.items():
            cached = [f"{price:g}" if price is not None else "as input" for price in (one.cache_write, one.cache_read)]
            table.add_row(name, f"{one.input:g}", f"{one.output:g}", *cached, f"x {one.batch:g}")
        out.print(table)
        age = (date.today() - known.as_of).days
        old = "; look at the provider's list, and set anthropic.prices where it differs" if age > OLD_DAYS else ""
        out.print(f"As of {known.as_of}, {age} days ago{old}")
