"""Reading and replacing what MLPs do, on random models of every family."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from interp import quality as quality_module
from interp.capture import (
    HookedModel,
    Hooks,
    Place,
    capture,
    on_block_input,
    on_place,
    read_inputs,
    removing,
    vectors_of,
)
from interp.families import Family, family_of
from interp.quality import Quality, measure_quality, of_each
from interp.transcoder import Transcoder
from interp.weightlens.coordinates import fold_norm
from tests.tiny_models import CONFIGS, tiny_model

TOKENS = torch.arange(30).view(3, 10)
REAL = torch.ones_like(TOKENS, dtype=torch.bool)


@pytest.fixture(params=CONFIGS)
def model_and_family(request: pytest.FixtureRequest) -> tuple[nn.Module, Family]:
    return tiny_model(request.param), family_of(CONFIGS[request.param].model_type)


def test_mlp_in_through_the_mlp_is_mlp_out(model_and_family: tuple[nn.Module, Family]) -> None:
    model, family = model_and_family
    for layer, streams in capture(HookedModel(model, family, Hooks("mlp_in", "mlp_out")), TOKENS, [0, 1, 2]).items():
        mlp = family.module(family.block_modules(model)[layer], family.mlp)
        torch.testing.assert_close(vectors_of(mlp(streams.x)), streams.y)


def at_place(model: nn.Module, family: Family, place: Place, layer: int, tokens: Tensor = TOKENS) -> Tensor:
    found: list[Tensor] = []
    read_inputs(HookedModel(model, family, Hooks(place, place)), tokens, [layer], lambda _, x: found.append(x))
    return found[0]


def test_autoencoders_read_the_hidden_states_of_transformers_and_what_is_added_to_them(
    model_and_family: tuple[nn.Module, Family],
) -> None:
    model, family = model_and_family
    with torch.no_grad():
        hidden = model(TOKENS, output_hidden_states=True, use_cache=False).hidden_states
    mlp: Place = "mlp_out" if family.mlp_output_norm is None else "mlp_out_normed"
    for layer in range(3):
        before, after = (at_place(model, family, place, layer) for place in ("resid_pre", "resid_post"))
        torch.testing.assert_close(before, hidden[layer])
        if layer < 2:  # of the last layer, transformers has the final norm's output there
            torch.testing.assert_close(after, hidden[layer + 1])
        added = sum(at_place(model, family, place, layer) for place in ("attn_out", mlp))
        torch.testing.assert_close(after, before + added, rtol=1e-4, atol=1e-5)


def test_an_encoder_seen_through_its_norm_ranks_directions_as_the_norm_does(
    model_and_family: tuple[nn.Module, Family],
) -> None:
    model, family = model_and_family
    norm = family.read_norm(model, 1)
    encoders, direction = torch.randn(5, 16), torch.randn(16)
    # Far along a direction the norm's output is that direction centred and weighted, up to one scale.
    far = norm.normalize(1e6 * direction) * norm.weight
    seen = fold_norm(encoders, norm.weight, norm.centred) @ direction
    ratio = (encoders @ far) / seen
    torch.testing.assert_close(ratio, ratio[:1].expand(5), rtol=1e-3, atol=0)


def logits_with(
    model: nn.Module, family: Family, tokens: Tensor, outputs: Mapping[int, Callable[[Tensor, Tensor], Tensor]]
) -> Tensor:
    """The obvious computation: the model's logits with `outputs[layer](MLP's input, output)` in place of the output."""
    seen: dict[int, Tensor] = {}
    handles = []
    for layer, output in outputs.items():
        block = family.block_modules(model)[layer]
        mlp = family.module(block, family.mlp)
        handles.append(mlp.register_forward_pre_hook(lambda _m, args, at=layer: seen.update({at: args[0]})))
        handles.append(on_place(family, block, "mlp_out", lambda own, at=layer, new=output: new(seen[at], own)))
    logits = model(tokens).logits
    for handle in handles:
        handle.remove()
    return logits


def test_threads_that_share_a_model_do_not_read_each_other(model_and_family: tuple[nn.Module, Family]) -> None:
    model, family = model_and_family
    hooks = Hooks("mlp_in", "mlp_out")
    expected = [capture(HookedModel(model, family, hooks), TOKENS + i, [i % 3])[i % 3].y for i in range(15)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: capture(HookedModel(model, family, hooks), TOKENS + i, [i % 3])[i % 3].y, range(15))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


def test_an_unknown_family_says_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"'bert' is not supported.*interp/families"):
        family_of("bert")


class TestQuality:
    """The figures of a transcoder whose MLP is known."""

    def measured(self, model_and_family: tuple[nn.Module, Family], **changes: torch.Tensor) -> Quality:
        model, family = model_and_family
        coder = {
            "W_enc": torch.zeros(4, 16), "b_enc": torch.ones(4), "W_dec": torch.zeros(4, 16), "b_dec": torch.zeros(16),
        }  # fmt: skip
        transcoder = Transcoder(**{**coder, **changes}, activation="relu")
        coders, text = of_each({1: transcoder}), [(TOKENS, REAL, REAL)]
        with ThreadPoolExecutor(2) as pool:
            return measure_quality(model, family, Hooks("mlp_in", "mlp_out"), coders, text, pool)[0]

    def test_the_mean_output_explains_nothing(self, model_and_family: tuple[nn.Module, Family]) -> None:
        model, family = model_and_family
        mean = capture(HookedModel(model, family, Hooks("mlp_in", "mlp_out")), TOKENS, [1])[1].y.mean((0, 1))
        quality = self.measured(model_and_family, b_dec=mean)
        assert abs(quality.explained_variance) < 1e-5
        assert quality.l0 == 4
        assert quality.n_tokens == 30
        assert quality.loss_all_replaced is None
        assert "nearly every feature" in (quality.suspicion(4) or "")

    def test_all_layers_are_measured_as_each_alone_would_be(
        self, model_and_family: tuple[nn.Module, Family], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows 0 and 2 are run with MLPs replaced, of row 2 the first seven tokens; some positions do not count."""
        monkeypatch.setattr(quality_module, "ROWS_PER_SPLICE", 2)
        model, family = model_and_family
        torch.manual_seed(1)
        coders = [
            Transcoder(*(0.3 * torch.randn(shape) for shape in ((4, 16), (4,), (4, 16), (16,))), activation="relu")
            for _ in range(3)
        ]
        real = REAL.clone()
        real[2, 7:] = False
        counted = real.clone()
        counted[:, 0] = False
        text = [(TOKENS[rows], real[rows], counted[rows]) for rows in (slice(0, 1), slice(1, 3))]
        hooks, by_layer = Hooks("mlp_in", "mlp_out"), of_each(dict(enumerate(coders)))
        with ThreadPoolExecutor(2) as pool:
            together = measure_quality(model, family, hooks, by_layer, iter(text), pool)
            above = measure_quality(model, family, hooks, {2: by_layer[2]}, iter(text), pool)[0]

        def loss(outputs: Mapping[int, Callable[[Tensor, Tensor], Tensor]]) -> float:
            summed = 0.0
            for row, n in ((0, 10), (2, 7)):
                logits = logits_with(model, family, TOKENS[row : row + 1, :n], outputs)[0, :-1]
                summed += nn.functional.cross_entropy(logits, TOKENS[row, 1:n], reduction="sum").item()
            return summed / 15

        def at_what_counts(coder: Transcoder) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda x, own: torch.cat([own[:, :1], output_of(coder, x)[:, 1:]], 1)

        outputs = {layer: at_what_counts(coder) for layer, coder in enumerate(coders)}
        streams = capture(HookedModel(model, family, hooks), TOKENS, [0, 1, 2])
        for quality, coder in zip(together, coders, strict=True):
            layer = quality.layer
            x, y = streams[layer].x[counted], streams[layer].y[counted]
            a = coder.encode(x)
            unexplained = (y - coder.decode(a, x)).square().sum() / (y - y.mean(0)).square().sum()
            assert quality.explained_variance == pytest.approx(float(1 - unexplained), 1e-4)
            assert quality.l0 == pytest.approx(float((a > 0).sum(1).float().mean()))
            assert quality.dead_share == pytest.approx(float((~(a > 0).any(0)).float().mean()))
            assert quality.n_tokens == int(counted.sum())
            assert quality.loss == pytest.approx(loss({}), 1e-4)
            assert quality.loss_replaced == pytest.approx(loss({layer: outputs[layer]}), 1e-4)
            assert quality.loss_all_replaced == pytest.approx(loss(outputs), 1e-4)
        assert above.loss_replaced == pytest.approx(together[2].loss_replaced, 1e-5)

    def test_what_lower_layers_write_is_added(self, model_and_family: tuple[nn.Module, Family]) -> None:
        model, family = model_and_family
        hooks = Hooks("mlp_in", "mlp_out")
        coders = [
            Transcoder(*(torch.randn(shape) for shape in ((4, 16), (4,), (4, 16), (16,))), activation="relu")
            for _ in range(3)
        ]
        with ThreadPoolExecutor(1) as pool:
            by_layer = {2: dict(enumerate(coders))}
            quality = measure_quality(model, family, hooks, by_layer, [(TOKENS, REAL, REAL)], pool)[0]
        streams = capture(HookedModel(model, family, hooks), TOKENS, [0, 1, 2])
        x = [streams[layer].x.flatten(0, 1) for layer in range(3)]
        y = streams[2].y.flatten(0, 1)
        found = torch.stack([coder.decode(coder.encode(at), at) for coder, at in zip(coders, x, strict=True)]).sum(0)
        unexplained = (y - found).square().sum() / (y - y.mean(0)).square().sum()
        assert quality.explained_variance == pytest.approx(float(1 - unexplained), 1e-4)
        assert quality.l0 == pytest.approx(float((coders[2].encode(x[2]) > 0).sum(1).float().mean()))
        logits = logits_with(model, family, TOKENS[:1], {2: lambda _x, _own: found.view(3, 10, 16)[:1]})
        loss = nn.functional.cross_entropy(logits[0, :-1], TOKENS[0, 1:])
        assert quality.loss_replaced == pytest.approx(loss.item(), 1e-4)

    @pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox"])
    @pytest.mark.parametrize("place", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
    def test_an_autoencoders_reconstruction_is_put_where_it_reads(self, name: str, place: Place) -> None:
        """One that rebuilds its place exactly changes nothing; one that is silent leaves its bias there."""
        model, family, eye = tiny_model(name), family_of(name), torch.eye(16)
        exact = Transcoder(torch.cat([eye, -eye]), torch.zeros(32), torch.cat([eye, -eye]), torch.zeros(16), "relu")
        silent = Transcoder(torch.zeros(1, 16), -torch.ones(1), torch.zeros(1, 16), torch.arange(16.0), "relu")
        text = [(TOKENS[:1], REAL[:1], REAL[:1])]
        with ThreadPoolExecutor(1) as pool:
            first, second = (
                measure_quality(model, family, Hooks(place, place), of_each(dict.fromkeys(range(3), coder)), text, pool)
                for coder in (exact, silent)
            )
        for quality in first:
            assert quality.explained_variance == pytest.approx(1, abs=1e-6)
            assert quality.l0 == 16
            assert (quality.loss_replaced, quality.loss_all_replaced) == pytest.approx((quality.loss,) * 2, 1e-5)
        for quality in second:
            assert abs(quality.loss_replaced - quality.loss) > 1e-4

    def test_silent_features_are_suspicious(self, model_and_family: tuple[nn.Module, Family]) -> None:
        quality = self.measured(model_and_family, b_enc=-torch.ones(4))
        assert quality.dead_share == 1
        assert "L0 = 0" in (quality.suspicion(4) or "")


def output_of(coder: Transcoder, x: Tensor) -> Tensor:
    flat = x.flatten(0, 1)
    return coder.decode(coder.encode(flat), flat).view_as(x)


def test_a_hook_that_another_thread_meets_before_it_is_whole_does_nothing_there() -> None:
    block, x = torch.nn.Identity(), torch.ones(1, 2)
    with removing([on_block_input(block, lambda hidden: 2 * hidden)]):
        [hook] = block._forward_pre_hooks.values()
        with ThreadPoolExecutor(1) as other:
            assert other.submit(hook, block, (x,)).result() is None  # as torch calls one that wants no keywords
        assert torch.equal(block(x), 2 * x)
