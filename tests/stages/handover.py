"""A NAT instance that is to hand its routes over, and those who could get them: what the tests of
`hanat drain` share."""

import contextlib
import subprocess
from dataclasses import replace
from typing import Self

from tests.nat import Nat, Ran, Running
from tests.stages.two_zones import TwoZones
from tests.world.scene import ZONES
from tests.world.world import World

OWN, OTHER = ZONES
DEFAULT = "0.0.0.0/0"


class Handover:
    """In a VPC of two zones whose instances do nothing by themselves, so that it is set up at once.
    `nat` is in the first zone and holds that zone's table."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._two_zones = TwoZones(world, user_data="#!/bin/sh\n", zones=())
        self.scene = self._two_zones.scene
        self.vpc = self._two_zones.vpc
        self.table = self.scene.private_tables[OWN]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._two_zones)
            self.nat = self.host(self.scene.public_subnets[OWN])
            self.give(self.table, self.nat)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- NAT instances --------------------------------------------------------------------------

    def host(self, subnet: str) -> Nat:
        """One that answers and could forward, with no route yet."""
        return self._ready(self._two_zones.launch_client(subnet))

    def peer(self, zone: str) -> Nat:
        """One that holds a table."""
        return self._holding(self.host(self.scene.public_subnets[zone]))

    def peer_in_group(self, zone: str, **group: object) -> Nat:
        """The same, in service in a group of its own, by Scene.launch_group."""
        instance = self.scene.launch_group(zone, hook=False, **group)
        self.vpc.instance(instance)
        return self._holding(self._ready(instance))

    def stranger(self) -> Nat:
        """One that could forward, in another VPC, where no packet reaches it."""
        ec2 = self.world.ec2
        vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, AvailabilityZone=OWN, CidrBlock="10.1.0.0/24")
        instance = self.scene.launch_instance(subnet["Subnet"]["SubnetId"])
        nat = Nat(replace(self.scene, vpc=vpc), instance)
        self.check(nat, on=False)
        return nat

    def _ready(self, instance: str) -> Nat:
        nat = Nat(self.scene, instance)
        self.check(nat, on=False)
        return nat

    def _holding(self, nat: Nat) -> Nat:
        self.scene.add_tables(1, default=nat.interface)
        return nat

    def check(self, nat: Nat, on: bool) -> None:
        """The source/destination check."""
        self.world.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=nat.interface, SourceDestCheck={"Value": on}
        )

    # --- Routes ---------------------------------------------------------------------------------

    def give(self, table: str, nat: Nat) -> None:
        """Whatever it had before."""
        route = {"RouteTableId": table, "DestinationCidrBlock": DEFAULT}
        change = self.world.ec2.replace_route if nat.route(table) else self.world.ec2.create_route
        change(**route, NetworkInterfaceId=nat.interface)

    @property
    def routes(self) -> dict[str, str | None]:
        """Where every table's default route leads, in all VPCs."""
        tables = self.world.ec2.describe_route_tables()["RouteTables"]
        found = {}
        for table in tables:
            route = self.world.default_route(table["RouteTableId"])
            found[table["RouteTableId"]] = route.target if route else None
        return found

    # --- The command ----------------------------------------------------------------------------

    def start(self, *flags: str) -> Running:
        instance = self.vpc.instance(self.nat.instance)
        command = ["hanat", "drain", *flags]
        return Running(
            instance.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
        )

    def drain(self, *flags: str) -> Ran:
        with self.start(*flags) as running:
            return running.wait()

    def terminate(self) -> None:
        """SIGTERM to what runs on the NAT; it does not reach it through what started it there."""
        self.vpc.instance(self.nat.instance).run("sh", "-c", "kill -TERM -1")
