"""Who gets what from the server: each request has its status, and no answer tells what was not asked for rightly."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from flatlens.viewer import guard
from tests.served import Served, make, serving


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    outside = root.parent / "outside"
    shutil.copytree(root / "first", outside)
    (root / "linked").symlink_to(outside)
    with serving(root) as found:
        yield found


KEY = "0" * 16
STATUSES: dict[str, tuple[str, dict[str, str | None], int]] = {
    "the list": ("/", {}, 200),
    "its head": ("/", {"method": "HEAD"}, 200),
    "its rows": ("/api/list", {}, 200),
    "by its other name": ("/api/list", {"host": "localhost:PORT"}, 200),
    "in capitals": ("/api/list", {"host": "LOCALHOST:PORT"}, 200),
    "a foreign host": ("/", {"host": "evil.example"}, 421),
    "a foreign host with the port": ("/", {"host": "evil.example:PORT"}, 421),
    "a foreign host with the token": ("/?token=TOKEN", {"host": "evil.example"}, 421),
    "a name that begins alike": ("/", {"host": "127.0.0.1:PORT.evil.example"}, 421),
    "another port": ("/", {"host": "127.0.0.1:1"}, 421),
    "no port": ("/", {"host": "127.0.0.1"}, 421),
    "another address of this machine": ("/", {"host": "0.0.0.0:PORT"}, 421),
    "no host": ("/", {"host": None}, 421),
    "an empty host": ("/", {"host": " "}, 421),
    "no token": ("/", {"cookie": None}, 403),
    "no token for a run": (f"/run/{KEY}", {"cookie": None}, 403),
    "no token for plotly": ("/plotly.min.js", {"cookie": None}, 403),
    "a wrong token": ("/?token=" + "0" * 64, {"cookie": None}, 403),
    "an empty token": ("/?token=", {"cookie": None}, 403),
    "half of the token": ("/?token=HALF", {"cookie": None}, 403),
    "the token twice": ("/?token=TOKENTOKEN", {"cookie": None}, 403),
    "a token that is no ASCII": ("/?token=%C3%A4%FF", {"cookie": None}, 403),
    "the token elsewhere": ("/api/list?token=TOKEN", {"cookie": None}, 403),
    "a cookie of another name": ("/", {"cookie": "flatlens=TOKEN"}, 403),
    "a cookie with a wrong value": ("/", {"cookie": "flatlens-PORT=x"}, 403),
    "a cookie among others": ("/", {"cookie": "a=b; flatlens-PORT=TOKEN; c"}, 200),
    "odd cookies": ("/", {"cookie": ';;="; =;\xff'}, 403),
    "the token": ("/?token=TOKEN", {"cookie": None}, 303),
    "POST": ("/", {"method": "POST"}, 405),
    "POST without a token": ("/", {"method": "POST", "cookie": None}, 405),
    "PUT": ("/", {"method": "PUT"}, 405),
    "DELETE": ("/api/list", {"method": "DELETE"}, 405),
    "OPTIONS": ("/", {"method": "OPTIONS"}, 405),
    "TRACE": ("/", {"method": "TRACE"}, 405),
    "a method of nobody": ("/", {"method": "BREW"}, 405),
    "POST from elsewhere": ("/", {"method": "POST", "host": "evil.example"}, 421),
    "two dots": ("/../outside/report.html", {}, 404),
    "two dots behind a run": ("/run/FIRST/../../etc/passwd", {}, 404),
    "encoded dots": ("/%2e%2e/outside/report.html", {}, 404),
    "encoded dots and slash": ("/run/%2e%2e%2foutside", {}, 404),
    "dots encoded twice": ("/%252e%252e/outside", {}, 404),
    "backslashes": ("/..\\outside", {}, 404),
    "an absolute path": ("//etc/passwd", {}, 404),
    "a file's path": ("/notes/thesis.tex", {}, 404),
    "a run's own files": ("/first/manifest.json", {}, 404),
    "a file of a run": ("/run/FIRST/manifest.json", {}, 404),
    "another scheme": ("file:///etc/passwd", {}, 404),
    "another server": ("http://evil.example/", {}, 404),
    "a run": ("/run/FIRST", {}, 200),
    "a run with a slash": ("/run/FIRST/", {}, 404),
    "a run with a question": ("/run/FIRST?x=../y", {}, 200),
    "no run": (f"/run/{KEY}", {}, 404),
    "half of a key": ("/run/0000", {}, 404),
    "a key in capitals": ("/run/" + "A" * 16, {}, 404),
    "a run that is a sweep": ("/run/SWEEP", {}, 404),
    "a run's row": ("/api/run/FIRST", {}, 200),
    "no run's row": (f"/api/run/{KEY}", {}, 404),
    "a nested run": ("/run/SECOND", {}, 200),
    "a run behind a link": ("/run/LINKED", {}, 404),
    "a picture so far": ("/picture/HALFRUN", {}, 200),
    "a sweep": ("/sweep/SWEEP/report.html", {}, 200),
    "a sweep's folder": ("/sweep/SWEEP/", {}, 404),
    "a sweep that is a run": ("/sweep/FIRST/report.html", {}, 404),
    "a cell": ("/sweep/SWEEP/cells/CELL/report.html", {}, 200),
    "no cell": (f"/sweep/SWEEP/cells/{KEY}/report.html", {}, 404),
    "a cell of another sweep": ("/sweep/FIRST/cells/CELL/report.html", {}, 404),
    "two dots as a cell": ("/sweep/SWEEP/cells/../report.html", {}, 404),
    "plotly beside a sweep": ("/sweep/SWEEP/plotly.min.js", {}, 200),
    "plotly elsewhere": ("/x/plotly.min.js", {}, 404),
    "a comparison": ("/compare?runs=FIRST.SECOND", {}, 200),
    "a comparison of one": ("/compare?runs=FIRST", {}, 422),
    "a comparison of one, twice": ("/compare?runs=FIRST.FIRST", {}, 422),
    "a comparison with nothing": ("/compare", {}, 404),
    "a comparison with a path": ("/compare?runs=FIRST.%2e%2e", {}, 404),
    "a comparison with a sweep": ("/compare?runs=FIRST.SWEEP", {}, 404),
    "too many questions": ("/compare?" + "&".join(f"a{i}=1" for i in range(100)), {}, 404),
    "a long path": ("/" + "x" * 60_000, {}, 404),
    "a path too long": ("/" + "x" * 70_000, {}, 414),
}


@pytest.fixture(scope="module")
def words(served: Served) -> dict[str, str]:
    rows = served.rows()
    return {
        "TOKEN": served.token, "HALFRUN": rows["half"]["key"], "HALF": served.token[:32], "PORT": str(served.port),
        "FIRST": rows["first"]["key"], "SECOND": rows["deep/er/second"]["key"], "SWEEP": rows["sweep"]["key"],
        "CELL": next(row["cell"] for row in rows.values() if row["kind"] == "cell"),
        "LINKED": sha256(b"linked").hexdigest()[:16],
    }  # fmt: skip


@pytest.mark.parametrize("kind", STATUSES)
def test_each_request_has_its_status(kind: str, served: Served, words: dict[str, str]) -> None:
    path, how, status = STATUSES[kind]
    for name, value in words.items():
        path = path.replace(name, value)
        how = {key: text if text is None else text.replace(name, value) for key, text in how.items()}
    reply = served.ask(path, **how)  # type: ignore[arg-type]
    assert reply.status == status, reply.text[:2000]
    assert b"a secret of nobody" not in reply.body and b"root:x:" not in reply.body and b"internal:" not in reply.body
    for name, value in {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}.items():
        assert reply.headers[name] == value
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "script-src 'unsafe-inline'" not in reply.headers["Content-Security-Policy"]
    assert reply.headers["Cache-Control"] in ("no-store", "no-cache, private")
    assert status != 405 or reply.headers["Allow"] == "GET, HEAD"
    assert how.get("method") != "HEAD" or reply.body == b""
    if status >= 400:  # nothing of a request comes back in what is said of it
        assert served.token not in reply.text and "evil" not in reply.text


def test_the_token_becomes_a_cookie_and_leaves_the_address(served: Served) -> None:
    reply = served.ask(f"/?token={served.token}", cookie=None)
    assert (reply.status, reply.headers["Location"]) == (303, "/")
    cookie, *flags = reply.headers["Set-Cookie"].split("; ")
    assert cookie == f"flatlens-{served.port}={served.token}" and set(flags) == {
        "Path=/",
        "HttpOnly",
        "SameSite=Strict",
    }
    assert len(served.token) == 64 and int(served.token, 16) and served.token != guard.new_token()
    assert served.ask("/", cookie=cookie).status == 200
    assert "Set-Cookie" not in served.ask("/").headers


def test_the_list_names_runs_and_nothing_else(served: Served) -> None:
    rows = served.rows()
    assert {place: row["state"] for place, row in rows.items() if row["kind"] != "cell"} == {
        "first": "finished", "deep/er/second": "finished", "sweep": "finished", "half": "interrupted",
    }  # fmt: skip
    assert rows["half"]["done"] == 1 and rows["half"]["total"] == 2 and rows["sweep"]["done"] == 2
    first = rows["first"]
    assert first["name"] == "first" and first["model"] == "flatlens:digits-cnn" and first["eps"] == 0.3
    assert 0 < first["valley"][0] <= 1 and first["clean"][3] == 12
    assert not any("outside" in str(row) or "linked" in str(row) for row in rows.values())


def test_what_has_not_changed_is_not_sent_again(served: Served) -> None:
    first = served.ask("/api/list")
    again = served.ask("/api/list", If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("begin", ["POST / HTTP/1.1", "GET /api/list HTTP/1.1", "HEAD / HTTP/1.1"])
@pytest.mark.parametrize("body", ["Content-Length: {}", "Transfer-Encoding: chunked"])
def test_the_body_of_a_request_is_not_taken_for_the_next_one(begin: str, body: str, served: Served) -> None:
    inner = f"GET /api/list HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nCookie: {served.cookie}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        head = f"{begin}\r\nHost: 127.0.0.1:{served.port}\r\nCookie: {served.cookie}\r\n"
        line.sendall(f"{head}{body.format(len(inner))}\r\n\r\n{inner}".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 ") == 1


GARBAGE = {
    "nothing": b"", "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "half a line": b"GET / HT",
    "half of the headers": b"GET / HTTP/1.1\r\nHost: 127", "HTTP/0.9": b"GET /\r\n\r\n",
    "an odd version": b"GET / HTTP/9.9\r\n\r\n", "many headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "a control": b"GET /\x00 HTTP/1.1\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_no_request_gets_no_page(kind: str, served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        line.sendall(GARBAGE[kind])
        line.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert b"digits-cnn" not in answer and b" 200 " not in answer[:20]
    assert served.ask("/api/list").status == 200


def test_a_client_that_is_killed_leaves_no_thread(served: Served) -> None:
    served.ask("/api/list")
    time.sleep(0.3)
    before = threading.active_count()
    asking = f"GET /run/{served.rows()['first']['key']} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
    asking += f"Cookie: {served.cookie}\r\n\r\n"
    for sent in (b"", b"GET / HTT", asking.encode()[:60], asking.encode()):
        for _ in range(5):
            line = socket.create_connection(("127.0.0.1", served.port))
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing resets, as a kill does
            line.sendall(sent)
            line.close()
    until = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before
    assert served.ask("/api/list").status == 200


def test_a_client_that_says_nothing_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from flatlens.viewer import app

    assert 0 < app.Handler.timeout <= 60
    monkeypatch.setattr(app.Handler, "timeout", 0.3)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        line.sendall(b"GET / HTTP/1.1\r\n")
        assert line.recv(100) == b""


def test_a_link_put_in_the_way_later_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make(root)
    with serving(root) as served:
        key = served.rows()["first"]["key"]
        served.server.folder._when = time.monotonic() + 1000  # it is not looked at again
        (root / "first").rename(tmp_path / "moved")
        (root / "first").symlink_to(tmp_path / "moved")
        reply = served.ask(f"/run/{key}")
        assert reply.status == 422 and "is a link" in reply.text
        (root / "first").unlink()
        (tmp_path / "moved").rename(root / "first")
        shutil.copy(root / "first" / "report.html", tmp_path / "elsewhere.html")
        (root / "first" / "report.html").unlink()
        (root / "first" / "report.html").symlink_to(tmp_path / "elsewhere.html")
        assert served.ask(f"/run/{key}").status == 200  # drawn, and not read through the link
        assert any(key in str(known) for known in served.server.pages._kept)
