"""What releases call the places where transcoders read and write, and what they are called here."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from interp.capture import Hooks, InputHook, OutputHook
from interp.families import Family, family_of
from storage.foreign import shown

INPUTS: dict[str, InputHook] = {
    **{name: name for name in get_args(InputHook)},
    "hook_resid_mid": "resid_mid",
    "mlp.hook_in": "mlp_in",
    "mlp.input": "mlp_in",
    "pre_feedforward_layernorm.output": "mlp_in",
}
"""Names of TransformerLens and of modules that mean the same in every family."""

OUTPUTS: dict[str, OutputHook] = {
    **{name: name for name in get_args(OutputHook)},
    "mlp.hook_out": "mlp_out",
    "mlp.output": "mlp_out",
    "post_feedforward_layernorm.output": "mlp_out_normed",
}

NORMALIZED, MLP_OUT, MLP_IN = "ln2.hook_normalized", "hook_mlp_out", "hook_mlp_in"
"""TransformerLens names whose meaning depends on the family, or on who uses them."""


@dataclass(frozen=True)
class HookNames:
    """How a release is to be read: which model its names of hooks are about, what is to hold instead of them, and of
    which layers."""

    model_type: str
    """`config.model_type` of the model."""
    input_hook: InputHook | None = None
    output_hook: OutputHook | None = None
    only: tuple[int, ...] | None = None
    """Only these layers are read; None: all."""

    def hooks(self, source: Path, input_name: object, output_name: object, *, norm_folded: bool | None = None) -> Hooks:
        """The hooks that a release, described by the file or folder `source`, names; None where it does not.

        `norm_folded` says whether the model that the transcoders were trained on had the weight and bias of its
        LayerNorms folded into the next layer.

        Raises:
            ValueError: a name is missing, unknown or has no clear meaning in this family.
        """
        family = family_of(self.model_type)
        return Hooks(
            self.input_hook or _input_hook(family, source, input_name, norm_folded),
            self.output_hook or _output_hook(family, source, output_name),
        )


def layer_and_name(hook: str) -> tuple[int | None, str]:
    """Split `blocks.8.hook_mlp_out` or `model.layers.8.mlp.output` into the layer and the place in it."""
    match = re.fullmatch(r"(?:.*\.)?(?:blocks|layers|h)\.([0-9]{1,6})\.(.+)", hook)
    return (int(match[1]), match[2]) if match else (None, hook)


def _input_hook(family: Family, source: Path, name: object, norm_folded: bool | None) -> InputHook:
    if name == NORMALIZED:
        if not family.centred or norm_folded:
            return "mlp_in_normalized"
        if norm_folded is False:
            return "mlp_in"  # TransformerLens puts this hook behind the weight and bias of a LayerNorm
        raise _unclear(source, "input", name, "after the norm's weight unless that was folded, which is not said")
    if name == MLP_IN:
        raise _unclear(source, "input", name, "the residual stream in TransformerLens, the MLP's input in SAELens")
    if not isinstance(name, str) or name not in INPUTS:
        raise _unknown(source, "input", name, [*INPUTS, NORMALIZED])
    return INPUTS[name]


def _output_hook(family: Family, source: Path, name: object) -> OutputHook:
    if name == MLP_OUT:
        return "mlp_out" if family.mlp_output_norm is None else "mlp_out_normed"
    if not isinstance(name, str) or name not in OUTPUTS:
        raise _unknown(source, "output", name, [*OUTPUTS, MLP_OUT])
    return OUTPUTS[name]


def _unclear(source: Path, side: str, name: object, why: str) -> ValueError:
    choices = ", ".join(get_args(InputHook))
    return ValueError(f"{source}: the {side} hook {name} is {why}; set transcoder.{side}_hook to one of {choices}")


def _unknown(source: Path, side: str, name: object, known: list[str]) -> ValueError:
    if name is None:
        return ValueError(f"{source}: the {side} hook is not said; set transcoder.{side}_hook")
    return ValueError(
        f"{source}: the {side} hook is {shown(name)}; expected one of {', '.join(known)}, or set transcoder.{side}_hook"
    )
