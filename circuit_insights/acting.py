"""Change a checkpoint's model and see what follows."""

from collections.abc import Sequence

from circuit_insights.store import Store
from explorer.card import intervened_html, steered_html
from flows.prompts import intervene as interventions
from flows.prompts import steer as steering
from flows.prompts.asked import Asked, asked_change, asked_feature
from flows.prompts.intervene import Question
from flows.prompts.steer import Generation


class Steered(steering.Steered):
    """A prompt with what the model writes on it, as it is and steered; a notebook shows both, token by token."""

    def _repr_html_(self) -> str:
        return steered_html(self)


class Intervened(interventions.Intervened):
    """What interventions do on a prompt, predicted and measured; a notebook shows it as a table."""

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
    """Continue prompts with features changed, beside what the model writes as it is, like the command `steer`.

    `features` are changes like "12/345=8": held at an activation; "=2x": at so many times its greatest one on the
    corpus; "=off"; "=1..4": kept within; "=add:2". "12/345@-1=8" changes it at the prompt's last token alone,
    "12/345@generated=8" from there on. `chat` puts prompts into the tokenizer's chat template.

    Raises:
        ValueError: a prompt is empty or too long, a feature or position that there is not, or a change written wrongly.
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
    """What the model writes on prompts, with features changed as in `steer` or as it is.

    Raises:
        ValueError: as `steer` does.
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
    """Change features and heads on a prompt, and see what a target does, like the command `intervene`.

    `changes` are made together; or give a list of such lists, thousands if you like, and each is made on a copy of the
    prompt. A feature is "12/345=off" and so on (see `steer`, and "=swap"), a head "5.3=off", "=0.5x", "=mean" or
    "=swap"; swaps take what the prompt `swap_from` has there. `targets` are a token (" Paris", or "#ID"), two as
    "A|B" for the difference of their logits, "feature:12/345", "direction:FILE.npy", each with "@POSITION" for another
    than the last; none: the likeliest next token.

    Raises:
        ValueError: an empty prompt, a feature, head, position or target that there is not, or one written wrongly.
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
