"""Runs on remote clusters as Ray jobs: submit, follow, find, stop.

The run folder is the state of a run, and a job is one attempt at it. This package, jobs/ and the
recipe's small local files travel to the cluster. Everybody who sees the job sees them and its
command, so a submission with a credential is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import platform
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from humpback_ray import storage
from humpback_ray.cluster.submission import (
    RUN,
    SETTINGS,
    Submission,
    prepare,
    refuse_credentials,
)
from humpback_ray.config.recipe import Recipe
from humpback_ray.errors import UserError

ANSWER_SECONDS = 10.0  # a living dashboard answers in this time
RECONNECT_SECONDS = 60.0  # of attempts to restore a lost connection
STOP_SECONDS = 90.0  # a training saves a checkpoint first (RAY_JOB_STOP_WAIT_TIME_S in jobs/)


# --- the cluster --------------------------------------------------------------------------------


def address_of(given: str | None) -> str:
    """The dashboard's address: the given one, or that of the variables that Ray's job client reads.

    Raises:
        UserError: there is none, or it is not the http(s) address of a dashboard.
    """
    address = given or address_in_environment()
    if address is None:
        raise UserError(
            "no cluster is named: give --address http://HEAD:8265, the address of its dashboard, "
            "or export RAY_API_SERVER_ADDRESS"
        )
    if not re.match(r"https?://[^/]+", address):
        raise UserError(
            f"--address {address} is not the address of a dashboard: give http://HEAD:8265"
        )
    refuse_credentials({"--address": address})
    return address.rstrip("/")


def address_in_environment() -> str | None:
    """A dashboard's address in RAY_API_SERVER_ADDRESS, else in RAY_ADDRESS if it is one."""
    address = os.environ.get("RAY_ADDRESS", "")
    default = address if address.startswith(("http://", "https://")) else None
    return os.environ.get("RAY_API_SERVER_ADDRESS") or default


class JobServer(JobSubmissionClient):
    """The job server of a cluster with this machine's versions of Ray and Python."""

    def data(self, path: str) -> dict[str, Any]:
        """The dashboard's answer at one of its paths."""
        return self._do_request("GET", path).json()["data"]

    def is_here(self) -> bool:
        """True if this machine is a node of the cluster, so that both share its folders."""
        return socket.gethostname() in self.data("/nodes?view=hostNameList")["hostNameList"]


def connect(given: str | None) -> JobServer:
    """Reach a cluster's job server.

    Raises:
        UserError: nothing answers, or not a Ray dashboard; a token is missing or wrong; the
            cluster has another version of Ray or Python.
    """
    address = address_of(given)
    _check_dashboard(address)
    # Ray takes this variable before the address that it is given.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        cluster = JobServer(address)
        _check_versions(address, cluster.data("/api/v0/cluster_metadata"))
    except AuthenticationError as error:
        is_missing = "Authentication failed" not in str(error)
        raise UserError(
            f"{address} {'asks for a token' if is_missing else 'refuses this token'}: export "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN with the cluster's token (or "
            "RAY_AUTH_TOKEN_PATH with a file of it; ~/.ray/auth_token is read without)"
        ) from error
    return cluster


def _check_dashboard(address: str) -> None:
    """Refuse an address without a Ray dashboard; Ray's client would wait forever."""
    try:
        found = requests.get(f"{address}/api/version", timeout=ANSWER_SECONDS)
        if found.status_code in (401, 403):  # this page needs no token
            found = requests.get(f"{address}/api/authentication_mode", timeout=ANSWER_SECONDS)
        content = found.json()
    except requests.exceptions.JSONDecodeError:
        content = None
    except requests.exceptions.RequestException as error:
        raise UserError(
            f"nothing answers at {address} ({type(error).__name__}): is the cluster up, and the "
            "tunnel to its dashboard?"
        ) from error
    if not isinstance(content, dict) or not content.keys() & {"ray_version", "authentication_mode"}:
        raise UserError(
            f"what answers at {address} is not a Ray dashboard: give the address that `ray start` "
            "or `ray dashboard` has printed, with port 8265 by default"
        )


def _check_versions(address: str, cluster: dict[str, Any]) -> None:
    here = {"Ray": metadata.version("ray"), "Python": platform.python_version()}
    there = {"Ray": cluster["rayVersion"], "Python": cluster["pythonVersion"]}
    if there["Ray"] != here["Ray"]:
        wrong = "Ray"
    elif there["Python"].split(".")[:2] != here["Python"].split(".")[:2]:
        wrong = "Python"
    else:
        return
    raise UserError(
        f"{address} runs {wrong} {there[wrong]} and this machine {here[wrong]}: use the same on "
        "both (requirements/ pins what the nodes need)"
    )


def run_on(cluster: JobServer, run: str) -> str:
    """The run's folder as the cluster's nodes name it, without a slash at its end.

    Raises:
        UserError: a relative path, and the cluster is on other machines; or a path that a library
            would misread.
    """
    if not os.path.isabs(run) and "://" not in run and not cluster.is_here():
        raise UserError(
            f"the run folder {run} is relative to this machine, and the cluster is elsewhere: give "
            "--run a URL (s3://bucket/runs/7b) or an absolute path that every node sees"
        )
    folder = storage.absolute(run).rstrip("/")
    storage.refuse_misread(folder, "run folder", "--run")
    return folder


# --- the jobs of a run --------------------------------------------------------------------------


def submit(cluster: JobServer, submission: Submission) -> tuple[JobDetails, bool]:
    """Start the job, unless the run is running; returns the job, and whether it was started now.

    Raises:
        UserError: it is running with other settings, or under a driver that is no job; or the
            cluster takes no job.
    """
    while True:
        jobs = jobs_of(cluster, submission.run)
        if running := [job for job in jobs if not job.status.is_terminal()]:
            _check_joinable(running[-1], submission)
            return running[-1], False
        name = submission_id(submission.run, jobs)
        # Ray leaves out folders of some names, and a corpus may have them.
        os.environ["RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"] = ""
        try:
            cluster.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=name,
                runtime_env=submission.runtime_env,
                metadata=submission.metadata,
            )
        except RuntimeError as error:
            # The cluster takes each id once: somebody else has submitted this run meanwhile.
            if f"{name} already exists" in str(error):
                continue
            line = [line for line in str(error).splitlines() if line.strip()][-1]
            raise UserError(f"the cluster did not take the job: {line.strip()}") from error
        return cluster.get_job_info(name), True


def submit_run(
    cluster: JobServer,
    recipe: str,
    loaded: Recipe,
    run: str,
    say: Callable[[str], None],
    *,
    until: str | None = None,
    overrides: list[str] | None = None,
) -> tuple[JobDetails, bool]:
    """Pack a run with `prepare` and submit it with `submit`; `say` gets the notes for a person.

    Raises:
        UserError: of either.
    """
    with tempfile.TemporaryDirectory(prefix="humpback-submit-") as packed:
        submission = prepare(recipe, loaded, run, packed, until=until, overrides=overrides)
        for note in submission.notes:
            say(note)
        return submit(cluster, submission)


def submission_id(run: str, jobs: list[JobDetails]) -> str:
    """The next job's id: the run's name, a hash of its folder, and a number that counts jobs."""
    plain = re.sub(r"[^a-z0-9]+", "-", run.rpartition("/")[2].lower()).strip("-")
    prefix = f"humpback-{plain or 'run'}-{hashlib.sha256(run.encode()).hexdigest()[:8]}-"
    found = [str(job.submission_id).removeprefix(prefix) for job in jobs]
    return f"{prefix}{1 + max((int(n) for n in found if n.isdigit()), default=0)}"


def _check_joinable(job: JobDetails, submission: Submission) -> None:
    if job.submission_id is None:
        driver = job.driver_info
        where = f"process {driver.pid} on {driver.node_ip_address}" if driver else job.job_id
        raise UserError(
            f"{submission.run} is running under a driver that was not submitted ({where}): a "
            "run folder has one driver at a time, so stop that process first"
        )
    if (job.metadata or {}).get(SETTINGS) != submission.settings:
        raise UserError(
            f"{submission.run} is running as {job.submission_id} with other settings "
            f"({job.entrypoint}): see it with `humpback logs`, or `humpback stop` it first"
        )


def jobs_of(cluster: JobServer, run: str) -> list[JobDetails]:
    """Jobs and drivers of a run on the cluster, in the order in which they began.

    Args:
        cluster: where to look.
        run: the run's folder or URL, or the id of one job.
    """
    names = {run.rstrip("/"), storage.absolute(run).rstrip("/")}
    found = [job for job in cluster.list_jobs() if names & {run_of(job), job.submission_id}]
    return sorted(found, key=lambda job: job.start_time or 0)


def run_of(job: JobDetails) -> str | None:
    """The run's folder of a job: of its metadata, or of its command where others submitted it."""
    if run := (job.metadata or {}).get(RUN):
        return run
    command = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    command.add_argument("--run")
    try:
        words = shlex.split(job.entrypoint)
        run = command.parse_known_args(words)[0].run
    except (ValueError, argparse.ArgumentError):
        return None
    is_ours = any("humpback" in word or word.startswith("jobs/") for word in words)
    return run.rstrip("/") if run and is_ours else None


def job_of(cluster: JobServer, run: str) -> JobDetails:
    """The last job of a run.

    Raises:
        UserError: there is none; the runs that there are, are named.
    """
    jobs = [job for job in jobs_of(cluster, run) if job.submission_id is not None]
    if jobs:
        return jobs[-1]
    others = sorted({other for job in cluster.list_jobs() if (other := run_of(job))})
    known = f"it knows {', '.join(others)}" if others else "it knows no run at all"
    raise UserError(f"no run {run} was submitted to {cluster.get_address()}: {known}")


def follow(cluster: JobServer, name: str, write: Callable[[str], None]) -> JobDetails:
    """Write a job's log from its beginning, live, until the job ends.

    After a lost connection it reconnects and continues at the same character.

    Raises:
        UserError: the cluster has not answered for a minute.
    """
    log = _Log(cluster, name, write)
    last_heard = time.monotonic()
    while True:
        try:
            asyncio.run(log.tail())
            job = cluster.get_job_info(name)
            last_heard = time.monotonic()
            if job.status.is_terminal():
                return job
        # RuntimeError is what Ray's client raises for a connection that was cut.
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            if time.monotonic() - max(last_heard, log.last_heard) > RECONNECT_SECONDS:
                raise UserError(
                    f"{cluster.get_address()} has not answered for {RECONNECT_SECONDS:.0f} s "
                    f"({type(error).__name__}): if the cluster is gone, submit the run again to a "
                    "new one and it goes on; else `humpback logs` rejoins it"
                ) from error
        time.sleep(1)


class _Log:
    """A job's log, and the number of its characters that `write` has received."""

    def __init__(self, cluster: JobServer, name: str, write: Callable[[str], None]) -> None:
        self._cluster, self._name, self._write = cluster, name, write
        self._num_written = 0  # characters
        self.last_heard = 0.0

    async def tail(self) -> None:
        """Read the log from its beginning and write the new text, until it ends."""
        num_read = 0
        async for text in self._cluster.tail_job_logs(self._name):
            self.last_heard = time.monotonic()
            before, num_read = num_read, num_read + len(text)
            if new := text[max(self._num_written - before, 0) :]:
                self._write(new)
                self._num_written = num_read


def stop(cluster: JobServer, name: str) -> JobDetails:
    """Stop a job and wait until it ends; a training saves a checkpoint first.

    Raises:
        UserError: it keeps running.
    """
    cluster.stop_job(name)
    give_up = time.monotonic() + STOP_SECONDS
    while not (job := cluster.get_job_info(name)).status.is_terminal():
        if time.monotonic() > give_up:
            raise UserError(
                f"{name} has not ended {STOP_SECONDS:.0f} s after it was told to: see "
                "`humpback logs`, and stop it again"
            )
        time.sleep(0.5)
    return job


def exit_code(job: JobDetails) -> int:
    """Exit code of an ended job: the pipeline's, 130 for a stopped job, 1 for a lost one."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return 130
    return job.driver_exit_code if job.driver_exit_code in (1, 2, 130) else 1


def view(cluster: JobServer, job: JobDetails, num_lines: int = 10) -> dict[str, Any]:
    """The job server's facts about a job; times in seconds since 1970."""
    lines = cluster.get_job_logs(job.submission_id).splitlines()
    message = (job.message or "").strip().splitlines()
    return {
        "id": job.submission_id,
        "status": job.status.value,
        "entrypoint": job.entrypoint,
        "message": message[0] if message else "",
        "exit_code": job.driver_exit_code,
        "started_at": (job.start_time or 0) / 1000,
        "ended_at": job.end_time / 1000 if job.end_time else None,
        "last_lines": lines[-num_lines:],
    }
