"""How closely frozen models are the models, and contributions sum to activations, on a tiny one of each family.

`python -m benchmarks.families` prints a row of the table in docs/extend/family.md for each.
"""

from operator import attrgetter

import torch

from interp.capture import HookedModel, Hooks, capture
from interp.circuitlens.attribution import contributions, feature_targets, logit_targets
from interp.families import family_of
from tests.frozen_models import TOKENS, frozen_model, open_model, random_transcoders
from tests.tiny_models import CONFIGS, N_LAYERS

HOOKS, N_FEATURES = Hooks("mlp_in", "mlp_out"), 12


def figures(name: str) -> tuple[float, float]:
    """The greatest difference of the frozen model's logits, as a share of the magnitudes that each is a sum of; and of
    summed contributions to activations, as a share of these."""
    coders = random_transcoders("skip")
    linear, frozen = frozen_model(name, HOOKS, coders)
    model = open_model(name, **({"final_logit_softcapping": None} if "gemma" in name else {}))
    W_U, last = linear.family.W_U(linear.model).float(), len(TOKENS) - 1
    targets = logit_targets(linear, frozen, W_U, torch.full((len(W_U),), last))
    (found,) = contributions(linear, frozen, targets, max_bytes=10**9)
    logits = model(TOKENS[None]).logits[0, last].detach()
    bias = attrgetter("lm_head.bias")(model)
    logits = logits if bias is None else logits - bias  # it is the same whatever was read
    summed = found.features.abs().sum(0) + found.errors.abs().sum((0, 1)) + found.tokens.abs().sum(0)
    of_logits = ((found.total() - logits[found.target]).abs() / summed).max()
    family, worst = family_of(CONFIGS[name].model_type), 0.0
    streams = capture(HookedModel(model, family, HOOKS), TOKENS[None], range(N_LAYERS))
    position = torch.arange(len(TOKENS)).repeat_interleave(N_FEATURES)
    feature = torch.arange(N_FEATURES).repeat(len(TOKENS))
    for layer, coder in enumerate(coders):
        pre = (streams[layer].x[0, position] * coder.W_enc[feature]).sum(1) + coder.b_enc[feature]
        targets = feature_targets(linear, frozen, layer, coder, feature, position)
        (found,) = contributions(linear, frozen, targets, max_bytes=10**9)
        difference = (found.total() - pre[found.target]).norm() / pre.norm()
        worst = max(worst, float(difference))
    return float(of_logits), worst


if __name__ == "__main__":
    for name in CONFIGS:
        of_logits, of_activations = figures(name)
        print(f"| `{name}` | {of_logits:.0e} | {of_activations:.0e} |")
