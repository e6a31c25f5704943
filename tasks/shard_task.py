"""What all tasks share: where their work is done, retries for what may pass, none for what will not."""

import errno
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

if TYPE_CHECKING:
    from distributed import Client

RETRIES = 2

CLUSTER: ContextVar["Client | None"] = ContextVar("cluster", default=None)
"""The Dask cluster whose workers do the work of tasks; without one it is done where the task is."""


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failure is worth a retry: not bad input, not a full disk."""
    try:
        state.result()
    except (ValueError, TypeError, KeyError, AssertionError):
        return False
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
    except BaseException:
        return True
    return False


def shard_task(name: str, run_name: str) -> Callable[[Callable[..., Any]], Any]:
    """A Prefect task for one shard. Results are files that name their recipe, so Prefect caches nothing.

    With a cluster, the task waits in its thread for the worker that does the work: workers know nothing of Prefect.
    """

    def decorate(work: Callable[..., Any]) -> Any:
        @wraps(work)
        def performed(*args: Any, **kwargs: Any) -> Any:
            cluster = CLUSTER.get()
            if cluster is None:
                return _work_here(work, args, kwargs)
            place = f"{work.__module__}:{work.__qualname__}"
            return cluster.submit(_work_on_worker, place, args, kwargs, key=f"{name}-{uuid4()}", pure=False).result()

        return task(  # pyright: ignore[reportCallIssue]
            performed,  # pyright: ignore[reportArgumentType]
            name=name,
            task_run_name=run_name,
            retries=RETRIES,
            retry_delay_seconds=1,
            retry_condition_fn=may_pass,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return decorate


def _work_here(work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    torch.get_num_threads()  # in a new thread, matrix products take every core until torch has been asked
    return work(*args, **kwargs)


def _work_on_worker(place: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do the work of the task at `module:name`, named and not sent, so that a worker's caches outlive its tasks."""
    return _work_here(resolve_name(place).fn.__wrapped__, args, kwargs)
