"""What all tasks share: retries for what may pass, none for what will not."""

import errno
from collections.abc import Callable
from typing import Any

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
    return task(
        name=name,
        task_run_name=run_name,
        retries=RETRIES,
        retry_delay_seconds=1,
        retry_condition_fn=may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
