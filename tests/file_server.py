"""A publisher's server on this machine, which can do all that servers do to a download."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file, and what happens to those who ask for it.

    ``answers`` (status, headers, body) are given first, one a request; ``cuts`` are bytes after which the next
    connections end; at ``hang`` bytes the server goes silent until the event is set.
    """

    content: bytes = b""
    etag: str | None = '"first"'
    modified: str | None = None
    ranges: bool = True
    heeds_if_range: bool = True
    kind: str = "application/octet-stream"
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    hang: tuple[int, threading.Event] | None = None


@dataclass
class Site:
    """Files by their path, and the requests that came: (path, ``Range``, ``If-Range``)."""

    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked, _ in self.requests]


@contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked, condition = self.headers["Range"], self.headers["If-Range"]
            site.requests.append((self.path, asked, condition))
            served = site.files.get(self.path)
            if served is None:
                self.send_error(404)
            elif served.answers:
                self._answer(*served.answers.pop(0))
            else:
                self._give(served, asked, condition)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _give(self, served: Served, asked: str | None, condition: str | None) -> None:
            whole = len(served.content)
            headers = {"Content-Type": served.kind}
            headers |= {"ETag": served.etag} if served.etag else {}
            headers |= {"Last-Modified": served.modified} if served.modified else {}
            same = condition in (None, served.etag, served.modified) or not served.heeds_if_range
            begin = 0
            if asked and served.ranges and same:
                begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                if begin >= whole:
                    return self._answer(416, {"Content-Range": f"bytes */{whole}"}, b"")
                headers["Content-Range"] = f"bytes {begin}-{whole - 1}/{whole}"
            self.send_response(206 if "Content-Range" in headers else 200)
            for name, value in (headers | {"Content-Length": str(whole - begin)}).items():
                self.send_header(name, value)
            self.end_headers()
            body = served.content[begin:]
            if served.cuts:
                body = body[: served.cuts.pop(0)]
            if served.hang:
                self.wfile.write(body[: served.hang[0]])
                self.wfile.flush()
                served.hang[1].wait(60)
                return None
            self.wfile.write(body)
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        site.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield site
        server.shutdown()
