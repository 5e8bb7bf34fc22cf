"""Rules for the URLs and addresses of a recipe, which say what to write in their place."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def http_url(url: str) -> str:
    """The URL of a server, unchanged.

    Raises:
        ValueError: it is not `http://` or `https://` with a host, or has a space or a wrong port.
    """
    scheme, _, rest = url.partition("://")
    problem = _problem_of_server(rest)
    if scheme.lower() not in ("http", "https"):
        problem = "it begins with neither http:// nor https://"
    if problem:
        raise ValueError(f"{problem}: write http://HOST:PORT/v1 or https://HOST/v1 (it is {url!r})")
    return url


def ray_address(address: str) -> str:
    """The address of a Ray cluster, unchanged.

    Raises:
        ValueError: it is none of `auto`, `local`, HOST:PORT and `ray://HOST:PORT`.
    """
    if address in ("auto", "local"):
        return address
    scheme, _, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        raise ValueError(
            f"{address} is a dashboard: `humpback submit --address {address}` starts a run there; "
            "to join the cluster from one of its machines give HEAD:6379 or auto"
        )
    problem = _problem_of_server(rest)
    if not problem and not scheme and not re.search(r":\d+$", rest):
        problem = "it has no port"
    if problem:
        raise ValueError(
            f"{problem}: write auto, HEAD:6379 or ray://HEAD:10001 (it is {address!r})"
        )
    return address


def location_problem(location: str) -> str:
    """The reason why a path or URL of a file can name nothing, with the way out; or empty."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return ""
    if not rest.strip("/ "):
        return f"nothing follows {scheme}://: write the whole URL of the file or folder"
    # A path on a server may have spaces.
    if scheme in ("http", "https") and (problem := _problem_of_server(rest.partition("/")[0])):
        return f"{problem}: write https://HOST/PATH"
    return ""


def blocked_entry(entry: str) -> str:
    """An entry of a block list, unchanged.

    Raises:
        ValueError: it has no host, or one with a character that no host has.
    """
    rest = entry.rpartition("://")[2]
    host = re.split("[/?#]", rest)[0]
    if not re.fullmatch(r"(?:\*\.)?[\w.@:\[\]-]+", host) or re.search(r"\s", entry):
        raise ValueError(
            "an entry of a block list is a host, such as example.com, or a host and a path, such "
            f"as example.com/forum (it is {entry!r})"
        )
    return entry


def _problem_of_server(rest: str) -> str:
    """The fault in HOST:PORT/PATH, or empty."""
    if re.search(r"\s", rest):
        return "it has a space in it"
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        return "its host is no IPv6 address in brackets"
    if not parts.hostname:
        return "it has no host"
    try:
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    return "" if is_port else "its port is no number from 1 to 65535"
