"""Access control, and security headers for browsers."""

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Message = MutableMapping[str, Any]
"""An ASGI message."""

Scope = Message
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of every answer. None of them allows access by another origin."""

COOKIE = "circuit_insights_token"
MAX_QUERY = 4096
"""Largest number of characters in a query string."""
MAX_BODY = 65_536
"""Largest number of bytes of a form."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """The names under which the explorer answers, and who may use it."""

    host: str = "127.0.0.1"
    """The address that it listens on."""
    names: tuple[str, ...] = ()
    """Host names under which it can be reached, besides numeric addresses."""
    token: str | None = None
    """The token that every client must have; None: no token is required."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK_NAMES

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names this server. This protects against DNS rebinding: of names only those given are
        accepted, and a numeric address cannot be made to mean another machine."""
        name = host_name(host)
        if name in LOOPBACK_NAMES:
            return True
        if self.is_local:
            return False
        return name in (self.host.lower(), *(own.lower() for own in self.names)) or _is_address(name)


def host_name(host: str) -> str:
    """The name in a Host header or an origin, in lower case and without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def new_token() -> str:
    """A random token for the links of one server: 24 bytes, in URL-safe base64."""
    return secrets.token_urlsafe(24)


class Guard:
    """Refuses requests for other hosts or without access, and adds the security headers to every answer."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message.get("headers", [])}
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [
                    *message.get("headers", []), *((name, value) for name, value in added if name not in own)
                ]  # fmt: skip
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await answer(send_guarded, *refused)
            return
        query = scope["query_string"].decode("latin-1")
        given = dict(parse_qsl(query)).get("token")
        if self._access.token is not None and given is not None:
            await self._admit(scope, query, given, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence for a request that is refused."""
        host = headers.get("host", "")
        if not self._access.answers_to(host):
            return (
                403,
                f"This explorer does not answer to the host name {host_name(host)[:100]!r}; start it with --name.",
            )
        if len(scope["query_string"]) > MAX_QUERY:
            return 400, f"The address has {len(scope['query_string'])} characters of query; {MAX_QUERY} are read."
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, f"{scope['method'][:20]} is not understood; GET and POST are."
        if scope["method"] == "POST":
            refused = self._foreign_post(host, headers)
            if refused is not None:
                return refused
        if not self._knows_token(scope, headers):
            return 401, "This explorer requires its token: open the address that it printed when it started."
        return None

    def _foreign_post(self, host: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Whether a form was posted from another site's page, by the request's origin."""
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "Forms from other sites are refused."
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"Expected a form of at most {MAX_BODY} bytes, with its length."
        return None

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        if self._access.token is None:
            return True
        given = [dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", "")]
        given.append(headers.get("authorization", "").removeprefix("Bearer "))
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given.append(cookie.value if cookie else "")
        return any(hmac.compare_digest(one.encode(), self._access.token.encode()) for one in given)

    async def _admit(self, scope: Scope, query: str, token: str, send: Send) -> None:
        """Store the token in a cookie and redirect to the address without it, since it would be visible and shared
        there."""
        rest = urlencode([(name, value) for name, value in parse_qsl(query) if name != "token"])
        place = "/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else "")
        cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
        headers = [(b"location", place.encode("latin-1", "ignore")), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def answer(send: Send, status: int, sentence: str) -> None:
    """A short answer in plain text."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": (sentence + "\n").encode()})
