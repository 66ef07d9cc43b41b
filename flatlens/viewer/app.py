"""The server: one of the standard library, on this machine's own address, that reads and never writes.

/                                      the list               /api/list       its rows
/run/KEY                               a run                  /api/run/KEY    its row
/picture/KEY                           a run under way, as a page of its finished batches
/sweep/KEY/report.html                 a sweep; its cells' pages lie below it, as in its folder
/immunization/KEY                      an immunization
/compare?runs=KEY.KEY                  several runs on one page
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from flatlens.errors import FlatlensError, UsageError, one_line
from flatlens.report import html_file
from flatlens.version import __version__
from flatlens.viewer import drawn, guard, shell
from flatlens.viewer.drawn import MOST_COMPARED, Pages
from flatlens.viewer.found import CELL, DAMAGED, FINISHED, IMMUNITY, RUN, SWEEP, Folder, Found

HOST = "127.0.0.1"
PATIENCE = 20.0
"""Seconds after which a connection on which nothing happens is closed, and its thread ends."""
HTML, JSON, SCRIPT = "text/html; charset=utf-8", "application/json", "text/javascript; charset=utf-8"
_KEY = "([0-9a-f]{16})"
_RUN, _PICTURE, _API, _IMMUNITY = (
    re.compile(f"/{name}/{_KEY}") for name in ("run", "picture", "api/run", "immunization")
)
_SWEEP = re.compile(f"/sweep/{_KEY}/report\\.html")
_CELL = re.compile(f"/sweep/{_KEY}/cells/([0-9A-Za-z]{{1,64}})/report\\.html")
_PLOTLY = re.compile(f"(/sweep/{_KEY})?/plotly\\.min\\.js")


class Answer(NamedTuple):
    """What is sent back."""

    status: HTTPStatus
    content: bytes
    kind: str = HTML
    policy: str = "default-src 'none'"
    more: tuple[tuple[str, str], ...] = ()


class Server(ThreadingHTTPServer):
    """A server over one folder.

    Attributes:
        token: what a browser must bring once, as ``/?token=``, and keeps as a cookie.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Folder, port: int = 0) -> None:
        """Listen on a port of this machine's own address; 0 is any that is free.

        Raises:
            UsageError: the port cannot be had.
        """
        self.folder: Folder = folder
        self.pages: Pages = Pages(folder)
        self.token: str = guard.new_token()
        self.name: str = folder.root.resolve().name or str(folder.root)
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or one_line(error)
            raise UsageError(
                f"--port {port} cannot be had ({why}); name another, or leave --port out for one that is free"
            ) from error

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Where a browser opens it, with the token."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle of an answer is nothing to tell of."""


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, in a thread that ends with it."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def __getattr__(self, name: str) -> Any:
        """Every method has the same door."""
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def version_string(self) -> str:
        """The header ``Server``."""
        return f"flatlens/{__version__}"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: an address may hold the token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no HTTP is answered like all else that is refused."""
        self.close_connection = True
        self.requestline, self.request_version = "", "HTTP/1.1"
        self.command = "GET"
        self._send(_refusal(HTTPStatus(code), message or HTTPStatus(code).phrase))

    def _answer(self) -> None:
        # What a request brings with it is not read; it must not be taken for the next one.
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        try:
            answer = self._found()
        except FlatlensError as error:
            answer = _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, one_line(error))
        except Exception as error:  # whatever a damaged folder provokes is one line
            answer = _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, f"This cannot be shown: {one_line(error, kind=True)}")
        self._send(answer)

    def _found(self) -> Answer:
        server = self.server
        refused = guard.refused(self.headers.get_all("Host", []), self.command, server.port)
        if refused is not None:
            return _refusal(*refused)
        path, _, query = self.path.partition("?")
        asked = _asked(query)
        if path == "/" and guard.is_token(asked.get("token", ""), server.token):
            cookie = guard.set_cookie(server.port, server.token)
            return Answer(HTTPStatus.SEE_OTHER, b"", more=(("Location", "/"), ("Set-Cookie", cookie)))
        if not guard.bears_token(self.headers.get_all("Cookie", []), server.port, server.token):
            return _refusal(*guard.NO_TOKEN)
        return self._page(path, asked) or _refusal(HTTPStatus.NOT_FOUND, "There is no such run or page here.")

    def _page(self, path: str, asked: dict[str, str]) -> Answer | None:
        server = self.server
        if _PLOTLY.fullmatch(path):
            return Answer(HTTPStatus.OK, drawn.plotly(), SCRIPT)
        there = server.folder.look()
        if path == "/":
            rows = [one.row for one in there.values()]
            text, policy = shell.listing(server.name, rows, server.folder.left_out)
            return _html(text, policy)
        if path == "/api/list":
            rows = [one.row for one in there.values()]
            return self._json({"root": server.name, "rows": rows, "left_out": server.folder.left_out})
        if path == "/compare":
            return self._compared(there, asked.get("runs", ""))
        if match := _API.fullmatch(path):
            return None if (found := there.get(match[1])) is None else self._json(found.row)
        if match := _SWEEP.fullmatch(path):
            found = there.get(match[1])
            return None if found is None or found.kind != SWEEP else self._own(server.pages.sweep(found))
        if match := _CELL.fullmatch(path):
            known = (one for one in there.values() if one.kind == CELL and one.row["sweep"] == match[1])
            return self._run(next((one for one in known if one.row["cell"] == match[2]), None))
        if match := _RUN.fullmatch(path):
            return self._run(there.get(match[1]))
        if (match := _IMMUNITY.fullmatch(path)) and (found := there.get(match[1])) and found.kind == IMMUNITY:
            return self._own(server.pages.immunity(found))
        if (match := _PICTURE.fullmatch(path)) and (found := there.get(match[1])) and found.kind in (RUN, CELL):
            return self._own(server.pages.picture(found), home=False)  # the page around it has the link
        return None

    def _run(self, found: Found | None) -> Answer | None:
        if found is None or found.kind not in (RUN, CELL):
            return None
        if found.row["state"] in (FINISHED, DAMAGED):  # what is damaged says by itself what is wrong
            return self._own(self.server.pages.run(found))
        self.server.folder.where(found)
        return _html(*shell.live(self.server.name, found.row))

    def _compared(self, there: dict[str, Found], text: str) -> Answer | None:
        keys = list(dict.fromkeys(text.split(".")))
        chosen = [one for key in keys if (one := there.get(key)) and one.kind in (RUN, CELL)]
        if len(chosen) != len(keys):
            return None
        if not 2 <= len(chosen) <= MOST_COMPARED:
            raise UsageError(f"a comparison is of 2 to {MOST_COMPARED} runs, and these are {len(chosen)}")
        return self._own(self.server.pages.comparison(chosen))

    def _own(self, page: bytes, *, home: bool = True) -> Answer:
        """A page that may lie in a folder as a file, too: the link to the list is on it only here."""
        content = html_file.with_home(page, self.server.name) if home else page
        return Answer(HTTPStatus.OK, content, HTML, drawn.policy())

    def _json(self, value: Any) -> Answer:
        content = json.dumps(value, allow_nan=False).encode()
        mark = f'"{sha256(content).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == mark:
            return Answer(HTTPStatus.NOT_MODIFIED, b"", more=(("ETag", mark),))
        return Answer(HTTPStatus.OK, content, JSON, more=(("ETag", mark),))

    def _send(self, answer: Answer) -> None:
        try:
            self.send_response(answer.status)
            headers = {
                "Content-Type": answer.kind,
                "Content-Length": str(len(answer.content)),
                "Content-Security-Policy": answer.policy,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-store" if answer.kind != JSON else "no-cache, private",
                "Cross-Origin-Opener-Policy": "same-origin",
                "Cross-Origin-Resource-Policy": "same-origin",
            }
            if answer.status >= HTTPStatus.BAD_REQUEST:
                self.close_connection = True
                headers["Connection"] = "close"
            for name, value in (*headers.items(), *answer.more):
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD" and answer.status != HTTPStatus.NOT_MODIFIED:
                self.wfile.write(answer.content)
        except (TimeoutError, OSError):
            self.close_connection = True  # nobody reads it any more


def serve(root: Path, port: int = 0) -> Server:
    """A server over a results folder, which listens; its ``serve_forever`` answers.

    Raises:
        RunError: it is no results folder.
        UsageError: the port cannot be had.
    """
    from flatlens.viewer.found import demand

    return Server(demand(root), port)


def _asked(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, max_num_fields=8))
    except ValueError:  # too many to be one of ours
        return {}


def _html(text: str, policy: str) -> Answer:
    return Answer(HTTPStatus.OK, text.encode("utf-8", "backslashreplace"), HTML, policy)


def _refusal(status: HTTPStatus, said: str) -> Answer:
    text, policy = shell.notice(said)
    allow = (("Allow", ", ".join(guard.METHODS)),) if status == HTTPStatus.METHOD_NOT_ALLOWED else ()
    return Answer(status, text.encode("utf-8", "backslashreplace"), HTML, policy, allow)
