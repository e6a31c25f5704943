"""Copies to a device beside its computing: nothing is read before it is there, and nothing stays out."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from interp import transfers
from interp.projection import OutlierRule, project
from interp.transfers import ahead, read_ahead, to_device
from tests.absent_device import NAME, Absent, LateCopies

ABSENT = torch.device(NAME)


@pytest.fixture
def _copies_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "copies_to", lambda _: LateCopies())


def test_a_copy_that_is_read_too_early_is_noticed() -> None:
    copies = LateCopies()
    copied = copies.begin(lambda: to_device(torch.arange(5.0), ABSENT))
    assert isinstance(copied, Absent)
    assert copied.inner.isnan().all()
    copies.finish(copied)
    assert copied.inner.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("_copies_are_late")
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_the_next_item_is_copied_while_one_is_used(n: int) -> None:
    prepared: list[int] = []

    def prepare(number: int) -> tuple[int, Tensor]:
        prepared.append(number)
        return number, to_device(torch.full((3,), float(number)), ABSENT)

    for number, there in ahead(iter(range(n)), prepare, ABSENT):
        assert there.cpu().tolist() == [number] * 3
        assert prepared == list(range(min(n, number + 2)))
    assert prepared == list(range(n))
    prepared.clear()
    assert [number for number, _ in ahead(iter(range(n)), prepare, torch.device("cpu"))] == prepared == list(range(n))


@pytest.mark.usefixtures("_copies_are_late")
def test_projections_of_columns_that_are_copied_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.projection.GPU_COLUMNS", 70)
    torch.manual_seed(0)
    rows, columns = torch.randn(9, 16), torch.randn(300, 16)

    def tiles() -> Iterator[tuple[int, Tensor]]:
        """Some are on the device, as those that stay there."""
        for start in range(0, 300, 30):
            tile = columns[start : start + 30]
            yield start, tile.to(NAME) if start % 90 == 0 else tile.bfloat16()

    rounded = torch.cat([tile.cpu().float() for _, tile in tiles()])
    rule = OutlierRule("paper", 40, 2.0)
    found = project(rows.to(NAME), tiles, 300, rule)
    expected = project(rows, lambda: iter([(0, rounded)]), 300, rule)
    assert len(expected.positive.column) > 10
    assert (found.positive.column == expected.positive.column).all()
    assert (found.negative.column == expected.negative.column).all()


def test_the_next_one_is_read_by_another_thread() -> None:
    readers: set[str] = set()

    def read(number: int) -> int:
        readers.add(threading.current_thread().name)
        return number**2

    assert list(read_ahead(range(5), read, NAME)) == [0, 1, 4, 9, 16]
    assert list(read_ahead([], read, NAME)) == []
    assert threading.current_thread().name not in readers
    readers.clear()
    assert list(read_ahead(range(3), read, "cpu")) == [0, 1, 4]
    assert readers == {threading.current_thread().name}
