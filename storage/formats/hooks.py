"""The names that releases use for the places which features read and reconstruct, and the names used here."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from interp.capture import Hooks, InputHook, MlpInput, MlpOutput, OutputHook, Place
from interp.families import Family, family_of
from storage.foreign import shown

INPUTS: dict[str, MlpInput] = {
    **{name: name for name in get_args(MlpInput)},
    "hook_resid_mid": "resid_mid",
    "mlp.hook_in": "mlp_in",
    "mlp.input": "mlp_in",
    "pre_feedforward_layernorm.output": "mlp_in",
}
"""Names of TransformerLens and of modules that have the same meaning in every family."""

OUTPUTS: dict[str, MlpOutput] = {
    **{name: name for name in get_args(MlpOutput)},
    "mlp.hook_out": "mlp_out",
    "mlp.output": "mlp_out",
    "post_feedforward_layernorm.output": "mlp_out_normed",
}

PLACES: dict[str, Place] = {
    **{name: name for name in get_args(Place)},
    "hook_resid_pre": "resid_pre",
    "hook_resid_post": "resid_post",
    "output": "resid_post",
    "hook_attn_out": "attn_out",
    "mlp.hook_out": "mlp_out",
    "mlp.output": "mlp_out",
    "post_feedforward_layernorm.output": "mlp_out_normed",
}
"""Names of TransformerLens and of modules for places that autoencoders rebuild."""

REFUSED_PLACES = {
    "attn.hook_z": "what attention heads mix, before it is written: vectors of another width than the model's",
    "hook_resid_mid": "the residual stream between attention and MLP, which no module of transformers returns",
}
"""Places of autoencoders that are known and not read, and what they are."""

NORMALIZED, MLP_OUT, MLP_IN = "ln2.hook_normalized", "hook_mlp_out", "hook_mlp_in"
"""TransformerLens names whose meaning depends on the family, or on the library that uses them."""


@dataclass(frozen=True)
class HookNames:
    """How the hooks of a release are read: for which model, which hooks to use instead of those it names, and for which
    layers."""

    model_type: str
    """`config.model_type` of the model."""
    input_hook: InputHook | None = None
    output_hook: OutputHook | None = None
    only: tuple[int, ...] | None = None
    """The layers that are read; None: all."""

    def hooks(self, source: Path, input_name: object, output_name: object, *, norm_folded: bool | None = None) -> Hooks:
        """The hooks that a release names; `source` is the file or folder for messages. The settings override them.

        `norm_folded` says whether the model that the transcoders were trained on had the weight and bias of its
        LayerNorms folded into the next layer.

        Raises:
            ValueError: a name is missing, unknown or has no clear meaning in this family.
        """
        family = family_of(self.model_type)
        hooks = Hooks(
            self.input_hook or _input_hook(family, source, input_name, norm_folded),
            self.output_hook or _output_hook(family, source, output_name),
        )
        is_transcoder = hooks.feature_input in get_args(MlpInput) and hooks.feature_output in get_args(MlpOutput)
        if not (hooks.rebuilds or is_transcoder):
            raise ValueError(
                f"{source}: reads {hooks.feature_input} for {hooks.feature_output}; expected an MLP's input and output "
                "(a transcoder), or one place for both (an autoencoder): set transcoder.input_hook and "
                "transcoder.output_hook"
            )
        return hooks

    def autoencoder(self, source: Path, name: object) -> Hooks:
        """The hooks of an autoencoder that rebuilds the place of this name, as `hooks` has those of a transcoder.

        Raises:
            ValueError: the place is missing, unknown or none that is read.
        """
        if self.input_hook is not None and self.output_hook is not None:
            return self.hooks(source, None, None)
        if isinstance(name, str) and name in REFUSED_PLACES:
            raise ValueError(f"{source}: rebuilds {name}, {REFUSED_PLACES[name]}; expected one of {', '.join(PLACES)}")
        place = PLACES.get(name) if isinstance(name, str) else None
        if name == MLP_OUT:
            place = _output_hook(family_of(self.model_type), source, name)
        if place is None:
            named = "a place that is not said" if name is None else shown(name)
            raise ValueError(
                f"{source}: rebuilds {named}; expected one of {', '.join([*PLACES, MLP_OUT])}, or set both "
                "transcoder.input_hook and transcoder.output_hook to the place"
            )
        return Hooks(place, place)


def layer_and_name(hook: str) -> tuple[int | None, str]:
    """Split `blocks.8.hook_mlp_out` or `model.layers.8.mlp.output` into the layer and the rest."""
    match = re.fullmatch(r"(?:.*\.)?(?:blocks|layers|h)\.([0-9]{1,6})\.(.+)", hook)
    return (int(match[1]), match[2]) if match else (None, hook)


def _input_hook(family: Family, source: Path, name: object, norm_folded: bool | None) -> MlpInput:
    if name == NORMALIZED:
        if not family.centred or norm_folded:
            return "mlp_in_normalized"
        if norm_folded is False:
            return "mlp_in"  # TransformerLens puts this hook after the weight and bias of a LayerNorm
        raise _unclear(
            source,
            "input",
            name,
            "after the norm's weight, unless the weight was folded, which the release does not say",
        )
    if name == MLP_IN:
        raise _unclear(source, "input", name, "the residual stream in TransformerLens, the MLP's input in SAELens")
    if not isinstance(name, str) or name not in INPUTS:
        raise _unknown(source, "input", name, [*INPUTS, NORMALIZED])
    return INPUTS[name]


def _output_hook(family: Family, source: Path, name: object) -> MlpOutput:
    if name == MLP_OUT:
        return "mlp_out" if family.mlp_output_norm is None else "mlp_out_normed"
    if not isinstance(name, str) or name not in OUTPUTS:
        raise _unknown(source, "output", name, [*OUTPUTS, MLP_OUT])
    return OUTPUTS[name]


def _unclear(source: Path, side: str, name: object, why: str) -> ValueError:
    choices = ", ".join(get_args(MlpInput))
    return ValueError(f"{source}: the {side} hook {name} is {why}; set transcoder.{side}_hook to one of {choices}")


def _unknown(source: Path, side: str, name: object, known: list[str]) -> ValueError:
    if name is None:
        return ValueError(f"{source}: the {side} hook is not named; set transcoder.{side}_hook")
    return ValueError(
        f"{source}: the {side} hook is {shown(name)}; expected one of {', '.join(known)}, or set transcoder.{side}_hook"
    )
