"""Settings of judging descriptions."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le, MinLen


@dataclass(frozen=True)
class FaithfulnessSettings:
    """How the model is steered by a feature. The costly part: every factor writes every prompt on."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    features_per_layer: Annotated[int, Ge(0)] = 50
    """Features a layer that are steered, the first of those judged; 0: none."""
    factors: Annotated[tuple[float, ...], MinLen(2)] = (-50.0, -10.0, -1.0, 0.0, 1.0, 10.0, 50.0)
    """Multiples of the feature's greatest natural activation that it is set to; 0 must be among them."""
    n_prompts: Annotated[int, Gt(0)] = 50
    """Beginnings of held-out texts that are written on."""
    prompt_tokens: Annotated[int, Gt(0)] = 8
    """Tokens of such a beginning."""
    new_tokens: Annotated[int, Gt(0)] = 30
    """Tokens written on."""

    def __post_init__(self) -> None:
        if 0 not in self.factors or len(set(self.factors)) < len(self.factors):
            raise ValueError(f"factors: expected different numbers, 0 among them, found {list(self.factors)}")


@dataclass(frozen=True)
class EvaluateSettings:
    """How much is judged, and on what. All texts are from the documents that `corpus.held_out` keeps apart."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    features_per_layer: Annotated[int, Gt(0)] = 250
    """Features a layer that are judged, drawn from those that have a description. The paper: about 250."""
    seed: int = 0
    """Seed of every draw of this stage."""
    n_texts: Annotated[int, Gt(1)] = 2000
    """Natural texts, at most."""
    text_tokens: Annotated[int, Gt(1)] = 32
    """Tokens a natural text."""
    n_rated: Annotated[int, Gt(1)] = 500
    """How many of them are rated: an even share each of the weaker half, the next two quarters up to 95% and the
    strongest 5%, and a tenth from the very top. The paper: 500."""
    n_synthetic: Annotated[int, Gt(0)] = 50
    """Texts written from a description, at most."""
    n_fuzzed: Annotated[int, Ge(0)] = 40
    """Texts with marked tokens, half of them marked wrongly; 0: no fuzzing."""
    n_hard: Annotated[int, Ge(0)] = 20
    """Hard negatives: texts of the nearest other features, by decoder and by tokens, in which the feature is silent;
    rated, and with the others' tokens marked; 0: none."""
    n_intruder: Annotated[int, Ge(0)] = 10
    """Groups of five texts of which one is odd; 0: none."""
    n_surprisal: Annotated[int, Ge(0)] = 20
    """Texts whose surprisal is compared with and without the description, where `evaluate.surprisal` names a model."""
    n_simulated: Annotated[int, Ge(0)] = 100
    """Texts in which activity is predicted token by token; 0: no simulation."""
    texts_per_question: Annotated[int, Gt(0)] = 15
    """Texts that a language model rates at once. FADE: 15."""
    max_copied: Annotated[float, Ge(0), Le(1)] = 0.25
    """A natural text is a near-duplicate, and left out, if more than this share of its runs of 13 tokens stands in the
    text that statistics are taken from; 1: none is."""
    faithfulness: FaithfulnessSettings = FaithfulnessSettings()
