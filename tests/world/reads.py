"""How moto's EC2 is read: filters, pages, and reads that lag behind writes.

Importing it patches moto where it differs from EC2.
"""

import base64
import binascii
import copy
import fnmatch
from dataclasses import dataclass
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import (
    EC2ClientError,
    FilterNotImplementedError,
    InvalidNextToken,
)
from moto.ec2.models import elastic_network_interfaces, route_tables, subnets
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.route_tables import RouteTable
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces
from moto.ec2.responses.route_tables import RouteTables
from moto.ec2.responses.subnets import Subnets

from .clock import CLOCK
from .patching import wrap
from .record import TESTER


@dataclass
class _Before:
    """A thing as it was before its last change, and for how long reads still show it."""

    thing: Any
    until: float
    reads: float


class StaleReads:
    """DescribeRouteTables (and DescribeNetworkInterfaces, if asked) show the state before the last
    change of each table (interface): EC2's reads are eventually consistent (EC2 API
    reference, "Eventual consistency")."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._seconds: float | None = None
        self._reads: int | None = None
        self._interfaces = False
        self._before: dict[str, _Before] = {}

    def set(self, seconds: float | None, reads: int | None, interfaces: bool) -> None:
        self.reset()
        self._seconds, self._reads, self._interfaces = seconds, reads, interfaces

    def table_changes(self, table: RouteTable) -> None:
        if self._seconds is None and self._reads is None:
            return
        old = copy.copy(table)
        old._routes = {key: copy.copy(route) for key, route in table._routes.items()}
        self._keep(old)

    def interface_changes(self, interface: NetworkInterface) -> None:
        if self._interfaces:
            self._keep(copy.copy(interface))

    def view(self, things: list[Any]) -> list[Any]:
        """What one read of `things` shows."""
        shown = []
        for thing in things:
            before = self._before.get(thing.id)
            if before and before.until > CLOCK.now() and before.reads > 0:
                before.reads -= 1
                thing = before.thing
            shown.append(thing)
        return shown

    def _keep(self, old: Any) -> None:
        until = float("inf") if self._seconds is None else CLOCK.now() + self._seconds
        reads = float("inf") if self._reads is None else self._reads
        self._before[old.id] = _Before(old, until, reads)


STALE = StaleReads()


def _shown(response: EC2BaseResponse, things: list[Any]) -> list[Any]:
    tester = f"Credential={TESTER}/" in response.headers.get("Authorization", "")
    return things if tester else STALE.view(things)


# --- Tags and filters -----------------------------------------------------------------------------


@wrap(TaggedEC2Resource, "get_tags")
def _get_tags(_original: Any, resource: Any) -> list[dict[str, str]]:
    # moto scans all tags of the region by regular expression for every resource: with 200 tables
    # a filter by tag takes seconds. The answer is the same.
    tags = resource.ec2_backend.tags.get(resource.id, {})
    return [
        {"resource_id": resource.id, "key": key, "value": value, "resource_type": ""}
        for key, value in tags.items()
    ]


def _matches(resource: Any, name: str, wanted: list[str | None]) -> bool:
    """A filter matches if any value of the resource matches any wanted one. moto wants several
    values to be a sub- or superset: it misses a table of two subnets when asked for one of them
    and another."""
    try:
        value = resource.get_filter_value(name)
    except FilterNotImplementedError:
        raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid") from None
    if value is None:
        return False
    if isinstance(value, bool):
        value = str(value).lower()
    values = [value] if isinstance(value, (str, int)) else list(value)
    return any(
        fnmatch.fnmatchcase(str(have), want.replace("[", "[[]"))
        for have in values
        for want in wanted
        if want is not None
    )


def filtered(filters: dict[str, list[str | None]] | None, resources: list[Any]) -> list[Any]:
    for name, wanted in (filters or {}).items():
        resources = [resource for resource in resources if _matches(resource, name, wanted)]
    return resources


route_tables.generic_filter = filtered
elastic_network_interfaces.generic_filter = filtered
subnets.generic_filter = filtered


@wrap(NetworkInterface, "get_filter_value")
def _interface_value(original: Any, interface: NetworkInterface, name: str, *args: Any) -> Any:
    # EC2 API reference, DescribeNetworkInterfaces; moto does not know it.
    if name == "attachment.device-index":
        return interface.device_index if interface.attachment_id else None
    return original(interface, name, *args)


# --- Pages ----------------------------------------------------------------------------------------


@wrap(RouteTables, "describe_route_tables")
def _describe_route_tables(_original: Any, response: RouteTables) -> ActionResult:
    """moto: one page always. EC2 API reference: `MaxResults` 5 to 100; with it, pages."""
    ids = response._get_param("RouteTableIds", [])
    tables = response.ec2_backend.describe_route_tables(ids, response._filters_from_querystring())
    tables, following = page(response, tables, 100, "RouteTableIds")
    return ActionResult({"RouteTables": _shown(response, tables), "NextToken": following})


def page(
    response: EC2BaseResponse, things: list[Any], most: int, ids: str | None = None
) -> tuple[list[Any], str | None]:
    """The page that a request asks for, of 5 to `most` things, and the token of the next one.
    `ids` is the parameter that EC2's API reference does not allow together with `MaxResults`."""
    size = response._get_int_param("MaxResults")
    token = response._get_param("NextToken")
    if size is not None and ids and response._get_param(ids, []):
        raise EC2ClientError(
            "InvalidParameterCombination",
            f"The parameter {ids} cannot be used with the parameter MaxResults",
        )
    if size is not None and not 5 <= size <= most:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. "
            f"Expecting a value from 5 to {most}.",
        )
    start = _page_start(token)
    end = len(things) if size is None and not token else start + (size or most)
    following = base64.b64encode(f"page {end}".encode()).decode() if end < len(things) else None
    return things[start:end], following


def _page_start(token: str | None) -> int:
    if not token:
        return 0
    try:
        word, offset = base64.b64decode(token, validate=True).decode().split(" ")
        if word == "page":
            return int(offset)
    except (binascii.Error, ValueError):
        pass
    raise InvalidNextToken(token)


@wrap(ElasticNetworkInterfaces, "describe_network_interfaces")
def _describe_network_interfaces(original: Any, response: Any) -> ActionResult:
    """moto: one page always. EC2 API reference: `MaxResults` 5 to 1000."""
    interfaces = original(response).result["NetworkInterfaces"]
    interfaces, following = page(response, interfaces, 1000, "NetworkInterfaceIds")
    shown = _shown(response, interfaces)
    return ActionResult({"NetworkInterfaces": shown, "NextToken": following})


@wrap(Subnets, "describe_subnets")
def _describe_subnets(original: Any, response: Any) -> ActionResult:
    """moto: one page always. EC2 API reference: `MaxResults` 5 to 1000."""
    found = original(response).result["Subnets"]
    found, following = page(response, found, 1000, "SubnetIds")
    return ActionResult({"Subnets": found, "NextToken": following})
