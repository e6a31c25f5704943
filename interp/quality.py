"""Whether a transcoder does what its MLP does, for all layers at once. These figures reveal a checkpoint that was read
wrongly.

What concerns one layer (explained variance, active and dead features) is measured in one pass of the model for all
layers. The loss with one MLP replaced needs the layers above it again. For that, the batch has a row for every replaced
layer, so that what is below is computed once. That pass reads every `ROWS_PER_SPLICE`-th row of the text. An
autoencoder is measured in the same way; it replaces the place that it rebuilds, instead of an MLP's output.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from interp.batches import each_batch
from interp.capture import (
    HookedModel,
    Hooks,
    capture,
    last_hidden,
    on_block_input,
    on_feature_input,
    on_feature_output,
    removing,
)
from interp.families import Family
from interp.precision import wide
from interp.transcoder import Transcoder

ROWS_PER_SPLICE = 4
"""One row out of this many is also run with MLPs replaced; the first row always is."""

MIN_EXPLAINED_VARIANCE = 0.02
"""At or below this, a transcoder predicts its MLP no better than a constant."""


@dataclass(frozen=True)
class Quality:
    """Quality of one layer's transcoder on a piece of text."""

    layer: int
    explained_variance: float
    """1 − Σ‖y − ŷ‖² / Σ‖y − mean(y)‖², over all tokens that count and all dimensions."""
    l0: float
    """Mean number of active features of a token."""
    dead_share: float
    """Share of the features that were never active in this text."""
    loss: float
    """The model's own next-token loss on the rows that are run with MLPs replaced, in nats a token."""
    loss_replaced: float
    """That loss with this layer's MLP replaced by its transcoder."""
    loss_all_replaced: float | None
    """That loss with the MLPs of all layers replaced; None if not all layers were measured together."""
    n_tokens: int
    """Number of tokens for variance and active features."""

    def suspicion(self, d_transcoder: int) -> str | None:
        """Why these figures suggest that the checkpoint was read wrongly; None if they do not."""
        if self.l0 == 0:
            return "no feature ever fires (L0 = 0): wrong input hook, wrong orientation of W_enc, or wrong model"
        if self.l0 > 0.9 * d_transcoder:
            return f"nearly every feature fires everywhere (L0 = {self.l0:.0f} of {d_transcoder}): wrong bias or hook"
        if not self.explained_variance > MIN_EXPLAINED_VARIANCE:
            return (
                f"explained variance {self.explained_variance:.3f}: the reconstruction has nothing to do with what it "
                "stands for; wrong hook, wrong orientation, or transcoders of another model"
            )
        return None


Text = tuple[Integer[Tensor, "rows n_pos"], Bool[Tensor, "rows n_pos"], Bool[Tensor, "rows n_pos"]]
"""Tokens, which of them are real (not padding), and which count. In many models the first position of a row and special
tokens have norms a hundred times those of others: they would dominate the variance, and a transcoder whose training
left them out does not reproduce the MLP there. So MLPs are replaced at the positions that count, and are unchanged
at others."""

Coders = Mapping[int, Mapping[int, Transcoder]]
"""For each layer, the transcoders that write to its MLP's output: its own, and for a cross-layer one also those of
lower layers. The lower ones read the inputs of the model's own MLPs; only the MLP of the layer itself is replaced."""


def of_each(transcoders: Mapping[int, Transcoder]) -> dict[int, dict[int, Transcoder]]:
    """Transcoders that write to their own layer only, as `Coders`."""
    return {layer: {layer: transcoder} for layer, transcoder in transcoders.items()}


@torch.no_grad()
def measure_quality(
    model: nn.Module, family: Family, hooks: Hooks, coders: Coders, text: Iterable[Text], pool: Executor
) -> list[Quality]:
    """Measure the transcoders of some layers on a text, in batches of rows, with the threads of a pool.

    Memory: the transcoders, a batch's streams at these layers, and for each thread the intermediate values of a pass
    with two more copies of a row than there are layers.

    Raises:
        ValueError: the text is too short or too uniform.
    """
    of_layers = sorted(coders.items())
    sums = {layer: _Sums.none(own[layer]) for layer, own in of_layers}
    sources = sorted({source for by_source in coders.values() for source in by_source})
    losses, n_predicted, n_rows = torch.zeros(len(sums) + 2, dtype=torch.float64), 0, 0
    full = 0  # rows of the largest batch so far

    def spliced(row: tuple[Tensor, Tensor]) -> Tensor:
        return _spliced_losses(model, family, hooks, coders, row)

    hooked, device = HookedModel(model, family, hooks), next(model.parameters()).device
    for tokens, real, counted in (tuple(one.to(device) for one in batch) for batch in text):
        chosen = range(-n_rows % ROWS_PER_SPLICE, len(tokens), ROWS_PER_SPLICE)
        lengths = [int(real[row].sum()) for row in chosen]
        rows = [(tokens[row, :n], counted[row, :n]) for row, n in zip(chosen, lengths, strict=True) if n > 1]
        replaced = [pool.submit(spliced, row) for row in rows]

        full = max(full, len(tokens))

        def compare(part: slice, tokens: Tensor = tokens, counted: Tensor = counted) -> list[_Sums]:
            captured = capture(hooked, tokens[part], sources)
            xs = {source: captured[source].x[counted[part]] for source in sources}
            return [_Sums.of(xs, captured[layer].y[counted[part]], own) for layer, own in of_layers]

        for found in each_batch("rows of the quality check", device, len(tokens), full, compare, tokens.shape[1]):
            for measured, more in zip(sums.values(), found, strict=True):
                measured.add(more)
        losses += sum(future.result() for future in replaced)
        n_predicted += sum(len(row) - 1 for row, _ in rows)
        n_rows += len(tokens)
    loss, all_replaced, *alone = (losses / max(n_predicted, 1)).tolist()
    together = all_replaced if len(sums) == len(family.block_modules(model)) else None
    return [
        measured.quality(layer, (loss, replaced, together), n_predicted)
        for (layer, measured), replaced in zip(sums.items(), alone, strict=True)
    ]


@dataclass
class _Sums:
    """The sums from which a layer's figures are computed."""

    fired: Bool[Tensor, " d_transcoder"]
    sums: Float[Tensor, " d_model"]
    total: float = 0.0
    squared_error: float = 0.0
    n_active: int = 0
    n: int = 0

    @classmethod
    def none(cls, coder: Transcoder) -> "_Sums":
        return cls(
            coder.b_enc.new_zeros(coder.d_transcoder, dtype=torch.bool),
            coder.b_dec.new_zeros(coder.b_dec.shape, dtype=wide(coder.b_dec.device)),
        )

    @classmethod
    def of(cls, xs: Mapping[int, Tensor], y: Tensor, coders: Mapping[int, Transcoder]) -> "_Sums":
        """Those of some tokens: what transcoders read, and what they should write together."""
        own = max(coders)  # after the transcoders of lower layers that write to it
        a = coders[own].encode(xs[own])
        found = coders[own].decode(a, xs[own])
        for source, coder in coders.items():
            if source != own:
                found += _output(coder, xs[source])
        exact = y.to(wide(y.device))
        return cls(
            fired=(a > 0).any(0),
            sums=exact.sum(0),
            total=float(exact.square().sum()),
            squared_error=float((y - found).to(exact.dtype).square().sum()),
            n_active=int((a > 0).sum()),
            n=len(y),
        )

    def add(self, more: "_Sums") -> None:
        self.fired = self.fired | more.fired
        self.sums = self.sums + more.sums
        self.total += more.total
        self.squared_error += more.squared_error
        self.n_active += more.n_active
        self.n += more.n

    def quality(self, layer: int, losses: tuple[float, float, float | None], n_predicted: int) -> Quality:
        variance = self.total - float(self.sums.square().sum()) / max(self.n, 1)
        if n_predicted == 0 or variance <= 0:
            raise ValueError(
                f"the text for the quality check is too short or too uniform to measure on: {self.n} tokens, "
                f"over which what is rebuilt has variance {variance:g}; name a longer corpus.source"
            )
        loss, replaced, all_replaced = losses
        return Quality(
            layer=layer,
            explained_variance=1 - self.squared_error / variance,
            l0=self.n_active / self.n,
            dead_share=float((~self.fired).float().mean()),
            loss=loss,
            loss_replaced=replaced,
            loss_all_replaced=all_replaced,
            n_tokens=self.n,
        )


def _spliced_losses(
    model: nn.Module,
    family: Family,
    hooks: Hooks,
    coders: Coders,
    text: tuple[Integer[Tensor, " n_pos"], Bool[Tensor, " n_pos"]],
) -> Float[Tensor, " losses"]:
    """Summed next-token losses of one row (tokens, which count), in nats: of the model itself, with all layers
    replaced, and with each of them replaced."""
    tokens, counted = text
    blocks, handles = family.block_modules(model), []
    own: dict[int, Tensor] = {}
    changed: dict[int, Tensor] = {}

    def keep(layer: int, x: Tensor) -> None:
        own[layer], changed[layer] = x[0], x[1] if len(x) > 1 else x[0]

    def one_more(hidden: Tensor, n: int) -> Tensor:
        """Append the first row again for the layer that is replaced, and at the lowest layer once more for all
        together."""
        return torch.cat([hidden, hidden[:1].expand(n, -1, -1)])

    def replaced(layer: int, output: Tensor) -> Tensor:
        output = output.clone()
        for row, xs in ((-1, own), (1, changed)):
            found = [_output(coder, xs[source][counted]) for source, coder in coders[layer].items()]
            output[row, counted] = torch.stack(found).sum(0).to(output.dtype)
        return output

    lowest = min(coders)
    for layer in sorted({source for by_source in coders.values() for source in by_source}):
        handles.append(on_feature_input(family, blocks[layer], hooks, lambda x, at=layer: keep(at, x)))
    for layer in coders:
        n = 2 if layer == lowest else 1
        handles.append(on_block_input(blocks[layer], lambda hidden, n=n: one_more(hidden, n)))
        handles.append(on_feature_output(family, blocks[layer], hooks, lambda output, at=layer: replaced(at, output)))
    with removing(handles):
        hidden = last_hidden(model, family, tokens[None])
    wanted = tokens[1:].long()
    return torch.stack([_loss(model, family, row[:-1], wanted) for row in hidden]).cpu().double()


def _loss(model: nn.Module, family: Family, hidden: Tensor, wanted: Tensor) -> Tensor:
    return nn.functional.cross_entropy(family.logits(model, hidden).float(), wanted, reduction="sum")


def _output(transcoder: Transcoder, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    return transcoder.decode(transcoder.encode(x), x)
