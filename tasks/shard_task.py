"""What all tasks share: retries for what may pass, none for what will not."""

import errno
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

RETRIES = 2


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
    """A Prefect task for one shard. Results are files that name their recipe, so Prefect caches nothing."""

    def decorate(work: Callable[..., Any]) -> Any:
        @wraps(work)
        def limited(*args: Any, **kwargs: Any) -> Any:
            torch.get_num_threads()  # in a new thread, matrix products take every core until torch has been asked
            return work(*args, **kwargs)

        return task(  # pyright: ignore[reportCallIssue]
            limited,  # pyright: ignore[reportArgumentType]
            name=name,
            task_run_name=run_name,
            retries=RETRIES,
            retry_delay_seconds=1,
            retry_condition_fn=may_pass,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return decorate
