"""Change a checkpoint's model and measure the effects."""

from collections.abc import Sequence

from circuit_insights.store import Store
from explorer.card import intervened_html, steered_html
from flows.one_prompt import intervene as interventions
from flows.one_prompt import steer as steering
from flows.one_prompt.asked import Asked, asked_change, asked_feature
from flows.one_prompt.intervene import Question
from flows.one_prompt.steer import Generation


class Steered(steering.Steered):
    """Continuations of a prompt by the model without changes and steered; a notebook shows both, token by token."""

    def _repr_html_(self) -> str:
        return steered_html(self)


class Intervened(interventions.Intervened):
    """The effects of interventions on a prompt, predicted and measured; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        return intervened_html(self)


def steer(
    store: Store,
    prompts: str | Sequence[str],
    features: Sequence[str],
    *,
    how: Generation | None = None,
    chat: bool = False,
) -> list[Steered]:
    """Continue prompts with features changed and without, like the command `steer`.

    `features` are changes like "12/345=8": held at an activation; "=2x": at this multiple of its greatest one on the
    corpus; "=off"; "=1..4": kept within; "=add:2". "12/345@-1=8" changes it at the prompt's last token only,
    "12/345@generated=8" from there on. `chat` puts prompts into the tokenizer's chat template.

    Raises:
        ValueError: a prompt is empty or too long, a feature or position does not exist, or a change cannot be parsed.
    """
    asked = _asked(features)
    return [Steered(*one) for one in steering.steer(store.opened(), _listed(prompts), asked, how, chat=chat)]


def generate(
    store: Store,
    prompts: str | Sequence[str],
    features: Sequence[str] = (),
    *,
    how: Generation | None = None,
    chat: bool = False,
) -> list[str]:
    """The model's continuations of prompts, with features changed as in `steer`, or unchanged.

    Raises:
        ValueError: as for `steer`.
    """
    return steering.generate(store.opened(), _listed(prompts), _asked(features), how, chat=chat)


def intervene(
    store: Store,
    prompt: str,
    changes: Sequence[str] | Sequence[Sequence[str]],
    *,
    targets: Sequence[str] = (),
    swap_from: str | None = None,
    chat: bool = False,
) -> list[Intervened]:
    """Change features and heads on a prompt and measure the effects on targets, like the command `intervene`.

    `changes` are made together; in a list of such lists (possibly thousands), each is made on its own copy of the
    prompt. A feature is "12/345=off" and so on (see `steer`, and "=swap"), a head "5.3=off", "=0.5x", "=mean" or
    "=swap"; swaps take the values on the prompt `swap_from`. `targets` are a token (" Paris", or "#ID"), two as "A|B"
    for the difference of their logits, "feature:12/345", "direction:FILE.npy", each with "@POSITION" for a position
    other than the last; none: the most probable next token.

    Raises:
        ValueError: the prompt is empty, a feature, head, position or target does not exist, or one cannot be parsed.
    """
    together = [one for one in changes if isinstance(one, str)]
    rows = [together] if together else [one for one in changes if not isinstance(one, str)]
    asked = [[asked_change(text) for text in row] for row in rows]
    question = Question(prompt, tuple(targets), swap_from)
    return [Intervened(*one) for one in interventions.intervene(store.opened(), question, asked, chat=chat)]


def _asked(features: Sequence[str]) -> list[Asked]:
    return [asked_feature(text) for text in ([features] if isinstance(features, str) else features)]


def _listed(prompts: str | Sequence[str]) -> list[str]:
    return [prompts] if isinstance(prompts, str) else list(prompts)
