"""Circuit Insights from Python: open a store, read its features, ask its model.

    import circuit_insights as ci

    store = ci.open_store("store/demo")
    store.feature(2, 899)                    # in a notebook: the explorer's card
    store.search("past tense")
    store.sql("SELECT * FROM layer_summary").df()

Everything here is what the command line does too, by the same functions; `python -m circuit_insights` is the command
line, wherever one stands.

What is named here is imported when it is first used: PyTorch and DuckDB take a second.
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
"""In which module each name is."""

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
