"""Load calls of language models into the catalog."""

from dataclasses import asdict

from storage.answers import Call
from storage.catalog.database import open_catalog
from storage.catalog.parts import write_part
from storage.parquet import READ_PARTS
from storage.store import Store
from tasks.llm.prices import Observed
from tasks.shard_task import shard_task


@shard_task("load-calls", "load calls")
def load_calls(store: Store, run_id: str, number: int, calls: list[Call]) -> int:
    """Load the calls that are not in the catalog yet; returns the number given."""
    if calls:
        different = [asdict(call) for call in {call.call_id: call for call in calls}.values()]
        path = store.parts("llm_calls", run_id) / f"{number:06d}.parquet"
        columns = {name: [call[name] for call in different] for name in different[0]}
        write_part(path, "llm_calls", columns, len(different))
        with open_catalog(store.catalog, write=True) as connection:
            known = "SELECT call_id FROM llm_calls"
            connection.execute(
                f"INSERT INTO llm_calls BY NAME SELECT * FROM {READ_PARTS} WHERE call_id NOT IN ({known})",
                [str(path)],
            )
    return len(calls)


def observed_usage(store: Store, model: str) -> dict[str, Observed]:
    """Mean usage by kind of question, over the questions that a model answered; kinds without any are left out."""
    query = """SELECT purpose, sum(input_tokens) FILTER (characters > 0) / nullif(sum(characters), 0),
                      avg(output_tokens) FROM llm_calls
               WHERE model = ? AND NOT cached AND status = 'ok' AND input_tokens > 0 GROUP BY purpose"""
    with open_catalog(store.catalog) as connection:
        return {purpose: Observed(*means) for purpose, *means in connection.execute(query, [model]).fetchall()}
