"""The status of a run: the facts in its folder, and its job on a cluster elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.figures.run_facts import RunFacts, status_of


@dataclass(frozen=True)
class RunStatus:
    """A run as `humpback status` shows it."""

    facts: RunFacts | None  # None: the folder shows no run here
    job: dict[str, Any] | None
    has_asked_cluster: bool

    def as_dict(self) -> dict[str, Any]:
        """The facts, and under `job` the answer of the cluster if it was asked."""
        facts = asdict(self.facts) if self.facts else {}
        return facts | ({"job": self.job} if self.has_asked_cluster else {})


def find_status(run: str, address: str | None) -> RunStatus:
    """Look a run up in its folder; with an address, or without such a folder, on a cluster too.

    Args:
        run: folder or URL of a run, or the id of its job.
        address: dashboard of a cluster.

    Raises:
        UserError: neither the folder nor a cluster shows the run.
    """
    try:
        facts = status_of(storage.absolute(run))
    except UserError as hidden:
        return RunStatus(None, _job_alone(run, address, hidden), True)
    if address is None:
        return RunStatus(facts, None, False)
    return RunStatus(facts, _job_beside(run, address), True)


def _job_alone(run: str, address: str | None, hidden: UserError) -> dict[str, Any]:
    """The job of a run whose folder shows nothing; raises `hidden` if no cluster is named."""
    from humpback_ray.cluster import jobs

    if not address and not jobs.address_in_environment():
        raise hidden
    server = jobs.connect(address)
    return jobs.view(server, jobs.job_of(server, run))


def _job_beside(run: str, address: str) -> dict[str, Any] | None:
    """The job of a run; None if the cluster knows no such job."""
    from humpback_ray.cluster import jobs

    server = jobs.connect(address)
    try:
        return jobs.view(server, jobs.job_of(server, run))
    except UserError:
        return None
