"""Active features as the compiled loops find them, against dense activations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.activations import encoding
from interp.activations.encoding import Encoder, find_active, gather_active
from interp.batches import forget_sizes
from interp.transcoder import ActivationName
from tests.absent_device import NAME


def encoder(activation: ActivationName, d_transcoder: int, seed: int, shift: float, k: int) -> Encoder:
    generator = torch.Generator().manual_seed(seed)
    W_enc = torch.randn(d_transcoder, 8, generator=generator)
    b_enc = torch.randn(d_transcoder, generator=generator) + shift
    threshold = torch.randn(d_transcoder, generator=generator)
    return Encoder(W_enc, b_enc, activation, threshold if activation == "jumprelu" else None, k)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["relu", "jumprelu", "topk"]),
    st.integers(1, 70),
    st.integers(0, 300),
    st.floats(-6, 3),
    st.integers(1, 20),
    st.integers(0, 5),
    st.booleans(),
)
def test_what_is_found_is_what_is_active(
    activation: ActivationName, width: int, n_tokens: int, shift: float, k: int, seed: int, screened: bool
) -> None:
    coder = encoder(activation, width, seed, shift, k)
    if screened:
        coder = coder.screened()
    x = torch.randn(n_tokens, 8, generator=torch.Generator().manual_seed(seed + 1))
    position = np.cumsum(np.ones(n_tokens, np.uint16), dtype=np.uint16) * 3
    entries = [find_active(coder, x[part], position[part]) for part in (slice(100), slice(100, None))]
    found = gather_active(entries, width)
    expected = coder.encode(x).numpy()
    feature = np.repeat(np.arange(width), np.diff(found.indptr))
    dense = np.zeros_like(expected)
    dense[found.token // 3 - 1, feature] = found.value
    np.testing.assert_allclose(dense, expected, rtol=1e-5, atol=1e-5)
    for f in range(width):
        assert (np.diff(found.token[found.indptr[f] : found.indptr[f + 1]].astype(int)) > 0).all()


def test_of_equal_activations_the_smaller_features_are_active() -> None:
    coder = Encoder(torch.zeros(9, 2), torch.tensor([1.0, 2, 1, 1, 0, -1, 1, 3, 1]), "topk", None, 4)
    found = gather_active([find_active(coder, torch.zeros(2, 2), np.arange(2, dtype=np.uint16))], 9)
    assert np.flatnonzero(np.diff(found.indptr)).tolist() == [0, 1, 2, 7]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_screen_misses_nothing_however_close_to_the_threshold(scale: float) -> None:
    n, d_model = 3000, 96
    W_enc = torch.randn(n, d_model, generator=torch.Generator().manual_seed(0))
    x = scale * torch.randn(200, d_model, generator=torch.Generator().manual_seed(1))
    products = x[0] @ W_enc.T  # of the first token, half of the features are active by a hair, half are not
    above, hair = torch.arange(n) % 2 == 0, 1e-5 * x[0].norm() * W_enc.norm(dim=1)
    coder = Encoder(W_enc, torch.zeros(n), "jumprelu", products + torch.where(above, -hair, hair))
    position = np.arange(200, dtype=np.uint16)
    plain, screened = (find_active(each, x, position) for each in (coder, coder.screened()))
    pairs = [set(zip(token.tolist(), feature.tolist(), strict=True)) for token, feature, _ in (plain, screened)]
    assert pairs[0] == pairs[1]
    assert len({pair for pair in pairs[0] if pair[0] == 0}) == (above & (products > 0)).sum() > 700
    np.testing.assert_allclose(screened[2], plain[2], rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("screened", [False, True])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(activation: ActivationName, bad: float, screened: bool) -> None:
    coder, x = encoder(activation, 40, 0, 0.0, 3), torch.randn(5, 8)
    coder = coder.screened() if screened else coder
    x[3, 2] = bad
    with pytest.raises(ValueError, match="not a finite number"):
        find_active(coder, x, np.arange(5, dtype=np.uint16))


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_a_single_feature_that_is_no_number_is_refused_wherever_it_stands(activation: ActivationName) -> None:
    width = 70
    for feature in range(width):
        coder = encoder(activation, width, 0, -50.0, 3)  # all the others are far from active
        coder.W_enc[feature, 2] = float("nan")
        with pytest.raises(ValueError, match="not a finite number"):
            find_active(coder, torch.randn(5, 8), np.arange(5, dtype=np.uint16))


def test_the_greatest_of_a_wide_layer_are_found_however_they_lie() -> None:
    n, k, random = 2051, 40, np.random.default_rng(0)
    rows = [np.zeros(n), np.full(n, 2.0), np.arange(n), np.sort(random.standard_cauchy(n))]
    rows += [random.standard_normal(n) - shift for shift in (0, 2, 4)]
    rows += [np.where(np.arange(n) % (n // 8) == at, 5.0, 0.1) for at in (0, 3)]  # one group has them all
    pre = torch.tensor(np.array(rows), dtype=torch.float32)
    coder = Encoder(pre.T.contiguous(), torch.zeros(n), "topk", None, k)
    found = gather_active([find_active(coder, torch.eye(len(pre)), np.arange(len(pre), dtype=np.uint16))], n)
    dense = np.zeros(pre.shape, np.float32)
    dense[found.token, np.repeat(np.arange(n), np.diff(found.indptr))] = found.value
    greatest = np.argsort(-pre.numpy(), axis=1, kind="stable")[:, :k]  # of equals, the smaller features
    expected = np.zeros_like(dense)
    np.put_along_axis(expected, greatest, np.take_along_axis(pre.numpy().clip(min=0), greatest, 1), 1)
    np.testing.assert_array_equal(dense, expected)


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_entries_are_listed_on_a_gpu_and_copied_once(
    activation: ActivationName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks, which are halved where there is no room; the result is that of the CPU."""
    torch.manual_seed(0)
    x, position = torch.randn(50, 8), np.arange(100, 150, dtype=np.uint32)
    encoder = Encoder(torch.randn(30, 8), torch.zeros(30), activation, k=4)
    there = Encoder(encoder.W_enc.to(NAME), encoder.b_enc.to(NAME), activation, k=4)
    monkeypatch.setattr(encoding, "NUMBERS_ON_GPU", 30 * 20)
    encode, cpu, sizes, copied = Encoder.encode, torch.Tensor.cpu, list[int](), list[int]()

    def small(self: Encoder, rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        if len(rows) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, rows)

    def to_host(tensor: torch.Tensor) -> torch.Tensor:
        copied.append(tensor.nbytes)
        return cpu(tensor)

    monkeypatch.setattr(Encoder, "encode", small)
    monkeypatch.setattr(torch.Tensor, "cpu", to_host)
    forget_sizes()
    found, expected = (
        sorted(zip(*find_active(one, rows, position), strict=True)) for one, rows in ((there, x.to(NAME)), (encoder, x))
    )
    forget_sizes()
    assert sizes == [20, 10, 10, 10, 10, 10]
    assert copied == [12 * len(found)]
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
    assert np.allclose([pair[2] for pair in found], [pair[2] for pair in expected], atol=1e-6)
