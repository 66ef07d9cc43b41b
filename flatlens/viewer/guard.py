"""Who may ask the server for what: the first thing that is looked at of every request.

A page of anybody's in the same browser can send requests to a server on this machine, and a name of anybody's can be
made to lead to it. So a request must name this server as its host, and bear a secret that no other page knows.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

METHODS = ("GET", "HEAD")


class Refusal(NamedTuple):
    """Why a request is not answered: the status, and one line for who reads it."""

    status: HTTPStatus
    said: str


def new_token() -> str:
    """256 random bits, as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def cookie_name(port: int) -> str:
    """Cookies belong to a host with all its ports: the name tells one server's from another's."""
    return f"flatlens-{port}"


def set_cookie(port: int, token: str) -> str:
    """The header that makes a browser bring the token with every request to this server, and from its pages alone."""
    return f"{cookie_name(port)}={token}; Path=/; HttpOnly; SameSite=Strict"


def is_token(given: str, token: str) -> bool:
    """Whether a text is the token; how long that takes tells nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def refused(hosts: Sequence[str], method: str, port: int) -> Refusal | None:
    """Why a request is not for this server, whoever asks; None where it is.

    Args:
        hosts: all its Host headers.
        method: GET, POST, ….
        port: this server's.
    """
    known = (f"127.0.0.1:{port}", f"localhost:{port}")
    if len(hosts) != 1 or hosts[0].strip().lower() not in known:
        return Refusal(HTTPStatus.MISDIRECTED_REQUEST, f"This server is {known[0]} and answers to no other name.")
    if method not in METHODS:
        return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Results are shown here and not changed: GET and HEAD only.")
    return None


def bears_token(cookies: Sequence[str], port: int, token: str) -> bool:
    """Whether one of a request's Cookie headers holds this server's token."""
    pairs = (pair.strip().partition("=") for header in cookies for pair in header.split(";"))
    return any(name == cookie_name(port) and is_token(value, token) for name, _, value in pairs)


NO_TOKEN = Refusal(HTTPStatus.FORBIDDEN, "Open the address that `flatlens view` has printed: it holds the token.")
