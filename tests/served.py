"""A results folder of every kind of thing, and a server over it: for tests of what a browser or a stranger asks it."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flatlens.viewer import app, guard
from tests.synthetic import make_trace

VERSION1 = Path(__file__).parent / "version1"


def make(root: Path) -> Path:
    """Two runs, one of them nested, a sweep of two cells, a run that was interrupted, and other files."""
    make_trace(12, 8, name="first").save(root / "first")
    make_trace(12, 8, seed=1).save(root / "deep" / "er" / "second")
    shutil.copytree(VERSION1 / "sweep", root / "sweep")
    shutil.copytree(VERSION1 / "unfinished", root / "half")
    (root / "notes").mkdir()
    (root / "notes" / "thesis.tex").write_text("a secret of nobody")
    return root


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Served:
    """A server that answers, and a client that may send whatever it likes."""

    def __init__(self, server: app.Server) -> None:
        self.server, self.port, self.token = server, server.port, server.token
        self.base = f"http://127.0.0.1:{self.port}"
        self.cookie = f"{guard.cookie_name(self.port)}={self.token}"

    def ask(
        self, path: str, *, method: str = "GET", host: str | None = "", cookie: str | None = "", **more: str
    ) -> Reply:
        """One request; by default with the right host and cookie. None leaves a header out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        headers = {
            "Host": f"127.0.0.1:{self.port}" if host == "" else host,
            "Cookie": self.cookie if cookie == "" else cookie,
        }
        for name, value in ({name.replace("_", "-"): value for name, value in more.items()} | headers).items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        reply = Reply(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return reply

    def rows(self) -> dict[str, dict[str, Any]]:
        """What the list says, by place."""
        self.server.folder._when = -10.0  # as if a second had passed
        return {row["place"]: row for row in self.ask("/api/list").json["rows"]}


@contextmanager
def serving(root: Path) -> Iterator[Served]:
    """A server over a folder, as long as it is needed."""
    with app.serve(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Served(server)
        finally:
            server.shutdown()
            thread.join()
