"""Settings of training transcoders."""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt

from interp.transcoder import ActivationName

NOT_IN_RECIPE = ("max_memory",)
"""Settings that the trained weights do not depend on."""


@dataclass(frozen=True)
class TrainingSettings:
    """How transcoders are trained."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    d_transcoder: Annotated[int, Gt(0), Le(10_000_000)] = 1024
    """Features in each layer."""
    activation: ActivationName = "topk"
    """relu, jumprelu or topk."""
    k: Annotated[int, Gt(0)] = 32
    """TopK: active features at a token."""
    sparsity: Annotated[float, Ge(0)] = 3e-3
    """ReLU: weight of the L1 penalty; JumpReLU: weight of the L0 penalty. Unused by TopK."""
    skip: bool = False
    """Add a linear skip connection from the MLP's input to its output."""
    n_steps: Annotated[int, Gt(0)] = 1000
    """Optimiser steps."""
    batch_tokens: Annotated[int, Gt(0)] = 4096
    """Tokens in a step."""
    learning_rate: Annotated[float, Gt(0)] = 2e-3
    """Peak of Adam's learning rate."""
    warm_up: Annotated[float, Ge(0), Le(1)] = 0.05
    """Share of the steps over which the learning rate rises to its peak."""
    decay: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the steps, the last ones, over which it falls to zero, linearly."""
    dead_after_tokens: Annotated[int, Gt(0)] = 200_000
    """A feature that has not fired for this many tokens is dead. TopK: an auxiliary loss lets dead features explain
    what the others leave unexplained. ReLU and JumpReLU: it is initialised again, from a token that is explained
    badly."""
    max_frequency: Annotated[float, Gt(0), Le(1)] | None = None
    """Share of the tokens at which a feature may fire. Every step lowers the biases of those that fire at more of its
    batch, so that they fire where they matter most, and others take their place. With TopK it must leave room for `k`
    active features; `2 k / d_transcoder`, twice the mean frequency, is a mild limit. Left out: no limit."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the model's forward pass and of TopK's encoder products. bfloat16 is several times as fast on
    processors with such arithmetic; it changes the model's streams by some 0.04% of their variance. Weights, sums
    and figures are in float32."""
    max_memory: Annotated[float, Gt(0)] | None = None
    """GB that training may use. All layers train from one pass of the model if their weights and optimiser states fit,
    else in groups with a pass for each. Left out: three quarters of the free memory of this machine."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of the initial features and of the order of the data."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch has it."""
        return getattr(torch, self.dtype)

    @property
    def determining(self) -> dict[str, object]:
        """The settings that the trained weights depend on. A limit that is not set is left out: what was trained before
        there was one keeps its recipe."""
        every = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in NOT_IN_RECIPE}
        return {name: value for name, value in every.items() if name != "max_frequency" or value is not None}
