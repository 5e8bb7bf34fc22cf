"""The server of the raters' page.

On the loopback address a rater's name opens the page. Elsewhere each rater has a token, which
stands in the link's fragment, so browsers send it to no log and no other site.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from humpback_ray.errors import UserError
from humpback_ray.evaluation.people import page
from humpback_ray.evaluation.people.study import Study
from humpback_ray.evaluation.people.votes import CastVote, VoteLog, join, public

TOKENS = "tokens.json"
MAX_BODY = 1 << 16  # bytes of one vote, its note included
HEADERS = {
    "Content-Security-Policy": page.server_policy(),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FILES = {"page.css": "text/css", "page.js": "text/javascript"}


# --- who may vote ---------------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a server at this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tokens_of(folder: str, study: Study) -> dict[str, str]:
    """The token of each rater; links stay valid when the server starts again."""
    file = Path(folder) / study.study_id / TOKENS
    if not file.exists():
        tokens = {rater: secrets.token_urlsafe(24) for rater in study.sheets}
        partial = file.with_name(f".{TOKENS}.partial")
        partial.unlink(missing_ok=True)
        with open(partial, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as opened:
            json.dump(tokens, opened)
        partial.replace(file)
    return json.loads(file.read_text())


@dataclass(frozen=True)
class Access:
    """The raters of a study, and their tokens where the page asks for one."""

    raters: frozenset[str]
    tokens: Mapping[str, str] | None

    def check(self, rater: str, request: Request) -> None:
        """Refuse an unknown rater and a wrong token alike, in a time that tells neither."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        wanted = b"" if self.tokens is None else self.tokens.get(rater, "?" * 32).encode()
        is_right = self.tokens is None or hmac.compare_digest(given, wanted)
        if not is_right or rater not in self.raters:
            raise HTTPException(403, "no such rater, or another token")


# --- the application ------------------------------------------------------------------------------


def make_app(study: Study, log: VoteLog, access: Access) -> FastAPI:
    """The application that shows a study's page and appends votes to a log."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def with_headers(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/")
    def links() -> Response:
        if access.tokens is not None:
            raise HTTPException(404, "open the link that you got")
        if len(study.sheets) == 1:
            return RedirectResponse(f"/r/{next(iter(study.sheets))}")
        return Response(_links(study), media_type="text/html")

    @app.get("/r/{rater}")
    def rater_page(rater: str) -> Response:
        return Response(page.content("page.html"), media_type="text/html")

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return Response(page.content(name), media_type=FILES[name])

    @app.get("/api/{rater}")
    def sheet(rater: str, request: Request) -> Response:
        access.check(rater, request)
        votes = [public(vote) for vote in log.of(study, rater)]
        # ASCII alone, because texts may hold lone surrogates, which UTF-8 has not.
        text = json.dumps(study.payload(rater) | {"votes": votes})
        return Response(text, media_type="application/json")

    @app.post("/api/{rater}/votes")
    async def vote(rater: str, request: Request) -> dict[str, bool]:
        access.check(rater, request)
        body = await _body(request)
        return {"is_new": await run_in_threadpool(_add, study, log, rater, body)}

    return app


def _links(study: Study) -> str:
    names = [escape(rater) for rater in study.sheets]
    links = "".join(f'<p><a href="/r/{name}">Rater {name}</a></p>' for name in names)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width"><title>Raters</title><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="/page.css"><h1>Who are you?</h1>{links}</html>'
    )


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise HTTPException(413, "a vote is shorter")
    return body


def _add(study: Study, log: VoteLog, rater: str, body: bytes) -> bool:
    """Store a vote; the answer leaves only once the disk has it."""
    try:
        return log.add(join(study, rater, CastVote.model_validate_json(body)))
    except ValidationError:
        raise HTTPException(422, "not a vote") from None
    except UserError as error:
        raise HTTPException(404, str(error)) from None
    except OSError as error:
        raise HTTPException(507, f"the disk refuses the vote: {error.strerror}") from None


# --- the process ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """A study at an address of this machine, not yet answering."""

    app: FastAPI
    socket: socket.socket
    links: Mapping[str, str]  # by rater
    is_open: bool  # other machines reach it

    def run(self) -> None:
        """Answer until the process is interrupted."""
        config = uvicorn.Config(
            self.app, log_level="warning", access_log=False, server_header=False, lifespan="off",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[self.socket])


def serve(folder: str, study: Study, log: VoteLog, host: str, port: int) -> Served:
    """Take the address and make the application; `run` of the result answers.

    Raises:
        UserError: the address cannot be taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen at {host}, port {port} ({error}): give an address of this machine as "
            "--host and a free port as --port (0 takes any)"
        ) from error
    is_open = not is_loopback(host)
    tokens = tokens_of(folder, study) if is_open else None
    app = make_app(study, log, Access(frozenset(study.sheets), tokens))
    if not is_open:
        # Otherwise a site whose name is turned to this address could read and vote.
        app.add_middleware(
            TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", _public_name(host)]
        )
    start = f"http://{_public_name(host)}:{listening.getsockname()[1]}/r/"
    links = {r: f"{start}{r}" + (f"#{tokens[r]}" if tokens else "") for r in study.sheets}
    return Served(app, listening, links, is_open)


def _public_name(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
