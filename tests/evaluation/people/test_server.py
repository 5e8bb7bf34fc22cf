"""The server's door: tokens, foreign hosts, refused votes, headers."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from typing import NamedTuple

import pytest

from humpback_ray.errors import UserError
from humpback_ray.evaluation.people import server as people_server_module
from humpback_ray.evaluation.people.server import is_loopback
from tests.support.people import make_run, people_server, stored_votes

PAIRS = ("--models", "M_2,M_1", "--raters", "ann,ben")


class Answer(NamedTuple):
    """The answer of a server."""

    status: int
    body: str
    headers: dict[str, str]


def ask(port: int, path: str, token: str = "", body: bytes | None = None, **headers) -> Answer:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body)
    for name, value in headers.items():
        request.add_header(name, value)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Answer(answer.status, answer.read().decode(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode(), dict(error.headers))


def cast(item: str, **changes) -> bytes:
    vote = {"vote_id": "a" * 32, "item": item, "choice": "left", "seconds": 4} | changes
    return json.dumps(vote).encode()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("server") / "run")


@pytest.fixture(scope="module")
def loopback(run):
    with people_server(run, *PAIRS) as server:
        yield server


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.1.2.3", False), ("host.example", False)],
)  # fmt: skip
def test_loopback_addresses_are_known(host, expected):
    assert is_loopback(host) is expected


def test_answers_carry_a_strict_policy(loopback):
    for path in ("/r/ann", "/page.js", "/api/ann", "/", "/none"):
        headers = ask(loopback.port, path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_loopback_lists_raters_and_serves_nothing_else(loopback):
    assert re.findall(r'href="(/r/\w+)"', ask(loopback.port, "/").body) == ["/r/ann", "/r/ben"]
    for path in ("/plan.json", "/docs", "/openapi.json", "/..%2fpeople.py", "/screening.json"):
        assert ask(loopback.port, path).status == 404
    assert ask(loopback.port, "/api/ghost").status == 403


def test_site_whose_name_leads_here_is_refused(loopback):
    assert ask(loopback.port, "/api/ann", Host="evil.example").status == 400
    assert ask(loopback.port, "/api/ann", Host=f"localhost:{loopback.port}").status == 200


def test_vote_is_stored_once_and_wrong_ones_are_refused(loopback, run):
    sheet = json.loads(ask(loopback.port, "/api/ann").body)
    item = sheet["items"][0]["id"]
    path = "/api/ann/votes"
    first = ask(loopback.port, path, body=cast(item))
    again = ask(loopback.port, path, body=cast(item))
    assert [json.loads(a.body) for a in (first, again)] == [{"is_new": True}, {"is_new": False}]
    wrong = [
        (b"", 422), (b"[]", 422), (cast(item, choice="both"), 422), (cast("f" * 16), 404),
        (cast(item, choice="good", vote_id="b" * 32), 404), (b"x" * 70_000, 413),
        (cast(item, note="x" * 5000), 422), (cast(item, left_model="M_2"), 422),
    ]  # fmt: skip
    assert [ask(loopback.port, path, body=body).status for body, _ in wrong] == [
        s for _, s in wrong
    ]
    assert ask(loopback.port, "/api/ben/votes", body=cast(item, vote_id="c" * 32)).status == 404
    assert len(stored_votes(run)) == 1
    (vote,) = json.loads(ask(loopback.port, "/api/ann").body)["votes"]
    assert vote == {"vote_id": "a" * 32, "item": item, "choice": "left", "reason": "", "note": ""}


def test_open_address_asks_each_rater_for_a_token_that_stays_the_same(run, tmp_path):
    options = (*PAIRS, "--host", "0.0.0.0", "--into", str(tmp_path / "people"))
    with people_server(run, *options) as server:
        tokens = {rater: link.partition("#")[2] for rater, link in server.links.items()}
        assert len(set(tokens.values())) == 2
        assert min(map(len, tokens.values())) >= 32
        assert ask(server.port, "/api/ann", tokens["ann"]).status == 200
        refused = [
            ("/api/ann", ""), ("/api/ann", tokens["ben"]), ("/api/ann", tokens["ann"][:-1]),
            ("/api/ghost", tokens["ann"]), ("/api/ghost", "?" * 32), ("/api/ann/votes", ""),
        ]  # fmt: skip
        for path, token in refused:
            body = cast("f" * 16) if path.endswith("votes") else None
            assert ask(server.port, path, token, body).status == 403, (path, token)
        assert ask(server.port, "/").status == 404
        assert tokens["ann"] not in ask(server.port, "/r/ann").body
    (file,) = (tmp_path / "people").glob("*/tokens.json")
    assert file.stat().st_mode & 0o077 == 0
    with people_server(run, *options) as server:
        assert {r: link.partition("#")[2] for r, link in server.links.items()} == tokens


def test_taken_port_is_a_user_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1, port {port}"):
            people_server_module.serve(str(tmp_path), None, None, "127.0.0.1", port)
