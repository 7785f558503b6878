"""What the scenes on packets play in: a VPC of two zones, in which groups launch NATs that boot by
themselves, and a client in each private subnet measures what it loses."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from tests.nat import binary_path
from tests.world.scene import ZONES, two_zone_vpc
from tests.world.vpc.instance import Instance
from tests.world.vpc.internet import HOST
from tests.world.vpc.probe import Probe, Report
from tests.world.vpc.vpc import Vpc
from tests.world.weather import Latency
from tests.world.world import World

# What the templates' user data and unit come to, at every boot, without a system to run them.
CLAIM = "#!/bin/sh\nexec hanat claim\n"
LAUNCH_FIRST = (100, 200)


class TwoZones:
    """With the clients, and no NAT yet."""

    def __init__(
        self,
        world: World,
        user_data: str = CLAIM,
        api_latency: float = 0.0,
        zones: Sequence[str] = ZONES,
        **vpc: Any,
    ) -> None:
        """Times in seconds; `vpc` is for Vpc."""
        self.world = world
        self.zones = zones
        self.scene = two_zone_vpc(world, nats_in_group=False, user_data=user_data)
        self.vpc = Vpc(world, self.scene.vpc, binary_path(), **vpc)
        self._api_latency = api_latency
        self._clients: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._api_latency:
            self.world.weather("*", Latency(self._api_latency))
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.vpc)
            for zone in self.zones:
                self._clients[zone] = self.launch_client(self.scene.private_subnets[zone])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def launch_client(self, subnet: str) -> str:
        instance = self.scene.launch_instance(subnet)
        self.vpc.instance(instance)
        return instance

    # --- NATs -----------------------------------------------------------------------------------

    def launch(self, **group: Any) -> list[str]:
        """A group of one in each zone, by Scene.launch_group; waits until their NATs serve."""
        for zone in self.zones:
            self.scene.launch_group(zone, **group)
        return [self.serving(zone) for zone in self.zones]

    def serving(self, zone: str, other_than: str = "", timeout: float = 30.0) -> str:
        """Waits for an instance of the zone's group that is in service and that the zone's private
        subnet goes out by."""
        try:
            self.vpc.wait_until(lambda: self._serving(zone) not in (None, other_than), timeout)
        except TimeoutError as error:
            instances = self.vpc.picture.lifecycles
            said = "".join(f"\n{instance}: {self.vpc.log(instance)}" for instance in instances)
            raise TimeoutError(f"no NAT serves {zone} within {timeout:g} s{said}") from error
        serving = self._serving(zone)
        assert serving
        return serving

    def wait_off(self, instance: str) -> None:
        self.vpc.wait_until(lambda: instance not in self.vpc.picture.instances)

    def _serving(self, zone: str) -> str | None:
        picture = self.vpc.picture
        target = picture.instances.get(self.routed_to(zone) or "")
        if target is None or target.zone != zone:
            return None
        served = picture.lifecycles.get(target.instance) == "InService"
        return target.instance if served else None

    def routed_to(self, zone: str) -> str | None:
        """Where the default route of the zone's private subnet leads."""
        return self.vpc.picture.routes[self.scene.private_subnets[zone]].get("0.0.0.0/0")

    def routed_at(self, instance: str) -> float:
        """When a private subnet's default route was last turned to it, by time.monotonic()."""
        text = f"default route leads to {instance}"
        return max(event.at for event in self.vpc.events if event.text == text)

    def public(self, instance: str) -> str | None:
        return self.vpc.picture.instances[instance].public

    def group(self, zone: str) -> str:
        return self.scene.groups[zone]

    def refresh(self, zone: str) -> None:
        self.world.autoscaling.start_instance_refresh(AutoScalingGroupName=self.group(zone))

    def terminate(self, zone: str) -> None:
        """Has the zone's group replace the NAT that serves it, which it terminates first."""
        serving = self._serving(zone)
        if serving is None:
            raise LookupError(f"no NAT serves {zone}")
        self.world.autoscaling.terminate_instance_in_auto_scaling_group(
            InstanceId=serving, ShouldDecrementDesiredCapacity=False
        )

    # --- Clients --------------------------------------------------------------------------------

    def client_id(self, zone: str) -> str:
        return self._clients[zone]

    def client(self, zone: str) -> Instance:
        return self.vpc.instance(self._clients[zone])

    @contextlib.contextmanager
    def probes(self) -> Iterator[dict[str, Probe]]:
        """One a client, by zone."""
        with contextlib.ExitStack() as stack:
            yield {
                zone: stack.enter_context(Probe(zone, self.client(zone).place, HOST))
                for zone in self.zones
            }

    @contextlib.contextmanager
    def connected_probes(self) -> Iterator[dict[str, Probe]]:
        """Of clients that get through from the beginning."""
        with self.probes() as probes:
            wait_for_all(probes)
        with self.probes() as probes:
            wait_for_all(probes)
            yield probes

    @contextlib.contextmanager
    def connected_probe(self) -> Iterator[Probe]:
        """The one of them in the first zone."""
        with self.connected_probes() as probes:
            yield probes[self.zones[0]]


def wait_for_all(probes: Mapping[str, Probe]) -> None:
    """Until every client gets through."""
    for probe in probes.values():
        probe.wait_connected()


def stop_all(probes: dict[str, Probe]) -> dict[str, Report]:
    return {zone: probe.stop() for zone, probe in probes.items()}
