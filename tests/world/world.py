"""Ties the world together: its life, its servers, and what tests ask of it."""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any, Self

# moto would read 1,300 AMIs anew at every reset, and none is needed: it launches unknown ones.
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")

import boto3
from botocore.config import Config
from moto.core.base_backend import BackendDict
from moto.ec2.models.route_tables import RouteTable

from . import autoscaling_api, cloudformation_api, ec2, images
from .autoscaling import LIFECYCLE, REGION, Completion
from .clock import CLOCK, Clock
from .imds import Imds, access_key_id
from .machine import Machine
from .namespace import Namespace
from .nat_gateways import NAT_GATEWAYS
from .probe import Probe
from .reads import STALE
from .record import TESTER, Call, ImdsCall, Recorder
from .replacement import REPLACEMENTS
from .server import ApiServer
from .spot import SPOT
from .status import CHECKS
from .weather import Effect, Rule, Weather

__all__ = ["DefaultRoute", "World", "autoscaling_api", "cloudformation_api"]

_running = threading.Lock()


@dataclass(frozen=True)
class DefaultRoute:
    """Where a table's 0.0.0.0/0 leads. `target` is the interface, gateway or NAT gateway."""

    target: str
    instance: str | None
    interface: str | None
    state: str


class World:
    """One emulated account and region. moto's state is global: one world a process at a time."""

    def __init__(self, port: int = 0) -> None:
        self.clock: Clock = CLOCK
        self.url = ""
        self._port = port
        # Held whenever the emulator's state is looked at or changed.
        self.lock = threading.RLock()
        self._recorder = Recorder()
        self._weather = Weather()
        self._api = ApiServer(self.lock, self._recorder, self._weather)
        self._imds: dict[str, Imds] = {}
        self._machines: dict[str, Machine] = {}
        self.probe = Probe()
        self._clients: dict[tuple[str, str], Any] = {}

    # --- Life -----------------------------------------------------------------------------------

    def start(self) -> Self:
        if not _running.acquire(blocking=False):
            raise RuntimeError("another world runs in this process")
        self.reset()
        self.url = self._api.http.listen(port=self._port)
        self.probe.start()
        return self

    def close(self) -> None:
        self._weather.reset()
        for client in self._clients.values():
            client.close()
        self._close_instances()
        self.probe.close()
        self._api.http.close()
        _running.release()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Back to an empty account; URLs and clients stay."""
        self._weather.reset()
        self._close_instances()
        if self.probe.url:
            self.probe.reset()
        with self.lock:
            BackendDict.reset()
            CLOCK.reset()
            LIFECYCLE.reset()
            CHECKS.reset()
            ec2.reset()
            images.reset()
            self._api.reset()
        self._recorder.reset()

    def listen(self, **where: Any) -> str:
        """Serve the APIs on another socket too (host, port, tls=(certificate, key), sock)."""
        return self._api.http.listen(**where)

    def stop_listening(self, sock: socket.socket) -> None:
        """No longer on a socket that `listen` was given."""
        self._api.http.stop(sock)

    # --- What tests hold ------------------------------------------------------------------------

    @property
    def ec2(self) -> Any:
        return self.client("ec2")

    @property
    def autoscaling(self) -> Any:
        return self.client("autoscaling")

    def client(self, service: str, source: str = TESTER) -> Any:
        """A client of any service that moto knows: the test's own, or with another `source` one
        that the world treats as it treats the binary."""
        if (service, source) not in self._clients:
            self._clients[service, source] = boto3.client(
                service,
                region_name=REGION,
                endpoint_url=self.url,
                aws_access_key_id=source,
                aws_secret_access_key="test",
                config=Config(retries={"total_max_attempts": 1}, max_pool_connections=50),
            )
        return self._clients[service, source]

    def env(self, instance_id: str) -> dict[str, str]:
        """What makes the binary see this world from this instance."""
        return {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.imds(instance_id).url,
            "AWS_ENDPOINT_URL": self.url,
        }

    def imds(self, instance_id: str, **where: Any) -> Imds:
        """The instance's metadata service, started at the first call (host, port, sock)."""
        if instance_id not in self._imds:
            imds = Imds(instance_id, self.lock, self._recorder, self._weather)
            imds.listen(**where)
            self._imds[instance_id] = imds
        return self._imds[instance_id]

    def machine(self, instance_id: str) -> Machine:
        """The instance's network namespace, made at the first call: its primary interface as EC2
        describes it, and on loopback the world, under the URLs that it has here. Its router leads
        nowhere else; in a VPC (vpc/) that is otherwise."""
        if instance_id not in self._machines:
            with self.lock:
                interface = ec2.backend().get_instance(instance_id).nics[0]
            address = ec2.address_of(interface)
            router = Namespace()
            machine = Machine(interface.mac_address, address, router, "subnet")
            gateway = IPv4Interface((machine.gateway, address.network.prefixlen))
            router.add_address("subnet", gateway)
            self._machines[instance_id] = machine
            for http in (self._api.http, self.probe.http, self.imds(instance_id).http):
                http.serve_in(machine)
        return self._machines[instance_id]

    @property
    def probe_url(self) -> str:
        return self.probe.url

    # --- What happened --------------------------------------------------------------------------

    def calls(self, action: str | None = None) -> list[Call]:
        return self._recorder.calls(action)

    def imds_calls(self, instance_id: str | None = None) -> list[ImdsCall]:
        return self._recorder.imds_calls(instance_id)

    def wait_for(self, action: str, n: int = 1, timeout: float = 10.0) -> list[Call]:
        """Wait until `n` calls of `action` were received; TimeoutError else."""
        return self._recorder.wait_for(action, n, timeout)

    def wait_for_imds(self, path: str, timeout: float = 10.0) -> None:
        """Wait until an instance asked its IMDS for a path; TimeoutError else."""
        self._recorder.wait_for_imds(path, timeout)

    def wait_until(self, true: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait for a state of the world that no single call announces; TimeoutError else."""
        deadline = time.monotonic() + timeout
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so within {timeout} s")
            time.sleep(0.005)

    def source(self, instance_id: str) -> str:
        """`Call.source` of the calls that this instance signs with its role."""
        return access_key_id(instance_id)

    @property
    def faults(self) -> list[str]:
        """Tracebacks from moto; a test that meets one has found a hole in the world."""
        return list(self._api.faults)

    # --- Weather --------------------------------------------------------------------------------

    @property
    def rules(self) -> list[Rule]:
        return self._weather.rules

    def weather(self, rule: Rule | str | None, effect: Effect | None = None, **how: Any) -> Rule:
        """Add a rule: `weather(Rule(…))`, or `weather("ReplaceRoute", Throttle(), times=3)`."""
        if not isinstance(rule, Rule):
            if effect is None:
                raise TypeError("a rule needs an effect")
            rule = Rule(rule, effect, **how)
        return self._weather.add(rule)

    def calm(self) -> None:
        """Drop all rules and let go of whatever hangs."""
        self._weather.reset()

    def deny(self, action: str, times: int | None = None) -> None:
        """The instance's role is not allowed to do this."""
        self._api.denials[action] = times

    def allow(self, action: str) -> None:
        self._api.denials.pop(action, None)

    def bucket(self, action: str, capacity: float, refill: float) -> None:
        with self.lock:
            self._api.buckets.set(action, capacity, refill)

    def stale_reads(
        self, seconds: float | None = None, reads: int | None = None, interfaces: bool = False
    ) -> None:
        """From now on a change shows only after so long or so many reads; neither: at once."""
        with self.lock:
            STALE.set(seconds, reads, interfaces)

    # --- Auto Scaling ---------------------------------------------------------------------------

    @property
    def completions(self) -> list[Completion]:
        with self.lock:
            return list(LIFECYCLE.completions)

    @property
    def timeouts(self) -> list[Completion]:
        """The actions that nobody completed in time, with the hook's default result."""
        with self.lock:
            LIFECYCLE.tick()
            return list(LIFECYCLE.timeouts)

    def lifecycle(self, instance_id: str) -> str | None:
        """The lifecycle state; "Terminated" after its group let it go, None outside groups."""
        with self.lock:
            LIFECYCLE.tick()
            return LIFECYCLE.state(instance_id)

    def set_lifecycle_state(self, instance_id: str, state: str) -> None:
        with self.lock:
            LIFECYCLE.put(instance_id, state)

    def lifecycles(self) -> dict[str, tuple[str, str]]:
        """Every member of a group, those of warm pools included: (group, lifecycle state)."""
        with self.lock:
            LIFECYCLE.tick()
            return {
                member.instance_id: (member.auto_scaling_group_name, member.lifecycle_state)
                for member in LIFECYCLE.members()
            }

    def impair(self, instance_id: str, noticed_after: float) -> None:
        """The instance's status checks fail from now on; its group notices so much later."""
        with self.lock:
            CHECKS.impair(instance_id)
            REPLACEMENTS.impair(instance_id, noticed_after)

    def reclaim_spot(self, instance_id: str, notice: float = 120.0) -> None:
        """EC2 announces to the instance that it will be terminated, and then does so."""
        with self.lock:
            SPOT.reclaim(instance_id, notice)

    def recommend_rebalance(self, instance_id: str) -> None:
        """EC2 tells the instance that it is at risk of being reclaimed."""
        with self.lock:
            SPOT.recommend_rebalance(instance_id)

    def replace_while_terminating(self, yes: bool) -> None:
        """Whether a replacement launches while the old instance waits in Terminating:Wait."""
        with self.lock:
            LIFECYCLE.replace_while_terminating = yes

    def slow_hibernation(self, seconds: float) -> None:
        """How long an instance of a warm pool runs on before it hibernates."""
        with self.lock:
            LIFECYCLE.hibernation_takes = seconds

    def wait_for_hooks_when_deleted(self, yes: bool) -> None:
        """Whether a group that is deleted by force waits for its instances' terminating hooks."""
        with self.lock:
            LIFECYCLE.deletion_waits_for_hooks = yes

    # --- Routes ---------------------------------------------------------------------------------

    def slow_nat_gateways(self, pending: float, deleting: float) -> None:
        """How many seconds a NAT gateway that is made or deleted from now on takes for that."""
        with self.lock:
            NAT_GATEWAYS.slow(pending, deleting)

    def propagate_default_route(self, table_id: str, first: bool) -> str:
        """A virtual private gateway propagates one into the table, which is listed before or after
        a static one; returns the gateway's ID."""
        gateway: str = self.ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
        with self.lock:
            table = ec2.backend().get_route_table(table_id)
            ec2.propagate_default_route(table, gateway, first)
        return gateway

    def default_route(self, table_id: str) -> DefaultRoute | None:
        with self.lock:
            LIFECYCLE.tick()
            table: RouteTable = ec2.backend().get_route_table(table_id)
            for route in sorted(table.routes, key=ec2.is_propagated):
                if route.destination_cidr_block == "0.0.0.0/0":
                    interface = route.network_interface_id
                    target = interface or route.nat_gateway_id or route.gateway_id or ""
                    return DefaultRoute(target, route.instance_id, interface, route.state)
        return None

    def _close_instances(self) -> None:
        servers, self._imds = self._imds, {}
        for imds in servers.values():
            imds.close()
        machines, self._machines = self._machines, {}
        for machine in machines.values():
            self._api.http.leave(machine)
            self.probe.http.leave(machine)
            machine.close()
            machine.router.close()
