"""A web server on this machine that behaves as badly as a test asks."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Files by path, and how the server treats the next requests.

    Attributes:
        files: Body by path, "/name".
        etag: Sent with every answer, or None.
        ranges: Whether parts can be asked for.
        tricks: What to do at the next requests, one after another, then none: a status, ("break", k) to hang up after k
            bytes of the body, ("pause", seconds) before the body, ("length", n) a false Content-Length,
            ("redirect", url), ("corrupt",) another byte in the middle, ("chunked",), ("chunked-break", k),
            ("shift", k) the bytes from k later on than asked for.
        requests: (path, Range or None, If-Range or None) of every request.
        sent: Bytes of body sent in all.
    """

    def __init__(self):
        self.files, self.etag, self.ranges, self.tricks = {}, '"one"', True, []
        self.requests, self.sent, self.url = [], 0, ""


@contextmanager
def serve():
    """Run a Site in a thread; `site.url` is where."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            site.requests.append((self.path, self.headers["Range"], self.headers["If-Range"]))
            trick = site.tricks.pop(0) if site.tricks else None
            trick = trick if isinstance(trick, tuple) or trick is None else ("status", trick)
            name, value = (*(trick or ("", None)), None)[:2]
            self.close_connection = True
            if name == "status" or self.path not in site.files:
                self.send_response(value or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if name == "redirect":
                self.send_response(302)
                self.send_header("Location", value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = site.files[self.path]
            if name == "corrupt":
                body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
            start = 0
            asked, condition = self.headers["Range"], self.headers["If-Range"]
            if asked and site.ranges and (condition is None or condition == site.etag):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start += value if name == "shift" else 0
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if site.etag:
                self.send_header("ETag", site.etag)
            body = body[start:]
            if name.startswith("chunked"):
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(value if name == "length" else len(body)))
            self.end_headers()
            if name == "pause":
                time.sleep(value)
            if name.endswith("break"):
                body = body[:value]
            if name.startswith("chunked"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
                self.wfile.write(b"0\r\n\r\n" if name == "chunked" else b"fff\r\n")
            else:
                try:
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    return
            site.sent += len(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
