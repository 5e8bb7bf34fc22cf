"""A cluster of hosts that share nothing but a network and a disk: namespaces of this machine."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from benchmarks import raylets
from tests.support.killed_pass import Run, check_rows

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
GCS_PORT, DASHBOARD_PORT = 6379, 8265
JOIN = "import ray; ray.init({!r}, logging_level='ERROR'); print(len(ray.nodes()))"
NOTICED_SECONDS = 20  # after which a node that is cut off counts as lost, and more


class Host:
    """Processes with a network and process numbers of their own, as Ray knows a machine."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def boot(self) -> None:
        self._holder = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "unshare", "--pid", "--fork", "--mount-proc",
             "--kill-child", "sleep", "infinity"]
        )  # fmt: skip
        holder = psutil.Process(self._holder.pid)
        while not (found := [each for each in holder.children() if each.name() == "sleep"]):
            assert self._holder.poll() is None
            time.sleep(0.05)
        (self._first,) = found

    def crash(self) -> None:
        """Kill the host's first process, and with it all others."""
        if self._first.is_running():
            self._first.kill()
        self._holder.wait()

    @property
    def inside(self) -> list[str]:
        """The prefix of a command that runs on this host."""
        # Entering a mount namespace goes to its root, and the tests' modules lie here.
        here = f"--wd={Path(__file__).parents[2]}"
        return ["nsenter", f"--target={self._first.pid}", "--net", "--pid", "--mount", here]

    def python(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, sys.executable, "-c", code], env=os.environ | variables,
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip


class Network:
    """Hosts on a switch that nothing else is on. A context manager."""

    def __init__(self) -> None:
        self._name = f"hb{os.getpid()}"
        self._switch = f"{self._name}-switch"
        self._stack = ExitStack()
        self._num_hosts = 0

    def __enter__(self) -> Network:
        self._add_namespace(self._switch)
        self._ip(self._switch, "link", "add", "switch", "type", "bridge")
        self._ip(self._switch, "link", "set", "switch", "up")
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self) -> Host:
        self._num_hosts += 1
        host = Host(f"{self._name}-{self._num_hosts}", f"10.77.0.{self._num_hosts}")
        self._add_namespace(host.name)
        self._ip(
            self._switch, "link", "add", host.name, "type", "veth",
            "peer", "name", "network", "netns", host.name,
        )  # fmt: skip
        self._ip(self._switch, "link", "set", host.name, "master", "switch", "up")
        self._ip(host.name, "address", "add", f"{host.address}/24", "dev", "network")
        for link in ("lo", "network"):
            self._ip(host.name, "link", "set", link, "up")
        # Ray finds a host's address by asking for the way to the internet.
        self._ip(host.name, "route", "add", "default", "dev", "network")
        host.boot()
        self._stack.callback(host.crash)
        return host

    def plug(self, host: Host, state: str) -> None:
        """`down` pulls the host's cable and `up` puts it back."""
        self._ip(self._switch, "link", "set", host.name, state)

    def _add_namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)

    def _ip(self, namespace: str, *arguments: str) -> None:
        subprocess.run(["ip", "-netns", namespace, *arguments], check=True)


class Machines:
    """A head without devices and two nodes with one each, a token asked for."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self._folder = network, folder
        self.head, self.first, self.second, self.outside = (network.add() for _ in range(4))
        self.address = f"{self.head.address}:{GCS_PORT}"
        self.start_head()
        for host in (self.first, self.second):
            self._start(host, f"--address={self.address}", "--num-cpus=1", "--num-gpus=1")

    def start_head(self) -> None:
        """Start it, or bring it back with what it knew of the cluster."""
        self._start(
            self.head, "--head", f"--port={GCS_PORT}", "--num-cpus=4", "--num-gpus=0",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD_PORT}",
            f"--system-config={json.dumps(raylets.NOTICED_SOON)}",
        )  # fmt: skip

    def _start(self, host: Host, *arguments: str) -> None:
        log = self._folder / f"{host.name}.log"
        command = [
            *host.inside, str(Path(sys.executable).with_name("ray")), "start", "--block",
            f"--node-ip-address={host.address}", f"--object-store-memory={100 * 2**20}",
            f"--temp-dir={self._folder}/{host.name}", *arguments,
        ]  # fmt: skip
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        raylets.wait_until_started(process, log)


@pytest.fixture
def machines(tmp_path_factory) -> Iterator[Machines]:
    made = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "ip", "link"]
    if subprocess.run(made, capture_output=True).returncode:
        pytest.skip("no namespaces may be made here")
    # Ray's sockets lie below this folder, and their paths must be short.
    folder = tmp_path_factory.mktemp("n")
    with pytest.MonkeyPatch.context() as patch, Network() as network:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # The head's fault tolerance, with a folder where KubeRay's files have a Redis.
        patch.setenv("RAY_gcs_storage", "rocksdb")
        patch.setenv("RAY_gcs_storage_path", str(folder / "gcs"))
        yield Machines(network, folder)


def test_host_without_the_token_cannot_join_or_see_the_dashboard(machines):
    connect = "import socket; print(socket.socket().connect_ex(({!r}, {})))"
    reached = connect.format(machines.head.address, GCS_PORT)
    dashboard = connect.format(machines.head.address, DASHBOARD_PORT)
    assert machines.outside.python(reached).stdout.strip() == "0", "the network is there"
    assert machines.outside.python(dashboard).stdout.strip() != "0", "on the head's loopback alone"
    assert machines.head.python(connect.format("127.0.0.1", DASHBOARD_PORT)).stdout.strip() == "0"
    code = JOIN.format(machines.address)
    assert machines.first.python(code).stdout.strip() == "3"
    refused = machines.first.python(code, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
    assert refused.returncode != 0
    assert not refused.stdout


def test_rows_survive_a_pulled_cable(machines, tmp_path, model_folder):
    """The isolated node continues writing, and every row is saved once."""
    run = Run(machines, tmp_path, model_folder, host=machines.head, device="gpu")
    assert run.wait(
        lambda: len(raylets.processes(raylets.ENGINE_TITLE)) == 2 and run.num_computed > 60
    )
    machines.network.plug(machines.first, "down")
    time.sleep(NOTICED_SECONDS)
    machines.network.plug(machines.first, "up")
    run.finish()
    check_rows(run, 1)


def test_rows_survive_a_killed_and_restarted_head(machines, tmp_path, model_folder):
    """The driver is on a node. Engines continue without a head, and the driver waits for it."""
    run = Run(machines, tmp_path, model_folder, host=machines.second, device="gpu")
    assert run.wait_for(60)
    machines.head.crash()
    machines.head.boot()
    machines.start_head()
    run.finish()
    check_rows(run, 1)
