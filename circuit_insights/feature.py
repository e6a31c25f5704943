"""One feature: its data in the catalog, and its card."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple, TypeVar, cast

from explorer.card import card_html
from explorer.catalog import Catalog
from explorer.errors import ExplorerError
from explorer.page import Page
from explorer.views.feature import feature_page

Row = TypeVar("Row", bound=tuple)


class Description(NamedTuple):
    """The description of a feature, or of one of its clusters, by one method."""

    method: str
    explainer: str
    cluster: int
    """−1: the description is of the whole feature."""
    text: str


class Context(NamedTuple):
    """A sampled activation with the text around it; the text is None where the catalog keeps no texts."""

    sample: int
    activation: float
    before: str | None
    token: str | None
    after: str | None
    cluster: int | None
    quantile_bin: int | None
    document: int | None
    sequence: int
    position: int


class TokenScore(NamedTuple):
    """A token that is an outlier for a feature's weights."""

    text: str | None
    token_id: int
    sign: int
    """1: it fires the feature, or is promoted by it; −1: it silences it, or is suppressed."""
    score: float | None
    z_score: float | None
    activation: float | None
    """The feature's activation on that token alone."""
    validated: bool | None
    """Whether the token alone fires the feature."""
    source_layer: int | None
    """The earlier feature that the token is inherited from; None: it is not inherited."""
    source_feature: int | None


class Edge(NamedTuple):
    """Another feature that writes what this one reads, or reads what it writes."""

    layer: int
    feature: int
    description: str | None
    virtual_weight: float | None
    z_score: float | None
    twera: float | None
    twera_low: float | None
    twera_high: float | None
    n_coactive: int | None


class Cluster(NamedTuple):
    """One way in which a feature is made to fire."""

    cluster: int
    """−1: samples that are in no cluster."""
    n_samples: int
    share: float
    signature: list[str]


class Score(NamedTuple):
    """One metric of a description."""

    method: str
    explainer: str
    judge: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    reason: str | None
    """The reason if there is no value."""


class Feature:
    """A feature of a checkpoint with its data in the catalog. A notebook shows it as the explorer's card."""

    def __init__(self, pages: Catalog, checkpoint_id: str, layer: int, feature: int, corpus: str | None = None) -> None:
        """Find the feature in the catalog.

        Raises:
            ValueError: there is no such feature, or no such corpus.
        """
        self.layer, self.feature, self.corpus = layer, feature, corpus
        try:
            if layer < 0 or feature < 0:
                raise ValueError(f"no feature {feature} in layer {layer}: both are counted from 0")
            with pages.reading() as reader:
                self._page: Page = feature_page(reader, checkpoint_id, layer, feature, corpus)
        except ExplorerError as error:
            raise ValueError(str(error)) from None

    def __repr__(self) -> str:
        return f"<Feature {self.layer}/{self.feature}: {self.description or 'no description'}>"

    def _repr_html_(self) -> str:
        return card_html(self._page)

    @property
    def description(self) -> str | None:
        """The description by the preferred one of the methods that described it; None if there is none."""
        return self._page.facts["label"]

    def descriptions(self) -> list[Description]:
        """The descriptions of it and of its clusters by every method, the preferred method first."""
        return _rows(Description, self._page.panels["descriptions"].rows)

    def contexts(self) -> list[Context]:
        """The feature's greatest activations with their texts, those of each cluster, and one of each quantile; the
        greatest first."""
        return _rows(Context, self._page.panels["contexts"].rows)

    @cached_property
    def tokens_in(self) -> list[TokenScore]:
        """Tokens that are outliers for its encoder: those that fire it, then those that silence it."""
        return self._tokens("input")

    @cached_property
    def tokens_out(self) -> list[TokenScore]:
        """Next tokens that are outliers for its decoder: those that it promotes, then those that it suppresses."""
        return self._tokens("output")

    def upstream(self) -> list[Edge]:
        """Earlier features that write what it reads, the strongest first."""
        return _rows(Edge, self._page.panels["upstream"].rows)

    def downstream(self) -> list[Edge]:
        """Later features that read what it writes, the strongest first."""
        return _rows(Edge, self._page.panels["downstream"].rows)

    def clusters(self) -> list[Cluster]:
        """The mechanisms by which it fires, the largest cluster first."""
        return _rows(Cluster, self._page.panels["clusters"].rows)

    def scores(self) -> list[Score]:
        """The metrics of its descriptions, by metric, method and judge."""
        return _rows(Score, self._page.panels["scores"].rows)

    def _tokens(self, side: str) -> list[TokenScore]:
        return _rows(TokenScore, (row for row in self._page.panels["tokens"].rows if row["side"] == side))


def _rows(kind: type[Row], rows: Iterable[Mapping[str, object]]) -> list[Row]:
    names: tuple[str, ...] = getattr(kind, "_fields")  # noqa: B009  (of a NamedTuple)
    make = cast(Callable[..., Row], kind)
    return [make(*(row[name] for name in names)) for row in rows]
