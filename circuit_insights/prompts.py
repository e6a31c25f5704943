"""The activations of a checkpoint's features on a prompt."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from circuit_insights.store import Store
from explorer.card import activations_html
from flows.one_prompt.activations import Firing, active_at
from flows.one_prompt.graphs import labels


class PromptActivations(NamedTuple):
    """The active features of a prompt."""

    tokens: list[str]
    """The prompt as the model reads it, including BOS."""
    firings: list[Firing]
    """Active features by layer, then position, then feature."""
    descriptions: Mapping[tuple[int, int], str]
    """Descriptions by (layer, feature), for features that have one."""
    said: list[str]
    """What was done to the prompt that may be unexpected."""

    def at(self, position: int) -> list[Firing]:
        """The features of one token, the strongest first; −1 is the last token."""
        position = position % len(self.tokens)
        return sorted((one for one in self.firings if one.position == position), key=lambda one: -one.activation)

    def top(self, n: int = 5) -> Iterator[tuple[str, list[Firing]]]:
        """Each token with its strongest features."""
        for position, token in enumerate(self.tokens):
            yield token, self.at(position)[:n]

    def __repr__(self) -> str:
        return f"<PromptActivations: {len(self.firings)} active features at {len(self.tokens)} tokens>"

    def _repr_html_(self) -> str:
        return activations_html(list(self.top()), self.descriptions)


def activations(store: Store, prompt: str, layers: list[int] | None = None, chat: bool = False) -> PromptActivations:
    """The features that are active at each token of a prompt.

    Raises:
        ValueError: the prompt is empty or too long, or there is no such layer.
    """
    opened = store.opened()
    read = opened.read(prompt, chat=chat)
    found = active_at(opened, read, layers)
    return PromptActivations(
        list(read.texts), found, labels(opened.store, opened.checkpoint.checkpoint_id), list(read.said)
    )
