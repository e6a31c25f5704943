"""Which stages have nothing to do for autoencoders, decided by the places that they read and reconstruct."""

from collections.abc import Mapping
from typing import get_args

from configs.run import RunConfig
from configs.stages import StageName
from interp.capture import Hooks, MlpOutput

NO_EDGES = (
    "autoencoders of several layers show one stream again and again, so that what two of their features have in common "
    "is no step of the model; edges are of transcoders"
)

BEHIND_MLP = (
    "features read what an MLP wrote, behind the MLP's nonlinearity, through which no direction can be carried down"
)


def stages_left_out(hooks: Hooks) -> Mapping[StageName, str]:
    """The stages that have nothing to do for features with these hooks, each with the reason in a sentence."""
    if not hooks.rebuilds:
        return {}
    left_out: dict[StageName, str] = {"coactivation": NO_EDGES}
    if hooks.feature_input in get_args(MlpOutput):
        left_out["circuitlens"] = BEHIND_MLP
    return left_out


def check_settings(config: RunConfig, hooks: Hooks) -> None:
    """Refuse settings that mean nothing for features with these hooks.

    Raises:
        ValueError: names the setting.
    """
    if not hooks.rebuilds:
        return
    if config.weightlens.compat is not None:
        raise ValueError(f"weightlens.compat is {config.weightlens.compat}, which is about transcoders; expected none")
    if config.evaluate.decoys:
        raise ValueError(f"evaluate.decoys is {config.evaluate.decoys}; decoys are made of transcoders alone: set 0")
