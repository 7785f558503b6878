"""Extends moto's NAT gateways to what EC2's own documentation says of them.

Importing it patches moto: it owns their states, which follow from time, and DescribeNatGateways.
Limits: none fails, none has secondary addresses. A regional one works from one of the VPC's public
subnets, where EC2 has it in all zones that need it.
"""

import re
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, nat_gateways
from moto.ec2.models.nat_gateways import NatGateway
from moto.ec2.responses import nat_gateways as responses
from moto.ec2.utils import add_tag_specification

from .autoscaling import LIFECYCLE, Part
from .clock import CLOCK
from .ec2 import backend
from .patching import wrap
from .reads import filtered, page

_ID = re.compile(r"nat-([0-9a-f]{8}|[0-9a-f]{17})")
# VPC user guide, "Troubleshoot NAT gateways": one that failed is shown for about an hour; so is one
# that was deleted (?).
_SHOWN_AFTERWARDS = 3600.0


class NatGateways(Part):
    """API reference, NatGateway: pending → available → deleting → deleted."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._pending = self._deleting = 0.0
        # When the next state begins, by ID.
        self._due: dict[str, float] = {}

    def slow(self, pending: float, deleting: float) -> None:
        self._pending, self._deleting = pending, deleting

    def made(self, gateway: NatGateway) -> None:
        gateway.state = "pending"
        self._due[gateway.id] = CLOCK.now() + self._pending

    def delete(self, gateway: NatGateway) -> None:
        if gateway.state not in ("deleting", "deleted"):
            gateway.state = "deleting"
            self._due[gateway.id] = CLOCK.now() + self._deleting

    def act(self) -> bool:
        due = [gateway for gateway, when in self._due.items() if when <= CLOCK.now()]
        for gateway_id in due:
            gateway, when = backend().nat_gateways[gateway_id], self._due.pop(gateway_id)
            if gateway.state == "pending":
                gateway.state = "available"
            elif gateway.state == "deleting":
                gateway.state = "deleted"
                _release(gateway)
                self._due[gateway_id] = when + _SHOWN_AFTERWARDS
            else:
                del backend().nat_gateways[gateway_id]
        return bool(due)


def _release(gateway: NatGateway) -> None:
    # API reference, DeleteNatGateway: the Elastic IP address is disassociated and stays the
    # account's; routes stay. moto keeps address and interface with the gateway.
    for address in gateway.address_set:
        if association := address.get("associationId"):
            backend().disassociate_address(association_id=association)
    gateway._eni.delete()


NAT_GATEWAYS = NatGateways()
LIFECYCLE.add(NAT_GATEWAYS)

# moto draws an address out of 10.0.0.0/8, whatever the subnet; without one the interface gets the
# subnet's next.
nat_gateways.random_private_ip = lambda: ""
# What the filter of this name asks for.
NatGateway.nat_gateway_id = property(lambda gateway: gateway.id)


@wrap(EC2Backend, "create_nat_gateway")
def _create_nat_gateway(
    original: Any,
    backend: EC2Backend,
    subnet_id: str,
    allocation_id: str,
    tags: dict[str, str] | None = None,
    connectivity_type: str | None = None,
) -> NatGateway:
    # API reference, CreateNatGateway: public unless asked otherwise; moto has none then.
    gateway = original(backend, subnet_id, allocation_id, tags, connectivity_type or "public")
    # API reference, NetworkInterface. That its check is off follows from what it does (?).
    gateway._eni.interface_type = "nat_gateway"
    gateway._eni.status = "in-use"
    gateway._eni.source_dest_check = False
    NAT_GATEWAYS.made(gateway)
    return gateway


@wrap(responses.NatGateways, "create_nat_gateway")
def _create(original: Any, response: Any) -> ActionResult:
    """API reference, CreateNatGateway: a regional one is given a VPC in place of a subnet, and gets
    its addresses itself. moto knows none. DescribeNatGateways shows no subnet of it."""
    mode = response._get_param("AvailabilityMode") or "zonal"
    if mode == "zonal":
        answer = original(response)
        answer.result["NatGateway"].availability_mode = mode
        return answer
    vpc_id = response._get_param("VpcId")
    if not vpc_id or response._get_param("SubnetId"):
        # Which code (?).
        raise EC2ClientError("InvalidParameterCombination", "A regional one takes a VPC only.")
    tags = add_tag_specification(response._get_param("TagSpecifications", []))
    ec2 = response.ec2_backend
    address = ec2.allocate_address("vpc").allocation_id
    gateway = ec2.create_nat_gateway(_public_subnet(ec2, vpc_id), address, tags=tags)
    gateway.availability_mode, gateway.subnet_id = mode, None
    return ActionResult({"NatGateway": gateway})


def _public_subnet(ec2: EC2Backend, vpc_id: str) -> str:
    for table in ec2.route_tables.values():
        targets = [route.gateway_id or "" for route in table.routes]
        if table.vpc_id == vpc_id and any(target.startswith("igw-") for target in targets):
            for place in table.associations:
                if "SubnetId" in place:
                    return str(place["SubnetId"])
    raise EC2ClientError("InvalidVpcID.NotFound", f"{vpc_id} has no public subnet")


@wrap(EC2Backend, "delete_nat_gateway")
def _delete_nat_gateway(_original: Any, backend: EC2Backend, nat_gateway_id: str) -> NatGateway:
    gateway = _named(backend, nat_gateway_id)
    NAT_GATEWAYS.delete(gateway)
    return gateway


@wrap(responses.NatGateways, "describe_nat_gateways")
def _describe_nat_gateways(_original: Any, response: Any) -> ActionResult:
    """moto knows no filter by tag, no page, and answers nothing of what is not there."""
    backend = response.ec2_backend
    ids = response._get_param("NatGatewayIds", [])
    gateways = [_named(backend, i) for i in ids] if ids else [*backend.nat_gateways.values()]
    found = filtered(response._filters_from_querystring(), gateways)
    # API reference, DescribeNatGateways: MaxResults 5 to 1000.
    shown, following = page(response, found, 1000)
    return ActionResult({"NatGateways": shown, "NextToken": following})


def _named(backend: EC2Backend, nat_gateway_id: str) -> NatGateway:
    """API reference, "Error codes"."""
    if not _ID.fullmatch(nat_gateway_id):
        raise EC2ClientError("NatGatewayMalformed", f"NAT gateway ID {nat_gateway_id} is malformed")
    if nat_gateway_id not in backend.nat_gateways:
        raise EC2ClientError("NatGatewayNotFound", f"NAT gateway {nat_gateway_id} was not found")
    return backend.nat_gateways[nat_gateway_id]
