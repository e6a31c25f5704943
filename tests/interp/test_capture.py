"""Reading and replacing what MLPs do, on random models of every family."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from interp.capture import Hooks, capture, logits_with_replacement
from interp.families import Family, family_of
from interp.quality import measure_quality
from interp.transcoder import Transcoder
from interp.weightlens.coordinates import fold_norm
from tests.tiny_models import CONFIGS, tiny_model

TOKENS = torch.arange(30).view(3, 10)


@pytest.fixture(params=CONFIGS)
def model_and_family(request: pytest.FixtureRequest) -> tuple[nn.Module, Family]:
    return tiny_model(request.param), family_of(CONFIGS[request.param].model_type)


def test_mlp_in_through_the_mlp_is_mlp_out(model_and_family: tuple[nn.Module, Family]) -> None:
    model, family = model_and_family
    for layer, streams in capture(model, family, TOKENS, [0, 1, 2], Hooks("mlp_in", "mlp_out")).items():
        mlp = family.module(family.block_modules(model)[layer], family.mlp)
        torch.testing.assert_close(mlp(streams.x), streams.y)


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


def test_replacing_an_mlp_by_itself_changes_nothing(model_and_family: tuple[nn.Module, Family]) -> None:
    model, family = model_and_family
    mlp = family.module(family.block_modules(model)[1], family.mlp)
    replaced = logits_with_replacement(model, family, TOKENS, 1, Hooks("mlp_in", "mlp_out"), mlp.forward)
    torch.testing.assert_close(replaced, model(TOKENS).logits)
    silenced = logits_with_replacement(model, family, TOKENS, 1, Hooks("mlp_in", "mlp_out"), torch.zeros_like)
    assert not torch.allclose(silenced, model(TOKENS).logits)


def test_threads_that_share_a_model_do_not_read_each_other(model_and_family: tuple[nn.Module, Family]) -> None:
    model, family = model_and_family
    hooks = Hooks("mlp_in", "mlp_out")
    expected = [capture(model, family, TOKENS + i, [i % 3], hooks)[i % 3].y for i in range(15)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: capture(model, family, TOKENS + i, [i % 3], hooks)[i % 3].y, range(15))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


def test_an_unknown_family_says_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"'bert' is not supported.*interp/families"):
        family_of("bert")


class TestQuality:
    """The figures of a transcoder whose MLP is known."""

    def measured(self, model_and_family: tuple[nn.Module, Family], **changes: torch.Tensor):
        model, family = model_and_family
        coder = {
            "W_enc": torch.zeros(4, 16), "b_enc": torch.ones(4), "W_dec": torch.zeros(4, 16), "b_dec": torch.zeros(16),
        }  # fmt: skip
        batches = [(TOKENS, torch.ones_like(TOKENS, dtype=torch.bool))]
        transcoder = Transcoder(**{**coder, **changes}, activation="relu")
        return measure_quality(model, family, Hooks("mlp_in", "mlp_out"), 1, transcoder, batches)

    def test_the_mean_output_explains_nothing(self, model_and_family: tuple[nn.Module, Family]) -> None:
        model, family = model_and_family
        mean = capture(model, family, TOKENS, [1], Hooks("mlp_in", "mlp_out"))[1].y.mean((0, 1))
        quality = self.measured(model_and_family, b_dec=mean)
        assert abs(quality.explained_variance) < 1e-5
        assert quality.l0 == 4
        assert quality.n_tokens == 30
        assert "nearly every feature" in (quality.suspicion(4) or "")

    def test_what_lower_layers_write_is_added(self, model_and_family: tuple[nn.Module, Family]) -> None:
        model, family = model_and_family
        hooks, batches = Hooks("mlp_in", "mlp_out"), [(TOKENS, torch.ones_like(TOKENS, dtype=torch.bool))]
        coders = [
            Transcoder(*(torch.randn(shape) for shape in ((4, 16), (4,), (4, 16), (16,))), activation="relu")
            for _ in range(3)
        ]
        quality = measure_quality(model, family, hooks, 2, coders[2], batches, below={0: coders[0], 1: coders[1]})
        streams = capture(model, family, TOKENS, [0, 1, 2], hooks)
        x = [streams[layer].x.flatten(0, 1) for layer in range(3)]
        y = streams[2].y.flatten(0, 1)
        found = torch.stack([coder.decode(coder.encode(at), at) for coder, at in zip(coders, x, strict=True)]).sum(0)
        unexplained = (y - found).square().sum() / (y - y.mean(0)).square().sum()
        assert quality.explained_variance == pytest.approx(float(1 - unexplained), 1e-4)
        assert quality.l0 == pytest.approx(float((coders[2].encode(x[2]) > 0).sum(1).float().mean()))
        logits = logits_with_replacement(model, family, TOKENS, 2, hooks, lambda _: found.view(3, 10, 16))
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        assert quality.loss_replaced == pytest.approx(float(loss), 1e-4)

    def test_silent_features_are_suspicious(self, model_and_family: tuple[nn.Module, Family]) -> None:
        quality = self.measured(model_and_family, b_enc=-torch.ones(4))
        assert quality.dead_share == 1
        assert "L0 = 0" in (quality.suspicion(4) or "")
