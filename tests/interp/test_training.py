"""Training: gradients against autograd, layers together as alone, resumed exactly, scaled and revived."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interp.training.gradients import Parameters, add_auxiliary, loss_and_gradients
from interp.training.settings import TrainingSettings
from interp.training.together import train_together
from interp.training.trainer import REVIVE_EVERY, Trainer, schedule
from interp.transcoder import Transcoder, activate


def toy_batch(step: int, n: int = 512) -> tuple[Tensor, Tensor]:
    """A sparse non-linear map that a transcoder of 16 features can learn: four directions, thresholded."""
    generator = torch.Generator().manual_seed(step)
    on = torch.rand(n, 4, generator=generator) < 0.3
    strength = on * torch.rand(n, 4, generator=generator)
    noise = 0.01 * torch.randn(n, 8, generator=generator)
    return torch.cat([strength, torch.zeros(n, 4)], 1) + noise, torch.cat([torch.zeros(n, 4), strength], 1)


def trained(settings: TrainingSettings, batch=toy_batch) -> Transcoder:
    trainer = Trainer.started(*batch(0), settings)
    while trainer.step_number < settings.n_steps:
        trainer.step(*batch(trainer.step_number))
    return trainer.transcoder()


def tensors(coder: Transcoder) -> list[Tensor]:
    return [value for value in vars(coder).values() if isinstance(value, Tensor)]


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
    coder = trained(settings)
    x, y = toy_batch(10_000)
    a = coder.encode(x)
    unexplained = (y - coder.decode(a, x)).square().sum() / (y - y.mean(0)).square().sum()
    assert 1 - unexplained > 0.85
    assert (a > 0).float().sum(1).mean() <= (options.get("k") or 12)
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(16))
    assert coder.activation == activation


@pytest.mark.parametrize(
    "options", [{"activation": "topk", "k": 4}, {"activation": "relu"}, {"activation": "jumprelu"}]
)
def test_frequent_features_become_rarer(options: dict) -> None:
    """Four causes, each at 0.3 of the tokens; without a limit, some features fire at most tokens."""

    def frequencies(max_frequency: float | None) -> Tensor:
        settings = TrainingSettings(
            d_transcoder=16, n_steps=300, learning_rate=1e-2, max_frequency=max_frequency, **options
        )
        return (trained(settings).encode(toy_batch(10_000)[0]) > 0).float().mean(0)

    assert frequencies(None).max() > 0.5
    assert frequencies(0.1).max() < 0.2


def test_a_limit_that_is_not_set_is_not_in_the_recipe() -> None:
    assert "max_frequency" not in TrainingSettings().determining
    assert TrainingSettings(max_frequency=0.05).determining["max_frequency"] == 0.05


def random_parameters(settings: TrainingSettings, width: int = 24) -> Parameters:
    m = settings.d_transcoder
    return Parameters(
        torch.randn(m, width), torch.randn(m), torch.randn(m, width), torch.randn(width),
        torch.randn(width, width) if settings.skip else None,
        0.3 * torch.randn(m) if settings.activation == "jumprelu" else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        TrainingSettings(d_transcoder=50, k=7),
        TrainingSettings(d_transcoder=50, k=7, skip=True),
        TrainingSettings(d_transcoder=50, k=60),
        TrainingSettings(d_transcoder=50, k=50, dtype="bfloat16"),
        TrainingSettings(d_transcoder=50, activation="relu", sparsity=0.1),
    ],
)
def test_gradients_are_those_of_autograd(settings: TrainingSettings) -> None:
    torch.manual_seed(0)
    p, x, y = random_parameters(settings), torch.randn(300, 24), torch.randn(300, 24)
    for tensor in p.named().values():
        tensor.requires_grad_()
    a = activate(torch.addmm(p.b_enc, x, p.W_enc.T), settings.activation, None, settings.k)
    error = torch.addmm(p.b_dec, a, p.W_dec) - y
    if p.W_skip is not None:
        error = error + x @ p.W_skip.T
    unexplained = error.square().sum() / (y - y.mean(0)).square().sum()
    penalty = settings.sparsity * a.sum(1).mean() if settings.activation == "relu" else torch.zeros(())
    (unexplained + penalty).backward()
    with torch.no_grad():
        into = p.empty()
        outcome = loss_and_gradients(p, x, y, settings, into)
    near = 1e-5 if settings.dtype == "float32" else 3e-2
    assert outcome.unexplained == pytest.approx(unexplained.item(), near)
    assert outcome.penalty == pytest.approx(penalty.item(), 1e-5)
    assert outcome.n_active == pytest.approx(int((a > 0).sum()), near)
    assert torch.equal(outcome.fired, (a > 0).any(0))
    for name, tensor in p.named().items():
        assert tensor.grad is not None
        torch.testing.assert_close(getattr(into, name), tensor.grad, rtol=10 * near, atol=near, msg=name)


def test_the_sums_over_active_features_are_the_dense_products(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    settings = TrainingSettings(d_transcoder=80, k=5)
    p, x, y = random_parameters(settings), torch.randn(600, 24), torch.randn(600, 24)
    sparse, dense = p.empty(), p.empty()
    one = loss_and_gradients(p, x, y, settings, sparse)
    monkeypatch.setattr(
        "interp.training.gradients._sparse", __import__("interp.training.gradients", fromlist=["x"])._dense
    )
    other = loss_and_gradients(p, x, y, settings, dense)
    assert one.unexplained == pytest.approx(other.unexplained, 1e-5)
    assert one.n_active == other.n_active
    for name, tensor in sparse.named().items():
        torch.testing.assert_close(tensor, getattr(dense, name), rtol=1e-4, atol=1e-5, msg=name)


def test_jumprelu_learns_its_threshold_by_the_rectangle() -> None:
    """The threshold's gradient is a sum over pre-activations near it (Rajamanoharan et al. 2024, equation 11)."""
    torch.manual_seed(0)
    settings = TrainingSettings(d_transcoder=5, activation="jumprelu", sparsity=0.2)
    p, x, y = random_parameters(settings), torch.randn(4000, 24), torch.randn(4000, 24)
    into = p.empty()
    outcome = loss_and_gradients(p, x, y, settings, into)
    assert p.log_threshold is not None
    threshold, pre = p.log_threshold.exp(), torch.addmm(p.b_enc, x, p.W_enc.T)
    a = torch.where(pre > threshold, pre, 0)
    error = torch.addmm(p.b_dec, a, p.W_dec) - y
    back = 2 * error @ p.W_dec.T / (y - y.mean(0)).square().sum()
    near = ((pre - threshold).abs() < 0.025).float() / 0.05
    expected = -(near * (back * threshold + 0.2 / len(x))).sum(0) * threshold
    torch.testing.assert_close(into.log_threshold, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(into.W_enc, (back * (a > 0)).T @ x, rtol=1e-3, atol=1e-5)
    assert outcome.penalty == pytest.approx(0.2 * float((a > 0).float().sum(1).mean()), 1e-5)


def test_the_auxiliary_loss_teaches_dead_features_what_is_left() -> None:
    torch.manual_seed(0)
    settings = TrainingSettings(d_transcoder=40)
    p, x, residual = random_parameters(settings), torch.randn(200, 24), torch.randn(200, 24)
    dead = torch.arange(40) % 3 == 0
    for tensor in p.named().values():
        tensor.requires_grad_()
    a = activate(torch.addmm(p.b_enc[dead], x, p.W_enc[dead].T), "topk", None, 12)
    loss = (residual + a @ p.W_dec[dead]).square().sum() / residual.square().sum() / 32
    loss.backward()
    with torch.no_grad():
        into = Parameters(**{name: torch.zeros_like(tensor) for name, tensor in p.named().items()})
        assert add_auxiliary(p, x, residual, dead, into) == pytest.approx(loss.item(), 1e-5)
        assert add_auxiliary(p, x, residual, torch.zeros(40, dtype=torch.bool), into) == 0
    for name in ("W_enc", "b_enc", "W_dec"):
        torch.testing.assert_close(getattr(into, name), getattr(p, name).grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_layers_train_together_as_alone_and_go_on_from_states_of_different_steps(activation: str) -> None:
    """Three layers from one reading; two were saved at step 17, one at step 30, and one not at all."""
    settings = TrainingSettings(d_transcoder=16, activation=activation, k=3, n_steps=40, dead_after_tokens=2000)  # pyright: ignore
    read: list[tuple[int, list[int]]] = []

    def streams(step: int, layers: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        read.append((step, layers))
        return {layer: toy_batch(100 * layer + step) for layer in layers}

    saved: dict[int, dict[str, Tensor]] = {}

    def save(together, figures) -> None:
        for layer, step in figures.items():
            if (layer, step.step) in ((0, 17), (1, 30)):
                saved[layer] = together[layer].state()

    with ThreadPoolExecutor(2) as pool:
        together = train_together(streams, [0, 1, 2], settings, pool, save)
        assert read == [(0, [0, 1, 2]), *((step, [0, 1, 2]) for step in range(40))]
        going_on = {layer: Trainer.resumed(state, settings) for layer, state in saved.items()}
        resumed = train_together(streams, [0, 1, 2], settings, pool, lambda *_: None, going_on)
    for layer in range(3):
        alone = tensors(trained(settings, lambda step, layer=layer: toy_batch(100 * layer + step)))
        for other in (together[layer], resumed[layer]):
            assert all(map(torch.equal, alone, tensors(other.transcoder())))


def test_a_seed_gives_the_same_transcoder_and_another_seed_another() -> None:
    one, same, other = (
        trained(TrainingSettings(d_transcoder=16, k=3, n_steps=10, seed=seed)).W_enc for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_constant_activations_are_refused() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        Trainer.started(torch.ones(10, 4), torch.ones(10, 4), TrainingSettings(d_transcoder=4))


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_the_saved_weights_undo_what_scaled_the_streams(activation: str) -> None:
    """Streams that are shifted, and a thousand times as large, train the same transcoder in other units."""
    settings = TrainingSettings(d_transcoder=16, activation=activation, k=4, n_steps=30, skip=True)  # pyright: ignore
    shift = torch.linspace(-3, 5, 8)

    def large(step: int) -> tuple[Tensor, Tensor]:
        x, y = toy_batch(step)
        return 1000 * (x + shift), 50 * (y - shift)

    small, scaled = trained(settings), trained(settings, large)
    x = toy_batch(77)[0]
    x_large = 1000 * (x + shift)
    found, found_scaled = small.decode(small.encode(x), x), scaled.decode(scaled.encode(x_large), x_large)
    torch.testing.assert_close(found_scaled / 50 + shift, found, rtol=0, atol=2e-2)


def test_massive_tokens_are_not_trained_on() -> None:
    """As SmolLM2 has them: one token in thousands is eighty times as long as the others."""
    settings = TrainingSettings(d_transcoder=16, k=4, n_steps=20)

    def with_massive(step: int) -> tuple[Tensor, Tensor]:
        x, y = toy_batch(step)
        massive = 1e4 * torch.ones(2, 8)
        return torch.cat([massive, x]), torch.cat([massive, y])

    assert all(map(torch.equal, tensors(trained(settings)), tensors(trained(settings, with_massive))))


def test_dead_features_start_anew() -> None:
    settings = TrainingSettings(
        d_transcoder=16, activation="relu", sparsity=1e-3, n_steps=4 * REVIVE_EVERY, dead_after_tokens=512
    )
    trainer = Trainer.started(*toy_batch(0), settings)
    trainer.parameters.b_enc[:8] = -100
    for step in range(REVIVE_EVERY):
        figures = trainer.step(*toy_batch(step))
    assert figures.dead_share >= 0.5
    assert trainer.parameters.b_enc.min() > -1
    assert trainer.step(*toy_batch(200)).dead_share == 0
    assert trainer.tokens_since_active[:8].min() == 0


def test_the_learning_rate_rises_stays_and_falls() -> None:
    settings = TrainingSettings(n_steps=100, warm_up=0.1, decay=0.4)
    rates = [schedule(step, settings) for step in (0, 4, 9, 50, 59, 80, 99)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 1, 0.5, 0.025])
    assert [schedule(step, replace(settings, warm_up=0.0, decay=0.0)) for step in (0, 99)] == [1, 1]


def test_a_step_of_topk_moves_features_that_are_dead() -> None:
    """Those gain by the auxiliary loss alone: they are not among the greatest of any token."""
    settings = TrainingSettings(d_transcoder=16, k=2, n_steps=10, learning_rate=1e-2, dead_after_tokens=100)
    trainer = Trainer.started(*toy_batch(0), settings)
    trainer.parameters.W_enc[8:] *= 1e-6
    trainer.parameters.b_enc[:8], trainer.parameters.b_enc[8:] = 1.0, 1e-6
    trainer.tokens_since_active[8:] = 1000
    before = trainer.parameters.W_dec.clone()
    trainer.step(*toy_batch(1))
    assert ((trainer.parameters.W_dec - before).abs().amax(1)[8:] > 1e-4).all()
