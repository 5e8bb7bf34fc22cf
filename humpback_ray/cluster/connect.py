"""Joining a Ray cluster, or starting one in this process."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from humpback_ray.config.recipe import Recipe
from humpback_ray.config.urls import ray_address
from humpback_ray.errors import UserError

CONNECT_SECONDS = 10.0  # a living head accepts a connection in this time
# Linux allows a socket's path 107 bytes, and Ray appends up to 68 to its temporary folder:
# /ray/session_YYYY-MM-DD_hh-mm-ss_uuuuuu_PID/sockets/plasma_store, with a PID of seven digits.
MAX_TEMPORARY_FOLDER = 107 - 68


def cluster_address(recipe: Recipe) -> str | None:
    """The address that the recipe or `RAY_ADDRESS` names; None for a cluster in this process."""
    return recipe.placement.cluster.address or os.environ.get("RAY_ADDRESS")


def join_cluster(recipe: Recipe) -> None:
    """Join the cluster that the recipe or `RAY_ADDRESS` names, or start one in this process.

    Raises:
        UserError: nothing answers at the address, no cluster runs here for `auto`, another Ray or
            Python runs there, the token is missing, or Ray's temporary folder has too long a path
            or cannot be written.
    """
    import ray
    from ray.exceptions import AuthenticationError

    if ray.is_initialized():
        _quieten()
        return
    cluster, address = recipe.placement.cluster, cluster_address(recipe)
    if address:
        _check_answers(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (RuntimeError, ConnectionError, AuthenticationError) as error:
            raise UserError(f"the cluster at {address} cannot be joined: {error}") from error
    else:
        _check_temporary_folder()
        _move_caches()
        # A cluster for this process alone needs no token and must not use one that it finds.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # Ray's C++ parts write to the terminal; their logs are for debugging Ray itself.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with native_lines_held_back():
            ray.init(
                address="local",
                num_cpus=cluster.local_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    _quieten()


def _check_temporary_folder() -> None:
    """Refuse a temporary folder in which Ray could not make its sockets."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):  # in Ray's order; it does not ask `tempfile`
        if folder := os.environ.get(variable):
            break
    else:
        return
    way_out = "set RAY_TMPDIR to a folder on a local disk with a short path, such as /tmp"
    if len(os.fsencode(folder)) > MAX_TEMPORARY_FOLDER:
        raise UserError(
            f"{variable} is {folder}, and the sockets that Ray makes there would have too long "
            f"paths: at most {MAX_TEMPORARY_FOLDER} bytes fit; {way_out}"
        )
    with suppress(OSError):
        os.makedirs(folder, exist_ok=True)  # as Ray does
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{variable} is {folder}, where Ray cannot write: {way_out}")


# Variables of the folders into which vLLM, Triton, DeepSpeed and transformers write what they
# compile or generate. Downloaded models (HF_HOME) stay in place, because they may only be read.
CACHES = (
    "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR",
    "HF_MODULES_CACHE",
)  # fmt: skip


def _move_caches() -> None:
    """Move the libraries' caches to the temporary folder where the home folder is read-only.

    The workers of a cluster that starts here inherit the variables. Those that are set stay.
    """
    if os.access(os.path.expanduser("~"), os.W_OK | os.X_OK):
        return
    folder = os.path.join(tempfile.gettempdir(), f"humpback-{os.getuid()}", "caches")
    for variable in CACHES:
        os.environ.setdefault(variable, os.path.join(folder, variable.lower()))


@contextmanager
def native_lines_held_back() -> Iterator[None]:
    """Hold back what C++ writes to stderr in the block; it appears if the block fails.

    Ray writes there that it has read RAY_BACKEND_LOG_LEVEL, before it obeys it.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


def _check_answers(address: str) -> None:
    """Refuse a wrong or dead address at once; Ray itself would try for more than a minute."""
    try:
        ray_address(address)
    except ValueError as error:
        raise UserError(f"RAY_ADDRESS: {error}") from error
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"nothing answers at {address} ({error}): is the cluster up, and RAY_ADDRESS or "
            "placement.cluster.address that of its head, with the port of `ray start` (6379)?"
        ) from error


def _quieten() -> None:
    """Keep libraries' log lines off the terminal; Ray's log files still have them."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    # Deprecation warnings are for whoever upgrades Ray, not for users.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    # Set the handlers too, because Ray resets its level whenever a library calls `ray.init`.
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)
    # The driver raises a task's error anyway, in one line or with its traceback.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
