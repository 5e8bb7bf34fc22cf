"""A real S3 server on loopback that refuses requests, answers late, goes and comes back.

moto's server, whose buckets live in this process; https://docs.getmoto.org/en/latest/docs/server_mode.html.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import fsspec
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
BUCKET = "bucket"


class _Silent(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class ObjectStorage:
    """The server.

    Attributes:
        refused_share: of the requests, answered with 503 SlowDown.
        delayed_share: of the requests, answered `delay` seconds late.
        num_refused: requests so far.
    """

    def __init__(self) -> None:
        self.refused_share = self.delayed_share = self.delay = 0.0
        self.num_refused = 0
        self._dice = random.Random(0)
        self._backend = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.come()
        self.files.mkdir(BUCKET)

    def come(self) -> None:
        """Answer; with what was stored before, and at the same address."""
        self._server = make_server(
            "127.0.0.1", self._port, self._answer, threaded=True, request_handler=_Silent
        )
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def go(self) -> None:
        """Refuse every connection."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a process finds the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def files(self) -> fsspec.AbstractFileSystem:
        """The server's buckets, for the test itself."""
        variables = self.environment
        return fsspec.filesystem(
            "s3", endpoint_url=variables["AWS_ENDPOINT_URL"], key="test", secret="test"
        )

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if self._dice.random() < self.delayed_share:
            time.sleep(self.delay)
        if self._dice.random() < self.refused_share:
            self.num_refused += 1
            # A client that is still sending would see a broken connection instead.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        return self._backend(environ, start)
