"""Cards for notebooks: the content of pages in small form, without scripts, with every text escaped as on pages."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from jinja2 import Environment

from explorer.graphs import checked, summary
from explorer.page import Page, environment


class FiringLike(Protocol):
    """A feature that is active at a token."""

    @property
    def layer(self) -> int:
        """The layer of the feature."""
        ...

    @property
    def feature(self) -> int:
        """The number of the feature in its layer."""
        ...

    @property
    def activation(self) -> float:
        """Its activation, in the transcoder's units."""
        ...


class _Named(NamedTuple):
    layer: int
    feature: int
    activation: float
    description: str


def card_html(page: Page) -> str:
    """A feature's page as a card: descriptions, contexts, tokens, edges."""
    return _templates().get_template("card.html").render(page=page)


def activations_html(
    tokens: Iterable[tuple[str, Sequence[FiringLike]]], descriptions: Mapping[tuple[int, int], str]
) -> str:
    """Each token of a prompt with its strongest features."""
    rows = [
        (token, [_Named(one.layer, one.feature, one.activation, descriptions.get((one.layer, one.feature), ""))
                 for one in found])
        for token, found in tokens
    ]  # fmt: skip
    return _templates().get_template("card_activations.html").render(rows=rows)


def graph_html(graph: object, n: int) -> str:
    """The strongest nodes and links of an attribution graph."""
    read = checked(graph, "the graph")
    return _templates().get_template("card_graph.html").render(metadata=read["metadata"], **summary(read, n))


def steered_html(steered: object) -> str:
    """A prompt with its continuations by the unchanged and by the steered model, with probabilities at each token."""
    return _templates().get_template("card_steered.html").render(one=steered)


def intervened_html(intervened: object) -> str:
    """The effects of interventions on targets, predicted and measured."""
    return _templates().get_template("card_intervened.html").render(one=intervened)


@lru_cache
def _templates() -> Environment:
    return environment(_no_address)


def _no_address(page: str, /, **shown: object) -> str:
    return ""
