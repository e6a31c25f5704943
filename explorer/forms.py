"""Read forms, which never contain files."""

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from explorer.errors import BadRequestError

MAX_FIELDS = 20


async def sent(request: Request) -> dict[str, str]:
    """The fields of a form. Its length was checked before.

    Raises:
        BadRequestError: it has another encoding than forms have.
    """
    kind = request.headers.get("content-type", "").split(";")[0]
    if kind != "application/x-www-form-urlencoded":
        raise BadRequestError(f"a form is expected, application/x-www-form-urlencoded; this is {kind[:60]!r}")
    try:
        return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise BadRequestError("the form is not UTF-8, or has too many fields") from None


Sent = Annotated[dict[str, str], Depends(sent)]
"""A parameter that is what the form sends."""
