"""A run on a cluster elsewhere: submitted as a Ray job, watched, left, rejoined, stopped.

The run's folder is its state; a job is one attempt at it. What travels to the cluster is this
package, the scripts of jobs/, and what the recipe names on this machine, as long as it is small.
All of it, and the job's command, is seen by everybody who sees the job: credentials are refused.
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
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from humpback_ray import storage
from humpback_ray.cluster.submission import RUN, SETTINGS, Submission, refuse_credentials
from humpback_ray.errors import UserError

ANSWER_SECONDS = 10.0  # in which a dashboard that is there answers
RECONNECT_SECONDS = 60.0  # so long is a connection that was lost looked for
STOP_SECONDS = 90.0  # a training saves a checkpoint first (RAY_JOB_STOP_WAIT_TIME_S in jobs/)


# --- the cluster --------------------------------------------------------------------------------


def address_of(given: str | None) -> str:
    """The dashboard's address: as given, or from the variables that Ray's own job client reads.

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
        """What the dashboard says at a path of its own."""
        return self._do_request("GET", path).json()["data"]

    def is_here(self) -> bool:
        """Whether a node of the cluster is this machine, so that its folders are the cluster's."""
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
    """That a Ray dashboard answers; Ray's own client would wait without end."""
    try:
        found = requests.get(f"{address}/api/version", timeout=ANSWER_SECONDS)
        if found.status_code in (401, 403):  # with a token or not, this says who is there
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
        UserError: a relative path, and the cluster is on other machines.
    """
    if not os.path.isabs(run) and "://" not in run and not cluster.is_here():
        raise UserError(
            f"the run folder {run} is relative to this machine, and the cluster is elsewhere: give "
            "--run a URL (s3://bucket/runs/7b) or an absolute path that every node sees"
        )
    return storage.absolute(run).rstrip("/")


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
            f"{submission.run} is running under a driver that was not submitted ({where}): two on "
            "one folder must not be; end it first"
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
    """Hand over a job's log as it comes, from its beginning, until the job has ended.

    A connection that is lost is made again, and goes on where it was.

    Raises:
        ConnectionError: the cluster has not answered for a minute.
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
                raise ConnectionError(
                    f"{cluster.get_address()} has not answered for {RECONNECT_SECONDS:.0f} s "
                    f"({type(error).__name__}): if the cluster is gone, submit the run again to a "
                    "new one and it goes on; else `humpback logs` rejoins it"
                ) from error
        time.sleep(1)


class _Log:
    """What of a job's log has been handed over."""

    def __init__(self, cluster: JobServer, name: str, write: Callable[[str], None]) -> None:
        self._cluster, self._name, self._write = cluster, name, write
        self._num_written = 0  # characters
        self.last_heard = 0.0

    async def tail(self) -> None:
        """Read the log from its beginning and hand over what is new, until it ends."""
        num_read = 0
        async for text in self._cluster.tail_job_logs(self._name):
            self.last_heard = time.monotonic()
            before, num_read = num_read, num_read + len(text)
            if new := text[max(self._num_written - before, 0) :]:
                self._write(new)
                self._num_written = num_read


def stop(cluster: JobServer, name: str) -> JobDetails:
    """Stop a job and wait until it has ended; a training saves a checkpoint first.

    Raises:
        TimeoutError: it goes on.
    """
    cluster.stop_job(name)
    give_up = time.monotonic() + STOP_SECONDS
    while not (job := cluster.get_job_info(name)).status.is_terminal():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{name} has not ended {STOP_SECONDS:.0f} s after it was told to")
        time.sleep(0.5)
    return job


def exit_code(job: JobDetails) -> int:
    """Of a job that has ended: the pipeline's own, 130 where it was stopped, 1 where it is lost."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return 130
    return job.driver_exit_code if job.driver_exit_code in (1, 2, 130) else 1


def view(cluster: JobServer, job: JobDetails, num_lines: int = 10) -> dict[str, Any]:
    """What the job server knows of a job, for people and programs; times in seconds since 1970."""
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
