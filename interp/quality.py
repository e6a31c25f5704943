"""Does a transcoder do what its MLP does? The figures that show a checkpoint read wrongly."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from interp.capture import Hooks, capture, logits_with_replacement
from interp.families import Family
from interp.transcoder import Transcoder

MIN_EXPLAINED_VARIANCE = 0.02
"""At or below this a transcoder predicts its MLP no better than a constant does."""


@dataclass(frozen=True)
class Quality:
    """Figures of one layer's transcoder over a piece of text."""

    layer: int
    explained_variance: float
    """1 − Σ‖y − ŷ‖² / Σ‖y − mean(y)‖², over all tokens and dimensions."""
    l0: float
    """Mean number of active features a token."""
    dead_share: float
    """Share of the features that fired nowhere in this text."""
    loss: float
    """The model's own next-token loss, nats a token."""
    loss_replaced: float
    """The same with this layer's MLP replaced by its transcoder."""
    n_tokens: int

    def suspicion(self, d_transcoder: int) -> str | None:
        """Why these figures say that the checkpoint was read wrongly, or None."""
        if self.l0 == 0:
            return "no feature ever fires (L0 = 0): wrong input hook, wrong orientation of W_enc, or wrong model"
        if self.l0 > 0.9 * d_transcoder:
            return f"nearly every feature fires everywhere (L0 = {self.l0:.0f} of {d_transcoder}): wrong bias or hook"
        if not self.explained_variance > MIN_EXPLAINED_VARIANCE:
            return (
                f"explained variance {self.explained_variance:.3f}: the reconstruction has nothing to do with the "
                "MLP's output; wrong hook, wrong orientation, or transcoders of another model"
            )
        return None


def next_token_loss(
    logits: Float[Tensor, "batch n_pos d_vocab"],
    tokens: Integer[Tensor, "batch n_pos"],
    real: Bool[Tensor, "batch n_pos"],
) -> tuple[float, int]:
    """Summed loss in nats over the real next tokens, and how many there were."""
    wanted = real[:, 1:]
    loss = nn.functional.cross_entropy(logits[:, :-1][wanted].float(), tokens[:, 1:][wanted].long(), reduction="sum")
    return float(loss), int(wanted.sum())


@torch.no_grad()
def measure_quality(
    model: nn.Module,
    family: Family,
    hooks: Hooks,
    layer: int,
    transcoder: Transcoder,
    batches: Iterable[tuple[Integer[Tensor, "batch n_pos"], Bool[Tensor, "batch n_pos"]]],
    special_ids: frozenset[int] = frozenset(),
) -> Quality:
    """Measure one layer's transcoder on `batches` of (tokens, which of them are real).

    Positions of special tokens are left out of variance and L0: their norms are a hundred times those
    of other positions in many models and would be all that the figure shows.
    """
    n = active = 0
    squared_error = 0.0
    total = torch.zeros((), dtype=torch.float64)
    sums = torch.zeros(transcoder.W_dec.shape[1], dtype=torch.float64)
    fired = torch.zeros(transcoder.d_transcoder, dtype=torch.bool)
    losses = [0.0, 0.0]
    n_predicted = 0
    special = torch.tensor(sorted(special_ids), dtype=torch.long)

    def replaced(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        return transcoder.decode(transcoder.encode(flat), flat).view_as(x)

    for tokens, real in batches:
        kept = real & ~torch.isin(tokens.long(), special)
        streams = capture(model, family, tokens, [layer], hooks)[layer]
        x, y = streams.x[kept], streams.y[kept]
        a = transcoder.encode(x)
        squared_error += float((y - transcoder.decode(a, x)).double().square().sum())
        total += y.double().square().sum()
        sums += y.double().sum(0)
        fired |= (a > 0).any(0)
        active += int((a > 0).sum())
        n += len(x)
        logits = model(input_ids=tokens.long(), use_cache=False).logits
        loss, count = next_token_loss(logits, tokens, real)
        losses[0] += loss
        logits = logits_with_replacement(model, family, tokens, layer, hooks, replaced)
        losses[1] += next_token_loss(logits, tokens, real)[0]
        n_predicted += count
    variance = float(total - sums.square().sum() / max(n, 1))
    if n_predicted == 0 or variance <= 0:
        raise ValueError(
            f"the text for the quality check is too short or too uniform to measure on: {n} tokens, "
            f"over which the MLP's output has variance {variance:g}; name a longer corpus.source"
        )
    return Quality(
        layer=layer,
        explained_variance=1 - squared_error / variance,
        l0=active / n,
        dead_share=float((~fired).float().mean()),
        loss=losses[0] / n_predicted,
        loss_replaced=losses[1] / n_predicted,
        n_tokens=n,
    )
