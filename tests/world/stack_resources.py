"""What CloudFormation does for each type of resource: it calls the service's API (CloudFormation
user guide, "AWS resource and property types reference", whose "Update requires" says what is
changed in place; the rest is replaced). Here is what all types share, and a VPC; what instances
launch with is in stack_identity and stack_groups, a nested stack in cloudformation.
"""

import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.model import Shape

from . import ec2
from .inside import INSIDE
from .template import invalid

Properties = dict[str, Any]


@dataclass
class Resource:
    """One that exists; `id` is what `Ref` gives, `attributes` what `Fn::GetAtt` does."""

    logical: str
    kind: str
    properties: Properties
    # The logical names of those that it must not outlive.
    needs: list[str]
    # User guide, "Resource tags": what CloudFormation tags those with that can be tagged.
    tags: dict[str, str]
    id: str = ""
    attributes: dict[str, str] = field(default_factory=dict)

    def name(self, limit: int = 255) -> str:
        """A name where the template gives none (user guide, "Name type")."""
        letters = string.ascii_uppercase + string.digits
        end = f"-{self.logical}-{''.join(secrets.choice(letters) for _ in range(12))}"
        return self.tags["aws:cloudformation:stack-name"][: limit - len(end)] + end


class Kind:
    """How one type is made, changed and deleted. `in_place` are the properties whose change does
    not replace the resource; `known` are the others."""

    known: tuple[str, ...] = ()
    in_place: tuple[str, ...] = ()

    def create(self, resource: Resource) -> None:
        raise NotImplementedError

    def update(self, resource: Resource, old: Properties) -> None:
        raise NotImplementedError

    def delete(self, resource: Resource) -> bool:
        """False as long as that takes time."""
        raise NotImplementedError


KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[type[Kind]], type[Kind]]:
    def register(cls: type[Kind]) -> type[Kind]:
        KINDS[f"AWS::{name}"] = cls()
        return cls

    return register


def call(service: str, operation: str, **params: Any) -> dict[str, Any]:
    """A call of an API. A template's values become what it takes: "true" is a boolean, "1" a
    number."""
    client = INSIDE.client(service)
    model = client.meta.service_model.operation_model(operation)
    method = {name: key for key, name in client.meta.method_to_api_mapping.items()}[operation]
    return getattr(client, method)(**_fit(model.input_shape, params, operation))


def _fit(shape: Shape, value: Any, path: str) -> Any:
    name = shape.type_name
    if name == "structure":
        if unknown := set(value) - set(shape.members):
            raise invalid(f"Encountered unsupported property {sorted(unknown)[0]} of {path}")
        return {key: _fit(shape.members[key], item, f"{path}.{key}") for key, item in value.items()}
    if name == "list":
        return [_fit(shape.member, item, path) for item in value]
    if name in ("integer", "long"):
        return int(value)
    if name == "boolean":
        if str(value).lower() not in ("true", "false"):
            raise invalid(f"{path}: {value!r} is not a boolean")
        return str(value).lower() == "true"
    return str(value).lower() if isinstance(value, bool) else value


# --- A VPC ----------------------------------------------------------------------------------------


class Ec2Kind(Kind):
    """What has an ID and can be tagged: CreateX, DeleteX and XId by its `noun`."""

    noun = ""
    in_place = ("Tags",)

    def create(self, resource: Resource) -> None:
        given = {key: resource.properties[key] for key in self.known if key in resource.properties}
        answer = call("ec2", f"Create{self.noun}", **given)
        resource.id = answer[self.noun][self._id_name]
        self.update(resource, {})

    def update(self, resource: Resource, old: Properties) -> None:
        retag(resource, old)

    def delete(self, resource: Resource) -> bool:
        call("ec2", f"Delete{self.noun}", **{self._id_name: resource.id})
        return True

    @property
    def _id_name(self) -> str:
        return f"{self.noun}Id"


def retag(resource: Resource, old: Properties) -> None:
    before = {tag["Key"] for tag in old.get("Tags", [])}
    tags = {tag["Key"]: tag["Value"] for tag in resource.properties.get("Tags", [])}
    backend = ec2.backend()
    if gone := before - set(tags):
        backend.delete_tags([resource.id], dict.fromkeys(gone))
    # By the backend: the API lets nobody have tags that begin with "aws:".
    backend.create_tags([resource.id], tags | resource.tags)


@kind("EC2::VPC")
class Vpc(Ec2Kind):
    noun = "Vpc"
    known = ("CidrBlock",)
    in_place = ("EnableDnsHostnames", "EnableDnsSupport", "Tags")

    def update(self, resource: Resource, old: Properties) -> None:
        for name in self.in_place[:2]:
            if (value := resource.properties.get(name)) is not None:
                call("ec2", "ModifyVpcAttribute", VpcId=resource.id, **{name: {"Value": value}})
        super().update(resource, old)


@kind("EC2::InternetGateway")
class InternetGateway(Ec2Kind):
    noun = "InternetGateway"


@kind("EC2::RouteTable")
class RouteTable(Ec2Kind):
    noun = "RouteTable"
    known = ("VpcId",)


@kind("EC2::Subnet")
class Subnet(Ec2Kind):
    noun = "Subnet"
    known = ("VpcId", "AvailabilityZone", "CidrBlock")


@kind("EC2::VPCGatewayAttachment")
class GatewayAttachment(Kind):
    known = ("VpcId", "InternetGatewayId")

    def create(self, resource: Resource) -> None:
        call("ec2", "AttachInternetGateway", **resource.properties)
        resource.id = f"IGW|{resource.properties['VpcId']}"

    def delete(self, resource: Resource) -> bool:
        call("ec2", "DetachInternetGateway", **resource.properties)
        return True


@kind("EC2::Route")
class Route(Kind):
    known = ("RouteTableId", "DestinationCidrBlock")
    in_place = ("GatewayId",)

    def create(self, resource: Resource) -> None:
        call("ec2", "CreateRoute", **resource.properties)
        resource.id = "|".join(resource.properties[name] for name in self.known)

    def update(self, resource: Resource, old: Properties) -> None:
        call("ec2", "ReplaceRoute", **resource.properties)

    def delete(self, resource: Resource) -> bool:
        where = {name: resource.properties[name] for name in self.known}
        call("ec2", "DeleteRoute", **where)
        return True


@kind("EC2::SubnetRouteTableAssociation")
class Association(Kind):
    known = ("SubnetId", "RouteTableId")

    def create(self, resource: Resource) -> None:
        answer = call("ec2", "AssociateRouteTable", **resource.properties)
        resource.id = answer["AssociationId"]

    def delete(self, resource: Resource) -> bool:
        call("ec2", "DisassociateRouteTable", AssociationId=resource.id)
        return True
