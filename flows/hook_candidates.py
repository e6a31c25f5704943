"""Find the hooks that a release was trained at, by measuring its transcoders at every plausible pair on a little text.

A transcoder that is read on the wrong side of a norm often still reconstructs something, and all later results are then
those of another function. Names of hooks differ between the libraries that train transcoders, so a release's own names
are not proof.
"""

from dataclasses import replace
from statistics import fmean
from typing import NamedTuple, get_args

from flows.ingest import quality_job
from flows.inputs.checkpoint_plan import CheckpointPlan
from interp.capture import Hooks, MlpInput, Place
from interp.quality import Quality
from tasks.ingest import IngestJob, measured

N_TOKENS = 2048
"""Largest number of tokens for the measurement; differences between candidates are far larger than the error."""

MARGIN = 0.02
"""Another pair of hooks is recommended if its explained variance is better by at least this."""


class HookCandidate(NamedTuple):
    """A pair of hooks that a release may have been trained at, and how well its transcoders reconstruct there."""

    hooks: Hooks
    layers: tuple[Quality, ...]
    """Quality of the first, the middle and the last layer."""

    @property
    def explained_variance(self) -> float:
        """The mean over the layers."""
        return fmean(layer.explained_variance for layer in self.layers)


class HookCandidates(NamedTuple):
    """Every plausible pair of hooks, the best first."""

    every: tuple[HookCandidate, ...]
    used: Hooks
    """The hooks that the configuration uses."""

    @property
    def is_right(self) -> bool:
        """Whether no other pair explains clearly more than the one in use."""
        used = next(reading for reading in self.every if reading.hooks == self.used)
        return self.every[0].explained_variance <= used.explained_variance + MARGIN

    @property
    def advice(self) -> str | None:
        """What to set, if another pair is better."""
        if self.is_right:
            return None
        best = self.every[0].hooks
        changes = {"input_hook": best.feature_input, "output_hook": best.feature_output}
        used = {"input_hook": self.used.feature_input, "output_hook": self.used.feature_output}
        words = " ".join(f"transcoder.{name}={hook}" for name, hook in changes.items() if used[name] != hook)
        return f"the release reconstructs clearly more with other hooks: set {words}"


def measure_candidates(plan: CheckpointPlan) -> HookCandidates:
    """Measure a release with every pair of hooks that its model allows. Nothing is written.

    Memory: the model, and one transcoder (for a cross-layer one, an encoder and a decoder of each lower layer).
    """
    job, layers = quality_job(plan), plan.layers
    job = replace(job, text=replace(job.text, n_tokens=min(N_TOKENS, job.text.n_tokens)))
    sampled = tuple(sorted({layers[0], layers[len(layers) // 2], layers[-1]}))
    found = [HookCandidate(hooks, _measured(job, hooks, sampled)) for hooks in plausible(plan)]
    return HookCandidates(tuple(sorted(found, key=lambda one: -one.explained_variance)), plan.transcoders.hooks)


def plausible(plan: CheckpointPlan) -> list[Hooks]:
    """The pairs of places that a release for this model may read and reconstruct; for autoencoders, the places that
    they may reconstruct."""
    family, used = plan.inputs.model.family, plan.transcoders.hooks
    outputs = ("mlp_out",) if family.mlp_output_norm is None else ("mlp_out", "mlp_out_normed")
    if used.rebuilds:
        places: tuple[Place, ...] = ("resid_pre", "resid_post", "attn_out", *outputs)
        return [Hooks(place, place) for place in places]
    inputs: tuple[MlpInput, ...] = ("resid_mid",) if family.mlp_norm is None else get_args(MlpInput)
    found = [Hooks(source, target) for source in inputs for target in outputs]
    return found if used in found else [*found, used]


def _measured(job: IngestJob, hooks: Hooks, layers: tuple[int, ...]) -> tuple[Quality, ...]:
    return tuple(quality for quality, _ in measured(replace(job, hooks=hooks), layers))
