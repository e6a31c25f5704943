"""Errors of requests that cannot be answered; each has one sentence for the reader."""


class ExplorerError(Exception):
    """A refused request, with its HTTP status."""

    status = 500


class BadRequestError(ExplorerError):
    """The request is not valid."""

    status = 400


class ForbiddenError(ExplorerError):
    """The request comes from another site, or without the token."""

    status = 403


class NotFoundError(ExplorerError):
    """What was asked for does not exist."""

    status = 404


class LimitError(ExplorerError):
    """The request needs more time, rows or memory than allowed."""

    status = 503
