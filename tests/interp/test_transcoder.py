"""Transcoders: activation functions, and training that resumes exactly."""

import pytest
import torch

from interp.training import Step, Trainer, TrainingSettings, train
from interp.transcoder import Transcoder, activate


def test_activation_functions() -> None:
    pre = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    assert activate(pre, "relu", None, None).tolist() == [[3.0, 0.0, 0.5, 2.0]]
    assert activate(pre, "jumprelu", torch.tensor([1.0, 0.0, 0.5, 1.0]), None).tolist() == [[3.0, 0.0, 0.0, 2.0]]
    assert activate(pre, "topk", None, 2).tolist() == [[3.0, 0.0, 0.0, 2.0]]
    assert activate(-pre.abs(), "topk", None, 2).tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_a_negative_threshold_lets_no_negative_activation_through() -> None:
    assert activate(torch.tensor([[-0.5]]), "jumprelu", torch.tensor([-1.0]), None).tolist() == [[0.0]]


def test_decoding_adds_bias_and_skip() -> None:
    coder = Transcoder(
        W_enc=torch.eye(2),
        b_enc=torch.tensor([0.0, -10.0]),
        W_dec=torch.tensor([[1.0, 2.0], [5.0, 5.0]]),
        b_dec=torch.tensor([0.5, 0.5]),
        activation="relu",
        W_skip=torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
    )
    x = torch.tensor([[3.0, 4.0]])
    # a = [3, 0]; 3·[1, 2] + [0.5, 0.5] + W_skip x = [3.5, 6.5] + [4, 0]
    assert coder.decode(coder.encode(x), x).tolist() == [[7.5, 6.5]]


def toy_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sparse non-linear map that a transcoder of 16 features can learn: four directions, thresholded."""
    generator = torch.Generator().manual_seed(step)
    on = torch.rand(512, 4, generator=generator) < 0.3
    strength = on * torch.rand(512, 4, generator=generator)
    noise = 0.01 * torch.randn(512, 8, generator=generator)
    return torch.cat([strength, torch.zeros(512, 4)], 1) + noise, torch.cat([torch.zeros(512, 4), strength], 1)


@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("topk", {"k": 4}),
        ("relu", {"sparsity": 1e-3}),
        ("jumprelu", {"sparsity": 1e-3}),
        ("topk", {"k": 2, "skip": True}),
    ],
)
def test_training_learns_a_sparse_map(activation: str, options: dict) -> None:
    settings = TrainingSettings(d_transcoder=16, activation=activation, n_steps=600, learning_rate=1e-2, **options)  # pyright: ignore
    coder = train(toy_batch, settings, lambda trainer, step: None)
    x, y = toy_batch(10_000)
    a = coder.encode(x)
    unexplained = (y - coder.decode(a, x)).square().sum() / (y - y.mean(0)).square().sum()
    assert 1 - unexplained > 0.85
    assert (a > 0).float().sum(1).mean() <= (options.get("k") or 12)
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(16))
    assert coder.activation == activation


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_a_training_resumed_from_its_state_ends_the_same(activation: str) -> None:
    settings = TrainingSettings(d_transcoder=16, activation=activation, k=3, n_steps=40, dead_after_tokens=2000)  # pyright: ignore
    saved = {}

    def save_at_17(trainer: Trainer, step: Step) -> None:
        if step.step == 17:
            saved.update(trainer.state())

    undisturbed = train(toy_batch, settings, save_at_17)
    resumed = train(toy_batch, settings, lambda trainer, step: None, state=saved)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(undisturbed, name), getattr(resumed, name)), name


def test_a_seed_gives_the_same_transcoder_and_another_seed_another() -> None:
    one, same, other = (
        train(toy_batch, TrainingSettings(d_transcoder=16, k=3, n_steps=10, seed=seed), lambda *_: None).W_enc
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_constant_activations_are_refused() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        Trainer(torch.ones(10, 4), torch.ones(10, 4), TrainingSettings(d_transcoder=4))
