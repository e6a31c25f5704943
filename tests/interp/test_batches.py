"""Batches that a device has no room for are done in halves."""

import pytest
import torch

from interp.batches import each_batch, forget_sizes, in_batches, remember_sizes


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

    def no_handle(part: slice) -> None:
        sizes.append(part.stop - part.start)
        if sizes[-1] > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    sizes: list[int] = []
    in_batches("third work", "cpu", 2, 4, no_handle)
    assert sizes == [2, 1, 1]


def test_a_part_of_a_batch_that_fails_leaves_later_batches_whole() -> None:
    """Others had taken the memory for a moment: as much as a full batch has not been tried."""
    kept: dict[str, int] = {}
    remember_sizes(kept)
    sizes: list[int] = []

    def fails_first(part: slice) -> None:
        sizes.append(part.stop - part.start)
        if len(sizes) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    in_batches("some work", "cuda:1", 2, 20, fails_first)
    assert kept == {}
    in_batches("some work", "cuda:1", 20, 20, fails_first)
    assert sizes == [2, 1, 1, 20]
    sizes.clear()
    in_batches("some work", "cuda:1", 20, 20, fails_first)
    assert kept == {"some work on cuda:1": 10}


def test_a_batch_within_a_batch_is_halved_after_the_outer_one() -> None:
    """What the outer batch has in memory leaves no room for the inner one; alone, that one is not too large."""
    kept: dict[str, int] = {}
    remember_sizes(kept)
    tried: list[tuple[int, int]] = []

    def outer(part: slice) -> list[int]:
        n = part.stop - part.start

        def inner(own: slice) -> list[int]:
            tried.append((n, own.stop - own.start))
            if 10 * n + own.stop - own.start > most:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return [10 * item + one for item in range(part.start, part.stop) for one in range(own.start, own.stop)]

        return [one for found in each_batch("inner", "cuda:1", 4, 4, inner) for one in found]

    def run() -> list[int]:
        return sorted(one for found in each_batch("outer", "cuda:1", 4, 4, outer) for one in found)

    expected, most = [10 * item + one for item in range(4) for one in range(4)], 24
    assert run() == expected
    assert tried == [(4, 4), (2, 4), (2, 4)]
    assert kept == {"outer on cuda:1": 2}
    most = 12
    assert run() == expected
    assert tried[3:] == [(2, 4), *[(1, 4), (1, 2), (1, 2)] * 4]
    assert kept == {"outer on cuda:1": 1}
    most = 10
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run()
    assert kept == {"outer on cuda:1": 1}
