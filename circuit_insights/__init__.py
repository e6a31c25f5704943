"""Circuit Insights from Python: open a store, read its features, run its model.

    import circuit_insights as ci

    store = ci.open_store("store/demo")
    store.feature(2, 899)                    # in a notebook: the explorer's card
    store.search("past tense")
    store.sql("SELECT * FROM layer_summary").df()

The functions are those behind the command line, which `python -m circuit_insights` starts from any folder.

Modules are imported when one of their names is first used, since PyTorch and DuckDB take a second to import.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuit_insights.acting import Generation, Intervened, Steered, generate, intervene, steer
    from circuit_insights.attribution import Graph, attribute
    from circuit_insights.explaining import compare, explain
    from circuit_insights.feature import Feature
    from circuit_insights.prompts import PromptActivations
    from circuit_insights.store import Store, open_store

__version__ = version("circuit-insights")

_HOMES = {
    "Feature": "feature",
    "Generation": "acting",
    "Graph": "attribution",
    "Intervened": "acting",
    "PromptActivations": "prompts",
    "Steered": "acting",
    "Store": "store",
    "attribute": "attribution",
    "compare": "explaining",
    "explain": "explaining",
    "generate": "acting",
    "intervene": "acting",
    "open_store": "store",
    "steer": "acting",
}
"""The module of each name."""

__all__ = [
    "Feature", "Generation", "Graph", "Intervened", "PromptActivations", "Steered", "Store", "__version__", "attribute",
    "compare", "explain", "generate", "intervene", "open_store", "steer",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'circuit_insights' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"circuit_insights.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
