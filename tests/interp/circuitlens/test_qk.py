"""Scores of heads parted into pairs: equal to what every family's attention computes, and to the obvious way."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

from interp.capture import Hooks
from interp.circuitlens import qk
from interp.circuitlens.attribution import Contributions, Targets, contributions
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.linear import LinearModel, linear_model
from interp.circuitlens.qk import AttendedPairs, score_parts, sources_beneath, strongest_pairs
from interp.families import family_of
from tests.frozen_models import TOKENS, attend_with, frozen_model, open_model, random_transcoders
from tests.planted_circuits import INDUCTION, PREVIOUS_IS, planted_induction
from tests.tiny_models import DIFFERENT, N_LAYERS

HOOKS = Hooks("mlp_in", "mlp_out")
LOOKS = AttendedPairs(torch.tensor([0, 1, 2, 3, 3]), torch.tensor([8, 7, 5, 8, 2]), torch.tensor([3, 7, 0, 6, 1]))


def scores_of(name: str) -> list[Tensor]:
    """What each layer's heads multiply, before any cap, mask or softmax: (head, query, key)."""
    seen: list[Tensor] = []

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **given: Any) -> Any:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        score = query @ key.transpose(2, 3) * given["scaling"]
        seen.append(score[0])
        cap = given.get("softcap")
        pattern = score if cap is None else cap * torch.tanh(score / cap)
        pattern = pattern if mask is None else pattern + mask
        if given.get("s_aux") is not None:  # a sink in every head
            sink = given["s_aux"][None, :, None, None].expand(*pattern.shape[:-1], 1)
            pattern = torch.cat([pattern, sink], -1)
        pattern = pattern.softmax(-1)[..., : key.shape[2]]
        return (pattern @ value).transpose(1, 2), pattern

    attend_with(model := open_model(name), attend)
    with torch.no_grad():
        model(TOKENS[None], use_cache=False)
    return seen


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in DIFFERENT for kind in ("jumprelu", "skip", "cross")]
)
def test_pairs_sum_to_the_score_that_the_head_computes(name: str, kind: str) -> None:
    linear, frozen = frozen_model(name, HOOKS, random_transcoders(kind))
    for layer, expected in zip(range(N_LAYERS), scores_of(name), strict=True):
        parted = list(score_parts(linear, frozen, layer, LOOKS, n_keys=3, max_bytes=10**9))
        for one, head, query, key in zip(parted, *(column.tolist() for column in LOOKS), strict=True):
            total = one.pairs.double().sum() + one.rest.double().sum()
            scale = one.pairs.abs().sum() + one.rest.abs().sum()
            assert abs(one.score - expected[head, query, key]) < 1e-4 * scale
            assert abs(total - expected[head, query, key]) < 1e-5 * scale
            torch.testing.assert_close(total.float(), expected[head, query, key], rtol=1e-4, atol=2e-3)


def all_pairs(linear: LinearModel, frozen: Frozen, layer: int, look: int) -> Tensor:
    """Every source of the query with every source of the key: each number of both vectors swept by itself."""
    beneath = replace(linear, attention=linear.attention[:layer], mlp=linear.mlp[:layer])
    below = replace(frozen, layers=frozen.layers[:layer])
    sides = []
    for position, is_key in ((LOOKS.query, False), (LOOKS.key, True)):
        side = qk._side(linear, frozen, layer, LOOKS.head[[look]], position[[look]], is_key=is_key)
        n = side.W.shape[1]
        targets = Targets(torch.full((n,), layer), position[[look]].repeat(n), side.W[0], side.constant[0])
        (found,) = contributions(beneath, below, targets, max_bytes=10**9)
        sides.append(qk._stacked(found, frozen.n_pos)[:, found.target.argsort()])
    return sides[0] @ sides[1].T


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma3_text", "llama"])
def test_pairs_are_those_of_all_numbers_swept_by_themselves(name: str) -> None:
    linear, frozen = frozen_model(name, HOOKS, random_transcoders("cross"))
    for n_keys in (4, 10_000):
        for look, one in enumerate(score_parts(linear, frozen, 2, LOOKS, n_keys=n_keys, max_bytes=10**9)):
            expected = all_pairs(linear, frozen, 2, look)
            scale = float(expected.abs().max())
            torch.testing.assert_close(one.pairs, expected[:, one.keys], rtol=1e-3, atol=1e-4 * scale)
            rest = expected.sum(1) - expected[:, one.keys].sum(1)
            torch.testing.assert_close(one.rest, rest, rtol=1e-3, atol=1e-3 * scale)
            through_key = expected.sum(0)[:-2].abs()
            kept = one.keys[2:]
            assert (through_key[kept] >= through_key.sort().values[-len(kept)] - 1e-3 * scale).all()
            assert len(kept) == min(n_keys, int((through_key > 0).sum()))


def test_an_induction_head_is_found_to_look_for_the_previous_token_feature() -> None:
    """Token 2, then 5, later 2 again: head 1.0 attends from the second 2 to the 5, as its feature says `after 2`."""
    model, coders = planted_induction()
    linear = linear_model(model, family_of("gpt2"), HOOKS)
    tokens = torch.tensor([7, 8, 2, 5, 6, 8, 7, 2])
    frozen = freeze(linear, coders.__getitem__, tokens)
    assert int(frozen.layers[1].pattern[0, 7].argmax()) == 3
    attended = AttendedPairs(torch.tensor([0]), torch.tensor([7]), torch.tensor([3]))
    sources = sources_beneath(frozen, 1)
    found = strongest_pairs(score_parts(linear, frozen, 1, attended, n_keys=4, max_bytes=10**8), sources, 3)
    assert found.query.kind[0] == 2
    assert (found.query.unit[0], found.query.position[0]) == (2, 7)
    assert (found.key.kind[0], found.key.layer[0], found.key.unit[0], found.key.position[0]) == (
        0,
        0,
        PREVIOUS_IS[2],
        3,
    )
    assert found.score[0] > 0.8 * found.head_score[0] > 0
    assert INDUCTION == (1, 0)


def test_a_batch_is_released_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, frozen = frozen_model("gpt2", Hooks("mlp_in", "mlp_out"), random_transcoders("relu"))
    n_batches = 0

    def one_by_one(linear: LinearModel, frozen: Frozen, targets: Targets, max_bytes: int) -> Iterator[Contributions]:
        nonlocal n_batches
        for at in range(len(targets)):
            [found] = contributions(linear, frozen, targets.at(torch.tensor([at])), max_bytes=max_bytes)
            batch, n_batches = ref(found.features), n_batches + 1
            yield found._replace(target=torch.tensor([at]))
            del found
            assert batch() is None

    monkeypatch.setattr(qk, "contributions", one_by_one)
    attended = AttendedPairs(torch.tensor([0]), torch.tensor([3]), torch.tensor([1]))
    list(score_parts(linear, frozen, 2, attended, n_keys=2, max_bytes=10**9))
    assert n_batches > 2
