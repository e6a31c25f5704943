"""One feature: what is known of it, and its card."""

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
    """What one method says of a feature, or of one of its clusters."""

    method: str
    explainer: str
    cluster: int
    """−1: of the whole feature."""
    text: str


class Context(NamedTuple):
    """A sampled activation with the text around it, which is None where the catalog keeps no texts."""

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
    """A token that a feature's weights single out."""

    text: str | None
    token_id: int
    sign: int
    """1: it fires the feature, or is promoted by it; −1: it silences it, or is suppressed."""
    score: float | None
    z_score: float | None
    activation: float | None
    """The feature's activation on that token alone."""
    validated: bool | None
    """Whether the token alone fires it."""
    source_layer: int | None
    """From which earlier feature the token is inherited; None: from none."""
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
    """A mechanism by which a feature fires."""

    cluster: int
    """−1: samples that belong to none."""
    n_samples: int
    share: float
    signature: list[str]


class Score(NamedTuple):
    """How well a description did in one respect."""

    method: str
    explainer: str
    judge: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    reason: str | None
    """Why there is no value."""


class Feature:
    """A feature of a checkpoint, with all that the catalog knows of it. A notebook shows it as the explorer's card."""

    def __init__(self, pages: Catalog, checkpoint_id: str, layer: int, feature: int, corpus: str | None = None) -> None:
        """Look it up.

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
        """What the best of the methods that described it says; None where none did."""
        return self._page.facts["label"]

    def descriptions(self) -> list[Description]:
        """What every method says of it and of its clusters, the best method first."""
        return _rows(Description, self._page.panels["descriptions"].rows)

    def contexts(self) -> list[Context]:
        """The feature's greatest activations in their texts, those of each cluster, and one of each quantile; the
        greatest first."""
        return _rows(Context, self._page.panels["contexts"].rows)

    @cached_property
    def tokens_in(self) -> list[TokenScore]:
        """Tokens that its encoder singles out: those that fire it, then those that silence it."""
        return self._tokens("input")

    @cached_property
    def tokens_out(self) -> list[TokenScore]:
        """Next tokens that its decoder singles out: those that it promotes, then those that it suppresses."""
        return self._tokens("output")

    def upstream(self) -> list[Edge]:
        """Earlier features that write what it reads, the strongest first."""
        return _rows(Edge, self._page.panels["upstream"].rows)

    def downstream(self) -> list[Edge]:
        """Later features that read what it writes, the strongest first."""
        return _rows(Edge, self._page.panels["downstream"].rows)

    def clusters(self) -> list[Cluster]:
        """The mechanisms by which it fires, the largest first."""
        return _rows(Cluster, self._page.panels["clusters"].rows)

    def scores(self) -> list[Score]:
        """How well its descriptions did, by metric, method and judge."""
        return _rows(Score, self._page.panels["scores"].rows)

    def _tokens(self, side: str) -> list[TokenScore]:
        return _rows(TokenScore, (row for row in self._page.panels["tokens"].rows if row["side"] == side))


def _rows(kind: type[Row], rows: Iterable[Mapping[str, object]]) -> list[Row]:
    names: tuple[str, ...] = getattr(kind, "_fields")  # noqa: B009  (of a NamedTuple)
    make = cast(Callable[..., Row], kind)
    return [make(*(row[name] for name in names)) for row in rows]
