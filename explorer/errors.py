"""Errors of requests that get no page; each has one sentence for the reader."""


class ExplorerError(Exception):
    """A request that is refused, with the status that says so."""

    status = 500


class BadRequestError(ExplorerError):
    """What was asked for makes no sense."""

    status = 400


class ForbiddenError(ExplorerError):
    """Not from here, or not without the token."""

    status = 403


class NotFoundError(ExplorerError):
    """There is no such thing."""

    status = 404


class LimitError(ExplorerError):
    """More time, rows or memory would be needed than a request may use."""

    status = 503
