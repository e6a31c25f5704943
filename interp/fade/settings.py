"""Settings of the evaluation of descriptions."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le, MinLen


@dataclass(frozen=True)
class FaithfulnessSettings:
    """How the model is steered by a feature. This is the costly part: the model continues every prompt at every
    factor."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    features_per_layer: Annotated[int, Ge(0)] = 50
    """Features steered in each layer, the first of those judged; 0: none."""
    factors: Annotated[tuple[float, ...], MinLen(2)] = (-50.0, -10.0, -1.0, 0.0, 1.0, 10.0, 50.0)
    """Multiples of the feature's greatest natural activation that it is set to; 0 must be among them."""
    n_prompts: Annotated[int, Gt(0)] = 50
    """Prompts (beginnings of held-out texts) that the model continues."""
    prompt_tokens: Annotated[int, Gt(0)] = 8
    """Length of a prompt in tokens."""
    new_tokens: Annotated[int, Gt(0)] = 30
    """Length of a continuation in tokens."""

    def __post_init__(self) -> None:
        if 0 not in self.factors or len(set(self.factors)) < len(self.factors):
            raise ValueError(f"factors: expected different numbers, 0 among them, found {list(self.factors)}")


@dataclass(frozen=True)
class EvaluateSettings:
    """How many descriptions are judged, and on what. All texts are from the documents that `corpus.held_out` sets
    aside."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    features_per_layer: Annotated[int, Gt(0)] = 250
    """Features judged in each layer, drawn from those with a description. The paper: about 250."""
    seed: int = 0
    """Seed of all random draws of this stage."""
    n_texts: Annotated[int, Gt(1)] = 2000
    """Largest number of natural texts."""
    text_tokens: Annotated[int, Gt(1)] = 32
    """Length of a natural text in tokens."""
    n_rated: Annotated[int, Gt(1)] = 500
    """Natural texts that are rated for each feature: equal numbers from the weaker half of its activations, from the
    two groups between that and the 95th percentile, and from the strongest 5%; a tenth is from the very top. The
    paper: 500."""
    n_synthetic: Annotated[int, Gt(0)] = 50
    """Largest number of texts written from a description."""
    n_fuzzed: Annotated[int, Ge(0)] = 40
    """Texts with marked tokens, half of them marked wrongly; 0: no fuzzing."""
    n_hard: Annotated[int, Ge(0)] = 20
    """Hard negatives: texts of the nearest other features, by decoder and by tokens, in which this feature is silent.
    They are rated, and judged with the other feature's tokens marked; 0: none."""
    n_intruder: Annotated[int, Ge(0)] = 10
    """Groups of five texts with one intruder; 0: none."""
    n_surprisal: Annotated[int, Ge(0)] = 20
    """Texts whose surprisal is compared with and without the description, if `evaluate.surprisal` names a model."""
    n_simulated: Annotated[int, Ge(0)] = 100
    """Texts in which activity is predicted token by token; 0: no simulation."""
    texts_per_question: Annotated[int, Gt(0)] = 15
    """Texts that a language model rates in one question. FADE: 15."""
    max_copied: Annotated[float, Ge(0), Le(1)] = 0.25
    """A natural text is left out as a near-duplicate if more than this share of its runs of 13 tokens occurs in the
    documents that statistics are computed from; 1: none is left out."""
    faithfulness: FaithfulnessSettings = FaithfulnessSettings()
