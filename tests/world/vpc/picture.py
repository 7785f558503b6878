"""What EC2 and Auto Scaling say about one VPC at one moment, read from the emulator's state."""

from dataclasses import dataclass, field
from ipaddress import IPv4Interface

from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import Instance
from moto.ec2.models.nat_gateways import NatGateway
from moto.ec2.models.route_tables import Route, RouteTable

from tests.world import ec2
from tests.world.autoscaling import LIFECYCLE

from .router import INTERNET, Routes, port_name

_DEFAULT = "0.0.0.0/0"


@dataclass(frozen=True)
class Described:
    """An instance that is on, as EC2 describes it, and its primary interface, the only one that is
    followed here."""

    instance: str
    zone: str
    subnet: str
    mac: str
    address: IPv4Interface
    public: str | None
    # Whether the source/destination check is on.
    checked: bool
    # Another number after each reboot and start.
    boot: int


@dataclass(frozen=True)
class DescribedNatGateway:
    """A NAT gateway that is available, and its interface."""

    zone: str
    subnet: str
    mac: str
    address: IPv4Interface
    # None for a private one.
    public: str | None


@dataclass(frozen=True)
class Picture:
    blocks: tuple[str, ...] = ()
    instances: dict[str, Described] = field(default_factory=dict)
    # By ID.
    nat_gateways: dict[str, DescribedNatGateway] = field(default_factory=dict)
    # Subnet → destination → INTERNET, an instance, a NAT gateway, or None for nowhere.
    routes: dict[str, dict[str, str | None]] = field(default_factory=dict)
    # Instance → lifecycle state, of those in groups.
    lifecycles: dict[str, str] = field(default_factory=dict)

    @property
    def public(self) -> dict[str, str]:
        """Private address → public address."""
        having = [*self.instances.values(), *self.nat_gateways.values()]
        return {str(one.address.ip): one.public for one in having if one.public}

    @property
    def checked(self) -> set[str]:
        """The ports whose source/destination check is on."""
        return {port_name(i.instance) for i in self.instances.values() if i.checked}

    @property
    def ports(self) -> dict[str, Routes]:
        """The routes, to ports of the router."""
        return {
            subnet: {to: _port(target) for to, target in routes.items()}
            for subnet, routes in self.routes.items()
        }


def _port(target: str | None) -> str | None:
    return target if target in (None, INTERNET) else port_name(target)


def differences(before: Picture, now: Picture) -> list[tuple[str, str]]:
    """What happened between two pictures, for people: the ID it happened to, and what."""
    found = []
    for instance, about in now.instances.items():
        if instance not in before.instances:
            found.append((instance, f"is on: {about.zone}, {about.address.ip}"))
            continue
        was = before.instances[instance]
        if about.boot != was.boot:
            found.append((instance, "reboots"))
        if about.checked != was.checked:
            check = "on" if about.checked else "off"
            found.append((instance, f"source/destination check {check}"))
        if about.public != was.public:
            found.append((instance, f"has the public address {about.public}"))
    for instance, state in now.lifecycles.items():
        if state != before.lifecycles.get(instance):
            found.append((instance, state))
    found += [(instance, "is off") for instance in before.instances.keys() - now.instances.keys()]
    for gateway in now.nat_gateways.keys() - before.nat_gateways.keys():
        found.append((gateway, f"is available: {now.nat_gateways[gateway].zone}"))
    for gateway in before.nat_gateways.keys() - now.nat_gateways.keys():
        found.append((gateway, "is no longer available"))
    for subnet, routes in now.routes.items():
        target = routes.get(_DEFAULT)
        if target != before.routes.get(subnet, {}).get(_DEFAULT):
            found.append((subnet, f"default route leads to {target or 'nowhere'}"))
    return found


def take(vpc_id: str) -> Picture:
    """Under the world's lock."""
    backend = ec2.backend()
    blocks = backend.vpcs[vpc_id].get_cidr_block_association_set()
    # "pending" has no interface yet, and what is stopped or terminated is no place any more.
    running = [i for i in backend.all_instances() if i.state == "running"]
    instances = {i.id: _described(i) for i in running if i.nics[0].subnet.vpc_id == vpc_id}
    # API reference, NatGateway: "pending" processes no packets yet, "deleting" only may.
    available = [g for g in backend.nat_gateways.values() if g.state == "available"]
    return Picture(
        tuple(block["cidr_block"] for block in blocks),
        instances,
        {g.id: _described_nat_gateway(g) for g in available if g.vpc_id == vpc_id},
        _routes(vpc_id, instances),
        {i: state for i in instances if (state := LIFECYCLE.state(i)) is not None},
    )


def _described(instance: Instance) -> Described:
    nic: NetworkInterface = instance.nics[0]
    return Described(
        instance.id,
        nic.subnet.availability_zone,
        nic.subnet.id,
        nic.mac_address,
        ec2.address_of(nic),
        nic.public_ip,
        nic.source_dest_check,
        ec2.boots(instance),
    )


def _described_nat_gateway(gateway: NatGateway) -> DescribedNatGateway:
    nic: NetworkInterface = gateway._eni
    return DescribedNatGateway(
        nic.subnet.availability_zone,
        nic.subnet.id,
        nic.mac_address,
        ec2.address_of(nic),
        nic.public_ip,
    )


def _routes(vpc_id: str, instances: dict[str, Described]) -> dict[str, dict[str, str | None]]:
    backend = ec2.backend()
    tables = [table for table in backend.route_tables.values() if table.vpc_id == vpc_id]
    by_subnet: dict[str, RouteTable] = {}
    main = None
    for table in tables:
        main = table if table.main_association_id else main
        for association in table.associations:
            if "SubnetId" in association:
                by_subnet[association["SubnetId"]] = table
    found = {}
    for subnets in backend.subnets.values():
        for subnet in subnets.values():
            table = by_subnet.get(subnet.id, main)
            if subnet.vpc_id == vpc_id and table is not None:
                found[subnet.id] = {
                    route.destination_cidr_block: _target(route, instances)
                    # A static one wins over one that is propagated.
                    for route in sorted(table.routes, key=ec2.is_propagated, reverse=True)
                    if route.destination_cidr_block and not route.local
                }
    return found


def _target(route: Route, instances: dict[str, Described]) -> str | None:
    if route.state != "active":
        return None
    if route.interface is not None:
        # EC2 names the instance of any of its interfaces; only the primary one has a cable here.
        instance = instances.get(route.instance_id or "")
        return (
            instance.instance if instance and instance.mac == route.interface.mac_address else None
        )
    if route.nat_gateway is not None:
        return route.nat_gateway.id
    # Others, such as a virtual private gateway, lead to what is not there.
    internet = route.gateway is not None and route.gateway.id.startswith("igw-")
    return INTERNET if internet else None
