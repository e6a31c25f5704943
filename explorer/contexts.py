"""Samples in their text, prepared for display: which token fired, which tokens caused it, and how strongly."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup, escape

from explorer.catalog import Row
from explorer.texts import heat, running

LINE_END = Markup('↵<span class="line">\n</span>')
"""In a line of the concordance only the arrow is shown; in the opened text a new line follows it."""


class Span(NamedTuple):
    """Consecutive tokens with the same appearance."""

    html: Markup
    own: int
    """Colour step of the feature's own activation there."""
    cause: int
    """Colour step of the contribution to the activation at the firing token."""
    share: float | None
    """That contribution as a share."""
    fires: bool


class Line(NamedTuple):
    """A sample's text before the firing token, that token, and the text after it."""

    before: list[Span]
    token: Span
    after: list[Span]


def line(context: Row, greatest: float) -> Line | None:
    """A row of the view `contexts`, coloured relative to the feature's greatest activation; None if texts are not
    stored.

    A character made of several tokens is on the first of them, so the firing token's text may be empty: then the last
    token before it with a text is shown in its place.
    """
    tokens: Sequence[str] | None = context["tokens"]
    if not tokens:
        return None
    first = context["first_position"]
    at = min(len(tokens) - 1, max(0, context["position"] - first))
    while at > 0 and not tokens[at]:
        at -= 1
    causes = {cause["position"] - first: cause["share"] for cause in context["causes"] or ()}
    strongest = max(causes.values(), default=0.0)
    own = context["activations"] or [0.0] * len(tokens)
    spans = []
    for index, text in enumerate(tokens):
        fires = index == at
        share = causes.get(index)
        value = context["activation"] if fires else own[index]
        spans.append(Span(_html(text), heat(value, greatest), heat(share, strongest), share, fires))
    return Line(_joined(spans[:at]), spans[at], _joined(spans[at + 1 :]))


def _html(text: str) -> Markup:
    if text.isprintable():
        return escape(text)
    return LINE_END.join(escape(part) for part in running(text).split("↵"))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Neighbouring tokens without colour are joined to one span, since they are most of a text."""
    joined: list[Span] = []
    for heated, group in groupby(spans, lambda span: bool(span.own or span.cause)):
        alike = list(group)
        joined += alike if heated else [Span(Markup("").join(span.html for span in alike), 0, 0, None, False)]
    return joined
