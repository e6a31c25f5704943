"""The blocked projection against the obvious one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.projection import OutlierRule, Outliers, Projection, ZScoreMode, project, torch_keys, unpack_keys


def naive(
    rows: torch.Tensor, columns: torch.Tensor, mode: ZScoreMode, pool: int, threshold: float
) -> list[list[tuple]]:
    """For each tail, (row, column, score, z) of the outliers, one row at a time over the full scores."""
    tails: list[list[tuple]] = [[], []]
    for row, scores in enumerate((rows @ columns.T).numpy().astype(np.float64)):
        for tail, sign in enumerate((1, -1)):
            signed = sign * scores
            best = np.argsort(-signed, kind="stable")[:pool]
            reference = signed[best] if mode == "paper" else signed
            deviation = reference.std(ddof=1)
            for column in best if deviation > 0 else []:
                z = (signed[column] - reference.mean()) / deviation
                if z > threshold:
                    tails[tail].append((row, int(column), scores[column], sign * z))
    return tails


def run(rows: torch.Tensor, columns: torch.Tensor, tile: int, rule: OutlierRule, **options: bool) -> Projection:
    def tiles():
        for start in range(0, len(columns), tile):
            yield start, columns[start : start + tile]

    return project(rows, tiles, len(columns), rule, **options)


def assert_same(found: Outliers, expected: list[tuple]) -> None:
    assert list(zip(found.row.tolist(), found.column.tolist(), strict=True)) == [e[:2] for e in expected]
    np.testing.assert_allclose(found.score, [e[2] for e in expected], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.z_score, [e[3] for e in expected], rtol=1e-4)


@pytest.mark.parametrize("mode", ["paper", "full"])
@settings(max_examples=25, deadline=None)
@given(
    n_rows=st.integers(1, 40),
    n_columns=st.integers(2, 900),
    tile=st.integers(1, 500),
    pool=st.integers(2, 200),
    seed=st.integers(0, 10_000),
)
def test_equals_the_naive_projection_for_any_tiling(
    mode: ZScoreMode, n_rows: int, n_columns: int, tile: int, pool: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers give exact scores, hence many exact ties for the index rule to break.
    rows = torch.randint(-3, 4, (n_rows, 8), generator=generator).float()
    columns = torch.randint(-3, 4, (n_columns, 8), generator=generator).float()
    found = run(rows, columns, tile, OutlierRule(mode, pool, 1.5))
    positive, negative = naive(rows, columns, mode, min(pool, n_columns), 1.5)
    # A z-score within rounding of the threshold may fall on either side of it.
    if all(abs(abs(e[3]) - 1.5) > 1e-6 for e in positive + negative):
        assert_same(found.positive, positive)
        assert_same(found.negative, negative)


@pytest.mark.parametrize("mode", ["paper", "full"])
def test_finds_planted_outliers_among_random_scores(mode: ZScoreMode) -> None:
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.randn(300, 64, generator=generator), torch.randn(5003, 64, generator=generator)
    columns[17] = 4 * rows[3]
    columns[4999] = -3 * rows[3]
    found = run(rows, columns, 777, OutlierRule(mode, 300, 3.0))
    positive, negative = naive(rows, columns, mode, 300, 3.0)
    assert_same(found.positive, positive)
    assert_same(found.negative, negative)
    assert (3, 17) in zip(found.positive.row.tolist(), found.positive.column.tolist(), strict=True)
    assert (3, 4999) in zip(found.negative.row.tolist(), found.negative.column.tolist(), strict=True)
    np.testing.assert_allclose(found.absolute_sum, (rows @ columns.T).abs().sum(1), rtol=1e-4)


@pytest.mark.parametrize("mode", ["paper", "full"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
def test_scores_that_do_not_vary_have_no_outliers(mode: ZScoreMode, value: float) -> None:
    found = run(torch.full((3, 4), value), torch.ones(1000, 4), 64, OutlierRule(mode, 50, 0.5))
    assert len(found.positive.row) == len(found.negative.row) == 0


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("mode", ["paper", "full"])
@pytest.mark.parametrize("value", [3e38, float("nan")])
def test_scores_beyond_float32_are_refused_and_their_row_named(mode: ZScoreMode, tensors: bool, value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randn(4, 8, generator=generator), 10 * torch.randn(700, 8, generator=generator)
    rows[2] = value
    with pytest.raises(OverflowError, match=r"^2$"):
        run(rows, columns, 200, OutlierRule(mode, 40, 2.0), tensors=tensors)


@pytest.mark.parametrize("mode", ["paper", "full"])
def test_tensor_operations_select_what_the_compiled_loops_do(mode: ZScoreMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.projection.GPU_COLUMNS", 300)  # so that tiles of 150 are joined, and not all of them
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(-3, 4, (300, 8), generator=generator).float()
    columns = torch.randint(-3, 4, (700, 8), generator=generator).float()
    rule = OutlierRule(mode, 40, 0.5)
    compiled, tensors = (run(rows, columns, 150, rule, tensors=tensors) for tensors in (False, True))
    for one, other in zip(compiled[:2], tensors[:2], strict=True):
        assert len(one.row) > 100
        for left, right in zip(one, other, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-6)
    np.testing.assert_allclose(compiled.absolute_sum, tensors.absolute_sum)


@pytest.mark.parametrize("mode", ["paper", "full"])
def test_one_tail_alone_is_the_same_tail(mode: ZScoreMode) -> None:
    generator = torch.Generator().manual_seed(5)
    rows, columns = torch.randn(30, 32, generator=generator), torch.randn(2001, 32, generator=generator)
    both, alone = (run(rows, columns, 300, OutlierRule(mode, 100, 2.0, negative)) for negative in (True, False))
    assert len(both.positive.row) > 0
    assert both.positive.column.tolist() == alone.positive.column.tolist()
    assert len(alone.negative.row) == 0


@pytest.mark.parametrize("mode", ["paper", "full"])
@pytest.mark.parametrize("planted", [0.0, 0.15])
def test_screening_in_bfloat16_changes_nothing(mode: ZScoreMode, planted: float) -> None:
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.randn(300, 96, generator=generator), torch.randn(6007, 96, generator=generator)
    for _ in range(6):
        rows = rows + planted * columns[torch.randint(6007, (300,), generator=generator)]
    exact = run(rows, columns, 1000, OutlierRule(mode, 200, 3.0))
    screened = run(rows, columns, 1000, OutlierRule(mode, 200, 3.0), screen=True)
    assert len(exact.positive.row) > 300
    for one, other in zip(exact[:2], screened[:2], strict=True):
        assert one.row.tolist() == other.row.tolist()
        assert one.column.tolist() == other.column.tolist()
        np.testing.assert_allclose(one.score, other.score, rtol=1e-4)
        np.testing.assert_allclose(one.z_score, other.z_score, rtol=1e-4)
    np.testing.assert_allclose(screened.absolute_sum, exact.absolute_sum, rtol=1e-3)


def test_the_sum_over_all_scores_keeps_the_rounding_of_bfloat16() -> None:
    """More than a thousandth of it where all columns share a direction of which the rows read little, and never more
    than products of rounded numbers can be off."""
    generator = torch.Generator().manual_seed(7)
    shared = torch.randn(96, generator=generator)
    columns = torch.randn(6007, 96, generator=generator) + 30 * shared
    rows = torch.randn(300, 96, generator=generator)
    rows = rows - torch.outer((rows @ shared - 1) / (shared @ shared), shared)
    exact, screened = (
        run(rows, columns, 1000, OutlierRule("paper", 200, 3.0), screen=screen) for screen in (False, True)
    )
    error = np.abs(screened.absolute_sum - exact.absolute_sum)
    assert (error > 1e-3 * exact.absolute_sum).mean() > 0.2
    assert (error < 1e-1 * exact.absolute_sum).all()
    product = (rows.abs() @ columns.abs().T).sum(1).numpy()
    assert (error <= 2**-7 * product + 2**-8 * exact.absolute_sum).all()


def test_screening_falls_back_where_scores_are_too_close_to_tell() -> None:
    """All scores of a row within bfloat16's rounding of each other: every row is doubtful, and still right."""
    rows = torch.ones(5, 8)
    columns = torch.ones(900, 8) + 1e-4 * torch.randn(900, 8, generator=torch.Generator().manual_seed(4))
    exact, screened = (
        run(rows, columns, 128, OutlierRule("paper", 100, 2.0), screen=screen) for screen in (False, True)
    )
    assert len(exact.positive.row) > 0
    assert exact.positive.column.tolist() == screened.positive.column.tolist()


def test_keys_order_by_score_then_by_smaller_column() -> None:
    scores = torch.tensor([[2.0, -1.0, 2.0, 0.0, -0.0, -3.5]])
    keys = torch_keys(scores, start=10)
    order = keys[0].argsort(descending=True) + 10
    assert order.tolist() == [10, 12, 13, 14, 11, 15]
    unpacked, columns = unpack_keys(keys.numpy())
    np.testing.assert_array_equal(unpacked, scores)
    assert columns[0].tolist() == list(range(10, 16))
