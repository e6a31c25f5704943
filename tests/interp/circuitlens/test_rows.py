"""Sweeps by compiled loops, on rows of every target's own length, and by products alone, as on accelerators."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from interp.circuitlens import rows as rows_module
from interp.circuitlens import written
from interp.circuitlens.attribution import Targets, contributions, feature_targets
from interp.circuitlens.direct import direct_contributions
from interp.circuitlens.rows import Rows, add_heads, mixed, mixed_by_products, n_rows, zero_rows
from tests.frozen_models import frozen_model, random_transcoders
from tests.interp.circuitlens.test_attribution import HOOKS
from tests.interp.circuitlens.test_direct import every_source
from tests.tiny_models import N_LAYERS


@pytest.mark.parametrize(
    ("n_pos", "n_heads", "n_kv_heads", "d_head"), [(150, 4, 2, 80), (13, 2, 2, 64), (9, 3, 1, 20), (5, 3, 1, 4)]
)
def test_the_compiled_loop_mixes_as_products_do(n_pos: int, n_heads: int, n_kv_heads: int, d_head: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(n_heads, n_pos, n_pos, generator=generator).tril()
    lengths = [n_pos, 1, n_pos // 2, n_pos - 3]
    first = np.concatenate([[0], np.cumsum(lengths)])
    u = torch.randn(int(first[-1]), n_heads * d_head, generator=generator)
    found = mixed(pattern, u, Rows(torch.zeros(len(u), 1), first), n_kv_heads)
    assert found.shape == (len(u), n_kv_heads * d_head)
    for start, stop in pairwise(first.tolist()):
        expected = mixed_by_products(pattern, u[None, start:stop], n_kv_heads)
        torch.testing.assert_close(found[start:stop], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n_pos", "n_heads", "d_model"), [(50, 5, 80), (13, 3, 64), (7, 2, 20), (4, 1, 4)])
def test_the_compiled_loop_adds_heads_as_products_do(n_pos: int, n_heads: int, d_model: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(n_heads, n_pos, n_pos, generator=generator).tril()
    position = torch.tensor([n_pos - 1, 0, n_pos // 2, n_pos - 2])
    rows = zero_rows(position, torch.zeros(len(position), d_model))
    before = torch.randn(rows.g.shape, generator=generator)
    rows.g[:] = before
    v = torch.randn(len(position), n_heads, d_model, generator=generator)
    add_heads(pattern, v, position, rows)
    added = [pattern[:, at, : at + 1].T @ v[target] for target, at in enumerate(position.tolist())]
    torch.testing.assert_close(rows.g, before + torch.cat(added), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", "skip"), ("gpt_neox", "skip"), ("gemma2", "cross"), ("qwen2", "relu")]
)
def test_the_same_by_products_alone(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, frozen = frozen_model(name, HOOKS[0], coders := random_transcoders(kind))
    feature, position = torch.tensor([1, 4, 2]), torch.tensor([8, 0, 5])
    each = [feature_targets(linear, frozen, at, coders[at], feature, position) for at in range(N_LAYERS)]
    targets = Targets(*(torch.cat(columns) for columns in zip(*each, strict=True)))
    (swept,) = contributions(linear, frozen, targets, max_bytes=10**9, heads=True)
    (direct,) = direct_contributions(linear, frozen, targets, max_bytes=10**9)
    for module in (rows_module, written):
        monkeypatch.setattr(module, "loops", lambda device: False)
    assert len(np.unique(np.diff(zero_rows(targets.position, targets.direction).first))) == 1
    (again,) = contributions(linear, frozen, targets, max_bytes=10**9, heads=True)
    torch.testing.assert_close(
        [*every_source(again), again.heads], [*every_source(swept), swept.heads], rtol=1e-3, atol=1e-3
    )
    (again,) = direct_contributions(linear, frozen, targets, max_bytes=10**9)
    torch.testing.assert_close(every_source(again), every_source(direct), rtol=1e-3, atol=1e-3)


def test_no_row_is_held_for_tokens_after_a_target() -> None:
    position = torch.tensor([4, 0, 2])
    rows = zero_rows(position, torch.zeros(3, 7))
    assert rows.g.shape == (9, 7)
    assert rows.token().tolist() == [0, 1, 2, 3, 4, 0, 0, 1, 2]
    assert rows.target().tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 2]
    assert n_rows(position.sort().values).tolist() == [1, 4, 9]
    rows.of(3, 2).g[1] = 1
    assert rows.dense(5)[:, :, 0].nonzero().tolist() == [[1, 2]]
