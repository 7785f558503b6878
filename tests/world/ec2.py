"""Extends moto's EC2 routes and interfaces to what EC2's own documentation says of them.

Importing it patches moto. It owns a route's IDs, state and errors, an interface's lifetime, MAC
and addresses, and how often an instance booted.
"""

import itertools
from ipaddress import IPv4Address, IPv4Interface
from types import SimpleNamespace
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.exceptions import EC2ClientError, RouteAlreadyExistsError
from moto.ec2.models import (
    EC2Backend,
    ec2_backends,
    elastic_ip_addresses,
    elastic_network_interfaces,
)
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import Instance
from moto.ec2.models.route_tables import Route, RouteTable

from .patching import wrap
from .reads import STALE

# RFC 2544's block for benchmarks: public addresses that are nobody's.
_FIRST_ASSIGNED, _FIRST_ELASTIC = IPv4Address("198.18.0.1"), IPv4Address("198.19.0.1")

_macs = itertools.count(1)
_assigned, _elastic = itertools.count(), itertools.count()


def backend() -> EC2Backend:
    return ec2_backends[DEFAULT_ACCOUNT_ID]["us-east-1"]


def reset() -> None:
    global _macs, _assigned, _elastic
    _macs = itertools.count(1)
    _assigned, _elastic = itertools.count(), itertools.count()
    STALE.reset()


# --- Routes ---------------------------------------------------------------------------------------


def _instance_of(route: Route) -> Instance | None:
    if route.interface is None:
        return None
    # moto leaves a deleted interface attached; EC2 has nothing to derive the instance from then.
    alive = route.interface.id in route.route_table.ec2_backend.enis
    return route.interface.instance if alive else None


def _state(route: Route) -> str:
    """moto: always `active`. EC2 API reference, Route: `blackhole` once the target is gone."""
    backend = route.route_table.ec2_backend
    gone = False
    if route.interface is not None:
        instance = _instance_of(route)
        gone = instance is None or instance.state not in ("running", "pending")
    elif route.nat_gateway is not None:
        # VPC user guide, "Delete a NAT gateway"; while it is still deleting, too (?).
        gone = route.nat_gateway.state in ("deleting", "deleted")
    elif route.gateway is not None and route.gateway.id.startswith("igw-"):
        gone = route.gateway.id not in backend.internet_gateways or route.gateway.vpc is None
    return "blackhole" if gone else "active"


# moto reports an instance or an interface, whichever was given; EC2 both (API reference, Route).
Route.instance_id = property(lambda route: getattr(_instance_of(route), "id", None))
Route.instance_owner_id = property(lambda route: getattr(_instance_of(route), "owner_id", None))
Route.state = property(_state)


# --- Propagated routes ----------------------------------------------------------------------------


def propagate_default_route(table: RouteTable, gateway_id: str, first: bool) -> None:
    """As a virtual private gateway does (API reference, Route, `Origin`). A static route may stand
    beside it and wins (VPC user guide, "Route priority"); which of them is listed first (?)."""
    route = Route(table, "0.0.0.0/0", None, None)
    route.gateway = SimpleNamespace(id=gateway_id)
    route.propagated = -1 if first else 1
    table._routes[f"{route.id} propagated"] = route


def is_propagated(route: Route) -> bool:
    return _place(route) != 0


def _place(route: Route) -> int:
    return getattr(route, "propagated", 0)


def _origin(route: Route) -> str:
    if is_propagated(route):
        return "EnableVgwRoutePropagation"
    return "CreateRouteTable" if route.local else "CreateRoute"


Route.origin = property(_origin)
RouteTable.routes = property(lambda table: sorted(table._routes.values(), key=_place))


def _resolve_target(backend: Any, table: RouteTable, target: dict[str, Any]) -> None:
    """Check a route's target before anything changes (moto clears the old target first, so that a
    refused ReplaceRoute destroys the route) and turn an instance into its interface."""
    if instance_id := target.get("instance_id"):
        instance = backend.get_instance(instance_id)
        if len(instance.nics) != 1:
            raise EC2ClientError(
                "InvalidInstanceID",
                f"There are multiple interfaces attached to instance '{instance_id}'. "
                "Please specify an interface ID for the operation instead.",
            )
        target["instance_id"], target["interface_id"] = None, instance.nics[0].id
    if interface_id := target.get("interface_id"):
        interface = backend.get_network_interface(interface_id)
        if interface.subnet.vpc_id != table.vpc_id:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"route table {table.id} and network interface {interface_id} "
                "belong to different networks",
            )
    if nat_gateway_id := target.get("nat_gateway_id"):
        nat_gateway = backend.nat_gateways.get(nat_gateway_id)
        # So CreateRoute says, where DescribeNatGateways says NatGatewayNotFound (boto3's issue
        # 779). Of one that is deleted but still shown, too (?).
        if nat_gateway is None or nat_gateway.state == "deleted":
            raise EC2ClientError(
                "InvalidNatGatewayID.NotFound",
                f"The natGateway ID '{nat_gateway_id}' does not exist",
            )
        # As of an interface (?).
        if nat_gateway.vpc_id != table.vpc_id:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"route table {table.id} and NAT gateway {nat_gateway_id} "
                "belong to different networks",
            )
    gateway_id = target.get("gateway_id") or ""
    if gateway_id.startswith("igw-"):
        backend.get_internet_gateway(gateway_id)
    if not any(value for key, value in target.items() if key.endswith("_id")):
        raise EC2ClientError(
            "MissingParameter", "The request must contain exactly one target of the route"
        )


@wrap(EC2Backend, "create_route")
def _create_route(
    original: Any,
    backend: Any,
    route_table_id: str,
    destination_cidr_block: str | None,
    destination_ipv6_cidr_block: str | None = None,
    destination_prefix_list_id: str | None = None,
    local: bool = False,
    **target: Any,
) -> Route:
    table = backend.get_route_table(route_table_id)
    if not local:
        _resolve_target(backend, table, target)
        # moto looks for an existing route only where the target is not an interface.
        static = [route for route in table.routes if not is_propagated(route)]
        taken = {route.destination_cidr_block for route in static}
        if destination_cidr_block and destination_cidr_block in taken:
            raise RouteAlreadyExistsError(destination_cidr_block)
        STALE.table_changes(table)
    # moto would refuse what a propagated one has, too.
    propagated = {key: route for key, route in table._routes.items() if is_propagated(route)}
    for key in propagated:
        del table._routes[key]
    try:
        return original(
            backend,
            route_table_id,
            destination_cidr_block,
            destination_ipv6_cidr_block,
            destination_prefix_list_id,
            local=local,
            **target,
        )
    finally:
        table._routes.update(propagated)


@wrap(EC2Backend, "replace_route")
def _replace_route(
    original: Any,
    backend: Any,
    route_table_id: str,
    destination_cidr_block: str,
    destination_ipv6_cidr_block: str | None = None,
    destination_prefix_list_id: str | None = None,
    nat_gateway_id: str | None = None,
    egress_only_igw_id: str | None = None,
    transit_gateway_id: str | None = None,
    **target: Any,
) -> Route:
    target |= {
        "nat_gateway_id": nat_gateway_id,
        "egress_only_igw_id": egress_only_igw_id,
        "transit_gateway_id": transit_gateway_id,
    }
    table = backend.get_route_table(route_table_id)
    _resolve_target(backend, table, target)
    there = [route for route in table.routes if route.destination_cidr_block == "0.0.0.0/0"]
    if destination_cidr_block == "0.0.0.0/0" and there and all(map(is_propagated, there)):
        # In which words (?).
        raise EC2ClientError("InvalidParameterCombination", "The route is propagated.")
    STALE.table_changes(table)
    route = original(
        backend,
        route_table_id,
        destination_cidr_block,
        destination_ipv6_cidr_block,
        destination_prefix_list_id,
        **target,
    )
    # moto keeps them beside the new target.
    route.vpc_endpoint_id = route.carrier_gateway = None
    return route


@wrap(EC2Backend, "delete_route")
def _delete_route(original: Any, backend: Any, route_table_id: str, *args: Any) -> Route:
    STALE.table_changes(backend.get_route_table(route_table_id))
    return original(backend, route_table_id, *args)


# --- Interfaces -----------------------------------------------------------------------------------


def _next_mac() -> str:
    number = next(_macs)
    return "02:00:00:" + ":".join(f"{number >> shift & 255:02x}" for shift in (16, 8, 0))


# moto draws MACs and public addresses at random, so that two interfaces may get the same, and
# elastic addresses from 127.0.0.0/8.
elastic_network_interfaces.random_mac_address = _next_mac
elastic_network_interfaces.random_public_ip = lambda: str(_FIRST_ASSIGNED + next(_assigned))
elastic_ip_addresses.random_ip = lambda: str(_FIRST_ELASTIC + next(_elastic))


@wrap(EC2Backend, "associate_address")
def _associate_address(
    original: Any, backend: Any, *args: Any, **kwargs: Any
) -> elastic_ip_addresses.ElasticAddress:
    # moto leaves the address with the interface that it is taken from, too.
    before = {address.public_ip: address.eni for address in backend.addresses}
    address = original(backend, *args, **kwargs)
    robbed = before.get(address.public_ip)
    if robbed is not None and robbed is not address.eni:
        # EC2 user guide, "Elastic IP addresses": one that had an address of EC2's gets another.
        robbed.public_ip = None
        robbed.check_auto_public_ip()
    return address


@wrap(EC2Backend, "create_network_interface")
def _create_network_interface(
    original: Any, backend: Any, subnet: Any, private_ip_address: Any, *args: Any, **kwargs: Any
) -> NetworkInterface:
    # moto draws an address at random, reserved and taken ones included; instances get the next
    # free one of the subnet, so interfaces do too.
    several = args[0] if args else kwargs.get("private_ip_addresses")
    if not private_ip_address and not several:
        subnet = backend.get_subnet(subnet) if isinstance(subnet, str) else subnet
        private_ip_address = subnet.get_available_subnet_ip(instance=None)
    return original(backend, subnet, private_ip_address, *args, **kwargs)


def address_of(interface: NetworkInterface) -> IPv4Interface:
    """The first address, with the length of its subnet's prefix."""
    length = interface.subnet.cidr_block.partition("/")[2]
    return IPv4Interface(f"{interface.private_ip_address}/{length}")


@wrap(EC2Backend, "modify_network_interface_attribute")
def _modify_network_interface_attribute(
    original: Any, backend: Any, eni_id: str, *args: Any, **kwargs: Any
) -> None:
    STALE.interface_changes(backend.get_network_interface(eni_id))
    original(backend, eni_id, *args, **kwargs)


@wrap(Instance, "prep_nics")
def _prep_nics(
    original: Any, instance: Instance, specs: list[dict[str, Any]], *args: Any, **kwargs: Any
) -> None:
    original(instance, specs, *args, **kwargs)
    by_index = {int(spec.get("DeviceIndex") or 0): spec for spec in specs}
    for index, interface in instance.nics.items():
        # An interface made together with the instance ends with it unless the request says
        # otherwise (EC2 user guide, "Network interface attributes"); moto keeps it.
        spec = by_index.get(index, {})
        kept = str(spec.get("DeleteOnTermination", True)).lower() == "false"
        interface.delete_on_termination = not spec.get("NetworkInterfaceId") and not kept
        times = spec.get("ConnectionTrackingSpecification")
        interface.connection_tracking_configuration = times and _tracking(times)


# EC2 API reference, ConnectionTrackingSpecificationRequest: the least and the most, in seconds.
_TRACKING = {
    "TcpEstablishedTimeout": (60, 432000),
    "UdpStreamTimeout": (60, 180),
    "UdpTimeout": (30, 60),
}


def _tracking(times: dict[str, Any]) -> dict[str, int]:
    """How long EC2 remembers an idle connection, as DescribeNetworkInterfaces tells it; moto leaves
    it out, and takes everything. How EC2 words the refusal is (?)."""
    told = {name: int(seconds) for name, seconds in times.items()}
    for name, seconds in told.items():
        least, most = _TRACKING[name]
        if not least <= seconds <= most:
            raise EC2ClientError("InvalidParameterValue", f"{name} of {seconds} is invalid")
    return told


@wrap(Instance, "terminate")
def _terminate(original: Any, instance: Instance) -> Any:
    if instance.state == "terminated":
        return instance.instance_state  # moto would delete the interfaces a second time
    previous = original(instance)
    for interface in list(instance.nics.values()):
        if interface.id in instance.ec2_backend.enis:
            instance.detach_eni(interface)
    return previous


# --- Instances ------------------------------------------------------------------------------------


@wrap(Instance, "reboot")
def _reboot(original: Any, instance: Instance) -> None:
    original(instance)
    instance.boots = boots(instance) + 1


@wrap(Instance, "start")
def _start(original: Any, instance: Instance) -> Any:
    previous = original(instance)
    if previous.name != "running" and not is_asleep(instance):
        instance.boots = boots(instance) + 1
    instance.asleep = False
    return previous


def hibernate(instance: Instance) -> None:
    """EC2 user guide, "Hibernate your Amazon EC2 instance": it stops, and what was in memory goes
    on when it starts again. Whether the instance was set up for that is not asked."""
    instance.asleep = True
    instance.ec2_backend.stop_instances([instance.id])


def is_asleep(instance: Instance) -> bool:
    """Whether it was hibernated and has not been started since."""
    return getattr(instance, "asleep", False)


def boots(instance: Instance) -> int:
    """How often it was rebooted or started, after its launch."""
    return getattr(instance, "boots", 0)
