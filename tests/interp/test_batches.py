"""Batches that a device has no room for are done in halves."""

import pytest
import torch

from interp.batches import forget_sizes, in_batches, remember_sizes


@pytest.fixture(autouse=True)
def nothing_found_yet():
    forget_sizes()
    yield
    forget_sizes()


def test_a_batch_without_room_is_halved_said_once_and_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []
    sizes: list[int] = []

    def run(part: slice) -> None:
        sizes.append(part.stop - part.start)
        if sizes[-1] > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        done.extend(range(part.start, part.stop))

    in_batches("some work", "cuda:1", 11, 10, run)
    assert sizes == [10, 5, 3, 3, 3, 2]
    assert done == list(range(11))
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "some work: 5 at once do not fit into the memory of cuda:1; from here on 3"
    assert len(said) == 2
    sizes.clear()
    in_batches("some work", "cuda:1", 4, 10, run)
    in_batches("other work", "cuda:1", 2, 10, run)
    in_batches("some work", "cuda:0", 3, 10, run)
    assert sizes == [3, 1, 2, 3]
    assert not capsys.readouterr().err


def test_what_is_remembered_is_a_number_of_tokens() -> None:
    kept: dict[str, int] = {}
    remember_sizes(kept)
    sizes: list[int] = []

    def run(part: slice) -> None:
        sizes.append(part.stop - part.start)
        if len(sizes) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    in_batches("some work", "cuda:1", 8, 8, run, width=100)
    assert kept == {"some work on cuda:1": 400}
    in_batches("some work", "cuda:1", 8, 8, run, width=50)
    in_batches("some work", "cuda:1", 2, 8, run, width=1000)
    assert sizes == [8, 4, 4, 8, 1, 1]
    remember_sizes({"some work on cuda:1": 300})
    in_batches("some work", "cuda:1", 3, 8, run, width=100)
    assert sizes[6:] == [3]


def test_what_does_not_fit_at_all_or_is_another_error_is_raised() -> None:
    def too_large(part: slice) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="no room"):
        in_batches("some work", "cpu", 3, 4, too_large)

    def wrong(part: slice) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_batches("other work", "cpu", 3, 4, wrong)
