"""The world's own tests: each fact of AWS that it claims to enforce, it enforces."""

import http.client
import ipaddress
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from botocore.exceptions import ClientError
from cryptography import x509

from tests.world import World
from tests.world.authority import write_certificate
from tests.world.scene import HOOK, ZONES, Scene, two_zone_vpc
from tests.world.weather import (
    Body,
    Edit,
    Effect,
    ErrorReply,
    Hang,
    Latency,
    Replace,
    Reset,
    ResetAfter,
    Rule,
    ShortBody,
    Throttle,
    Truncate,
    field,
    twice,
)

A, B = ZONES
CLIENT = "AKIACLIENT0000000000"
DEFAULT = "0.0.0.0/0"
META = "/latest/meta-data"


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    """The session's world, without the checks that runs of the binary are held to: requests as
    the binary must never send them are what is tested here."""
    _world.reset()
    yield _world
    # Whatever still hangs would otherwise hold a connection into the next test.
    _world.calm()


@pytest.fixture
def scene(world: World) -> Scene:
    return two_zone_vpc(world)


def code_of(call, **params) -> str:
    """The AWS error code that a call ends in."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


def raw(world: World, service: str, signed: bool = True, **params: str) -> tuple[int, str]:
    """A request as no SDK would send it."""
    version = {"ec2": "2016-11-15", "autoscaling": "2011-01-01"}[service]
    scope = f"Credential={CLIENT}/20260101/us-east-1/{service}/aws4_request"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if signed:
        headers["Authorization"] = f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"
    connection = http.client.HTTPConnection(urlsplit(world.url).netloc, timeout=5)
    connection.request("POST", "/", urlencode({"Version": version, **params}), headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def aim(world: World, table: str, **target: str) -> None:
    world.ec2.create_route(RouteTableId=table, DestinationCidrBlock=DEFAULT, **target)


# --- Routes ---------------------------------------------------------------------------------------


def test_route_shows_instance_and_interface(scene: Scene) -> None:
    nat, ec2 = scene.nats[A], scene.world.ec2
    interface = scene.interface(nat)
    by_interface, by_instance = scene.add_tables(2)
    aim(scene.world, by_interface, NetworkInterfaceId=interface)
    aim(scene.world, by_instance, InstanceId=nat)
    for table in (by_interface, by_instance):
        answer = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]
        route = next(r for r in answer["Routes"] if r["DestinationCidrBlock"] == DEFAULT)
        assert route["InstanceId"] == nat
        assert route["NetworkInterfaceId"] == interface
        assert route["InstanceOwnerId"] == "123456789012"
        assert route["State"] == "active"


def test_blackhole_when_the_target_goes(scene: Scene) -> None:
    ec2 = scene.world.ec2
    state = {}
    stopped, terminated = (scene.launch_instance(scene.public_subnets[A]) for _ in range(2))
    extra = scene.attach_interface(scene.nats[B], scene.public_subnets[B])
    gateway = scene.nat_gateway()
    targets = {
        "stopped": {"NetworkInterfaceId": scene.interface(stopped)},
        "terminated": {"NetworkInterfaceId": scene.interface(terminated)},
        "detached": {"NetworkInterfaceId": extra},
        "nat gateway": {"NatGatewayId": gateway},
        "kept": {"NetworkInterfaceId": scene.interface(scene.nats[A])},
    }
    tables = dict(zip(targets, scene.add_tables(len(targets)), strict=True))
    for name, target in targets.items():
        aim(scene.world, tables[name], **target)
        assert scene.world.default_route(tables[name]).state == "active"
    ec2.stop_instances(InstanceIds=[stopped])
    ec2.terminate_instances(InstanceIds=[terminated])
    answer = ec2.describe_network_interfaces(NetworkInterfaceIds=[extra])
    ec2.detach_network_interface(
        AttachmentId=answer["NetworkInterfaces"][0]["Attachment"]["AttachmentId"]
    )
    ec2.delete_nat_gateway(NatGatewayId=gateway)
    state = {name: scene.world.default_route(table).state for name, table in tables.items()}
    assert state == {name: "active" if name == "kept" else "blackhole" for name in targets}
    gone = targets["terminated"]["NetworkInterfaceId"]
    assert scene.world.default_route(tables["terminated"]).target == gone
    assert (
        code_of(ec2.describe_network_interfaces, NetworkInterfaceIds=[gone])
        == "InvalidNetworkInterfaceID.NotFound"
    )
    ec2.start_instances(InstanceIds=[stopped])
    assert scene.world.default_route(tables["stopped"]).state == "active"


def test_route_errors(scene: Scene) -> None:
    ec2, interface = scene.world.ec2, scene.interface(scene.nats[A])
    [table] = scene.add_tables(1)
    to = {"RouteTableId": table, "DestinationCidrBlock": DEFAULT, "NetworkInterfaceId": interface}
    with pytest.raises(ClientError, match=r"There is no route defined for '0\.0\.0\.0/0'"):
        ec2.replace_route(**to)
    assert code_of(ec2.replace_route, **to) == "InvalidParameterValue"
    ec2.create_route(**to)
    assert code_of(ec2.create_route, **to) == "RouteAlreadyExists"
    unknown = to | {"NetworkInterfaceId": "eni-0123456789abcdef0"}
    assert code_of(ec2.replace_route, **unknown) == "InvalidNetworkInterfaceID.NotFound"
    # The refused change has changed nothing.
    assert scene.world.default_route(table).interface == interface
    no_table = to | {"RouteTableId": "rtb-0123456789abcdef0"}
    assert code_of(ec2.replace_route, **no_table) == "InvalidRouteTableID.NotFound"
    no_target = {"RouteTableId": table, "DestinationCidrBlock": DEFAULT}
    assert code_of(ec2.replace_route, **no_target) == "MissingParameter"
    assert code_of(ec2.replace_route, DryRun=True, **to) == "DryRunOperation"
    other = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    [foreign] = scene.add_tables(1, vpc=other)
    assert code_of(ec2.create_route, **to | {"RouteTableId": foreign}) == "InvalidParameterValue"
    scene.attach_interface(scene.nats[A], scene.public_subnets[A])
    by_instance = no_target | {"InstanceId": scene.nats[A]}
    assert code_of(ec2.replace_route, **by_instance) == "InvalidInstanceID"


def test_pages(scene: Scene) -> None:
    ec2 = scene.world.ec2
    scene.add_tables(12)
    mine = [{"Name": "vpc-id", "Values": [scene.vpc]}]
    everything = ec2.describe_route_tables(Filters=mine)
    assert "NextToken" not in everything
    whole = [table["RouteTableId"] for table in everything["RouteTables"]]
    first = ec2.describe_route_tables(Filters=mine, MaxResults=7)
    assert len(first["RouteTables"]) == 7
    pages = ec2.get_paginator("describe_route_tables").paginate(
        Filters=mine, PaginationConfig={"PageSize": 7}
    )
    assert [table["RouteTableId"] for page in pages for table in page["RouteTables"]] == whole
    for size in ("4", "101"):
        answer = raw(scene.world, "ec2", Action="DescribeRouteTables", MaxResults=size)
        assert "<Code>InvalidParameterValue</Code>" in answer[1]
    both = {"RouteTableIds": whole[:1], "MaxResults": 5}
    assert code_of(ec2.describe_route_tables, **both) == "InvalidParameterCombination"
    assert code_of(ec2.describe_route_tables, NextToken="?", MaxResults=5) == "InvalidNextToken"


def test_filters(scene: Scene) -> None:
    [anyone] = scene.add_tables(1)

    def found(name: str, *values: str) -> set[str]:
        answer = scene.world.ec2.describe_route_tables(
            Filters=[
                {"Name": "vpc-id", "Values": [scene.vpc]},
                {"Name": name, "Values": list(values)},
            ]
        )
        return {table["RouteTableId"] for table in answer["RouteTables"]}

    own = scene.private_tables
    assert found("tag:NATAZ", "any", A) == {anyone, own[A]}
    assert found("tag-key", "NATAZ") == {anyone, own[A], own[B]}
    assert found("association.subnet-id", scene.private_subnets[A]) == {own[A]}
    # One of the public table's two subnets, and another table's.
    wanted = (scene.public_subnets[A], scene.private_subnets[B])
    assert found("association.subnet-id", *wanted) == {scene.public_table, own[B]}
    assert found("route-table-id", own[B]) == {own[B]}
    main = found("association.main", "true")
    assert len(main) == 1
    assert not main & {anyone, scene.public_table, *own.values()}
    with pytest.raises(ClientError, match="filter 'nonsense' is invalid"):
        found("nonsense", "x")


def test_stale_reads(scene: Scene) -> None:
    reader = scene.world.client("ec2", CLIENT)
    table, interface = scene.private_tables[A], scene.interface(scene.nats[A])

    def shown() -> bool:
        answer = reader.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]
        return DEFAULT in [route["DestinationCidrBlock"] for route in answer["Routes"]]

    scene.world.stale_reads(reads=2)
    aim(scene.world, table, NetworkInterfaceId=interface)
    assert scene.world.default_route(table).interface == interface
    assert [shown() for _ in range(3)] == [False, False, True]

    scene.world.stale_reads(seconds=30)
    scene.world.ec2.delete_route(RouteTableId=table, DestinationCidrBlock=DEFAULT)
    assert shown()
    truth = scene.world.ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]
    assert DEFAULT not in [route["DestinationCidrBlock"] for route in truth["Routes"]]
    scene.world.clock.advance(31)
    assert not shown()

    scene.world.stale_reads(reads=1, interfaces=True)
    reader.modify_network_interface_attribute(
        NetworkInterfaceId=interface, SourceDestCheck={"Value": False}
    )
    ask = {"NetworkInterfaceIds": [interface]}
    checks = [
        reader.describe_network_interfaces(**ask)["NetworkInterfaces"][0]["SourceDestCheck"]
        for _ in range(2)
    ]
    assert checks == [True, False]


def test_macs_and_addresses_are_unique(scene: Scene) -> None:
    for _ in range(5):
        scene.attach_interface(
            scene.launch_instance(scene.public_subnets[A]), scene.public_subnets[A]
        )
    answer = scene.world.ec2.describe_network_interfaces()["NetworkInterfaces"]
    interfaces = [found for found in answer if found["VpcId"] == scene.vpc]
    assert len(interfaces) == 12
    assert len({interface["MacAddress"] for interface in interfaces}) == 12
    assert len({interface["PrivateIpAddress"] for interface in interfaces}) == 12
    assert "10.0.0.1" not in {interface["PrivateIpAddress"] for interface in interfaces}


# --- Requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "params", "code"),
    [
        ("ec2", {"Action": "DescribeRouteTables", "Filter.1.Value.1": "x"}, None),
        ("ec2", {"Action": "DescribeRouteTables", "Filters.1.Name": "x"}, "UnknownParameter"),
        ("ec2", {"Action": "DescribeRouteTables", "RouteTableId.x": "y"}, "UnknownParameter"),
        ("ec2", {"Action": "DescribeRouteTables", "MaxResults": "5.0"}, "InvalidParameterValue"),
        ("ec2", {"Action": "ReplaceRoute", "DestinationCidrBlock": "x"}, "MissingParameter"),
        ("ec2", {"Action": "ReplaceRoot"}, "InvalidAction"),
        ("ec2", {"Action": "DescribeRouteTables", "Version": "2012-01-01"}, "InvalidAction"),
        ("autoscaling", {"Action": "DescribeAutoScalingInstances"}, None),
        (
            "autoscaling",
            {"Action": "DescribeAutoScalingInstances", "InstanceIds.1": "i-0"},
            "UnknownParameter",
        ),
        ("autoscaling", {"Action": "CompleteLifecycleAction"}, "MissingParameter"),
    ],
)
def test_requests_are_checked_against_the_model(world, service, params, code) -> None:
    status, body = raw(world, service, **params)
    if code is None:
        # What the model allows is answered, or refused for another reason than its shape.
        assert "UnknownParameter" not in body
        assert "MissingParameter" not in body
        return
    assert status == 400
    root = "<Response><Errors><Error>" if service == "ec2" else "<ErrorResponse "
    assert root in body
    assert f"<Code>{code}</Code>" in body
    assert [call.error for call in world.calls()] == [code]


def test_unsigned_requests_are_refused(world: World) -> None:
    assert raw(world, "ec2", signed=False, Action="DescribeVpcs")[0] == 401
    assert raw(world, "autoscaling", signed=False, Action="DescribeAutoScalingGroups")[0] == 403


def test_calls_are_recorded_but_not_the_testers(world: World) -> None:
    world.ec2.describe_vpcs()
    assert world.calls() == []
    client = world.client("ec2", CLIENT)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(world.wait_for, "DescribeVpcs", 2, 5)
        client.describe_vpcs(VpcIds=[])
        assert code_of(client.describe_vpcs, VpcIds=["vpc-0"]) == "InvalidVpcID.NotFound"
        assert len(waiting.result()) == 2
    good, bad = world.calls("DescribeVpcs")
    assert (good.service, good.status, good.error, good.source) == ("ec2", 200, None, CLIENT)
    assert (bad.status, bad.error) == (400, "InvalidVpcID.NotFound")
    assert bad.params["VpcId.1"] == "vpc-0"
    assert bad.at >= good.at
    assert good.took > 0
    with pytest.raises(TimeoutError):
        world.wait_for("DescribeVpcs", 3, timeout=0.01)


@pytest.mark.parametrize(
    ("action", "capacity", "refill"),
    [
        ("describe_vpcs", 100, 20),
        ("replace_route", 50, 5),
        ("modify_network_interface_attribute", 100, 5),
    ],
)
def test_buckets(world: World, action: str, capacity: int, refill: int) -> None:
    client = world.client("ec2", CLIENT)
    params = {
        "replace_route": {"RouteTableId": "rtb-0", "DestinationCidrBlock": DEFAULT},
        "modify_network_interface_attribute": {"NetworkInterfaceId": "eni-0"},
    }.get(action, {})

    def throttled(n: int) -> int:
        codes = []
        for _ in range(n):
            try:
                getattr(client, action)(**params)
            except ClientError as error:
                codes.append(error.response["Error"]["Code"])
        return codes.count("RequestLimitExceeded")

    world.clock.freeze()
    assert throttled(capacity + 3) == 3
    call = world.calls()[-1]
    assert (call.status, call.error) == (503, "RequestLimitExceeded")
    world.clock.advance(2)
    assert throttled(2 * refill + 1) == 1
    world.reset()
    world.clock.freeze()
    assert throttled(capacity) == 0


def test_a_frozen_clock_is_exact(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Since a machine's start; with this one, a day later was once a rounding error short of a day.
    monkeypatch.setattr("tests.world.clock.time.monotonic", lambda: 76377.461898)
    world.clock.freeze()
    began = world.clock.now()
    world.clock.advance(86399)
    world.clock.advance(1)
    assert world.clock.now() - began == 86400


def test_autoscaling_throttles_in_its_own_words(world: World) -> None:
    world.bucket("DescribeAutoScalingInstances", 1, 0)
    client = world.client("autoscaling", CLIENT)
    client.describe_auto_scaling_instances()
    assert code_of(client.describe_auto_scaling_instances) == "Throttling"
    assert world.calls()[-1].status == 400
    world.autoscaling.describe_auto_scaling_instances()


def test_denials(scene: Scene) -> None:
    world = scene.world
    world.deny("ReplaceRoute")
    world.deny("CompleteLifecycleAction", times=1)
    route = {"RouteTableId": scene.private_tables[A], "DestinationCidrBlock": DEFAULT}
    client = world.client("ec2", CLIENT)
    for _ in range(2):
        assert code_of(client.replace_route, **route) == "UnauthorizedOperation"
    action = {
        "AutoScalingGroupName": scene.groups[A],
        "LifecycleHookName": HOOK,
        "LifecycleActionResult": "CONTINUE",
        "InstanceId": scene.nats[A],
    }
    client = world.client("autoscaling", CLIENT)
    assert code_of(client.complete_lifecycle_action, **action) == "AccessDenied"
    client.complete_lifecycle_action(**action)
    assert [call.status for call in world.calls()] == [403, 403, 403, 200]


# --- Weather --------------------------------------------------------------------------------------


def test_errors_by_rule(world: World) -> None:
    client = world.client("ec2", CLIENT)
    world.weather("DescribeV*", Throttle(), skip=1, times=2, match={"VpcId.1": "vpc-*"})
    world.weather(Rule("DescribeVpcs", ErrorReply(500, "InternalError", "a < b"), times=1))
    codes = []
    for _ in range(4):
        with pytest.raises(ClientError) as caught:
            client.describe_vpcs(VpcIds=["vpc-0"])
        codes.append(caught.value.response["Error"]["Code"])
    missing, limit = "InvalidVpcID.NotFound", "RequestLimitExceeded"
    # The first matches the throttling rule but is skipped, so the second rule takes it.
    assert codes == ["InternalError", limit, limit, missing]
    assert [call.status for call in world.calls()] == [500, 503, 503, 400]
    world.weather("*", ErrorReply(500, "ResourceContention"), service="autoscaling")
    status, body = raw(world, "autoscaling", Action="DescribeAutoScalingGroups")
    assert status == 500
    assert "<Type>Receiver</Type><Code>ResourceContention</Code>" in body
    world.weather("DescribeVpcs", Replace("not xml", 200))
    assert raw(world, "ec2", Action="DescribeVpcs") == (200, "not xml")


def test_latencies_add_up_and_overlap(world: World) -> None:
    world.weather("*", Latency(0.1))
    world.weather("DescribeVpcs", Latency(0.1))
    client = world.client("ec2", CLIENT)
    start = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: client.describe_vpcs(), range(10)))
    assert 0.2 <= time.monotonic() - start < 1
    assert all(call.took >= 0.2 for call in world.calls())


@pytest.mark.parametrize(
    ("effect", "happened"),
    [(Reset(), False), (ResetAfter(), True), (Hang(0.05), False), (Truncate(), True)],
)
def test_broken_answers(scene: Scene, effect: Effect, happened: bool) -> None:
    world, table = scene.world, scene.private_tables[A]
    world.weather("CreateRoute", effect, times=1)
    params = {
        "Action": "CreateRoute",
        "RouteTableId": table,
        "DestinationCidrBlock": DEFAULT,
        "NetworkInterfaceId": scene.interface(scene.nats[A]),
    }
    if isinstance(effect, Truncate):
        status, body = raw(world, "ec2", **params)
        assert status == 200
        assert "CreateRouteResponse" in body
        assert not body.endswith("</CreateRouteResponse>")
    else:
        with pytest.raises(ConnectionResetError) as caught:
            raw(world, "ec2", **params)
        # Its subclass RemoteDisconnected would be a FIN.
        assert caught.type is ConnectionResetError
        assert world.calls("CreateRoute")[0].status == 0
    assert (world.default_route(table) is not None) == happened


def test_an_error_after_the_change(scene: Scene) -> None:
    world, table = scene.world, scene.private_tables[A]
    world.weather("CreateRoute", ErrorReply(500, "InternalError"), after=True)
    route = {"RouteTableId": table, "DestinationCidrBlock": DEFAULT}
    client = world.client("ec2", CLIENT)
    assert code_of(client.create_route, GatewayId=scene.internet_gateway, **route) == (
        "InternalError"
    )
    assert world.default_route(table).target == scene.internet_gateway


def test_short_body(world: World) -> None:
    world.weather("DescribeVpcs", ShortBody())
    with pytest.raises(http.client.IncompleteRead):
        raw(world, "ec2", Action="DescribeVpcs")


def test_items_of_an_answer_can_be_edited(scene: Scene) -> None:
    world, zone = scene.world, ZONES[0]
    client = world.client("ec2", CLIENT)
    one, two, three = scene.add_tables(3)

    def shown() -> list[tuple[str, str | None]]:
        tables = client.describe_route_tables(Filters=[{"Name": "tag:NATAZ", "Values": ["any"]}])
        return [(table["RouteTableId"], table.get("VpcId")) for table in tables["RouteTables"]]

    before = shown()
    for change, expected in (
        (field("vpcId", None), (two, None)),
        (field("vpcId", "odd"), (two, "odd")),
    ):
        world.weather("DescribeRouteTables", Edit(two, change), times=1)
        assert shown() == [before[0], expected, before[2]]
    world.weather("DescribeRouteTables", Edit(two, twice), times=1)
    assert [table for table, _ in shown()] == [one, two, two, three]
    world.weather("DescribeRouteTables", Edit(two, lambda _: []), times=1)
    assert [table for table, _ in shown()] == [one, three]
    groups = world.client("autoscaling", CLIENT)
    nat = scene.launch_group(zone)
    world.weather("*", Edit(nat, field("LifecycleState", None)))
    answer = groups.describe_auto_scaling_instances(InstanceIds=[nat])
    [member] = answer["AutoScalingInstances"]
    assert "LifecycleState" not in member
    assert shown() == before


def test_a_hang_ends_with_the_weather(world: World) -> None:
    world.weather("DescribeVpcs", Hang())
    threading.Timer(0.2, world.calm).start()
    start = time.monotonic()
    with pytest.raises(ConnectionResetError):
        raw(world, "ec2", Action="DescribeVpcs")
    assert 0.1 < time.monotonic() - start < 2
    raw(world, "ec2", Action="DescribeVpcs")


# --- Auto Scaling ---------------------------------------------------------------------------------


def complete(scene: Scene, zone: str, instance: str, result: str = "CONTINUE", hook: str = HOOK):
    return scene.world.autoscaling.complete_lifecycle_action(
        AutoScalingGroupName=scene.groups[zone],
        LifecycleHookName=hook,
        LifecycleActionResult=result,
        InstanceId=instance,
    )


def test_launching_hook_continue(scene: Scene) -> None:
    world, nat = scene.world, scene.nats[A]
    listed = world.autoscaling.describe_auto_scaling_instances(InstanceIds=[nat, "i-0"])
    [member] = listed["AutoScalingInstances"]
    assert (member["LifecycleState"], member["AutoScalingGroupName"]) == (
        "Pending:Wait",
        scene.groups[A],
    )
    world.autoscaling.put_lifecycle_hook(
        AutoScalingGroupName=scene.groups[A],
        LifecycleHookName="second",
        LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING",
    )
    # The group's first instance launched before this hook was there, so it does not wait for it.
    with pytest.raises(ClientError, match=f"No active Lifecycle Action found .* {nat}"):
        complete(scene, A, nat, hook="second")
    world.set_lifecycle_state(nat, "Pending:Wait")
    complete(scene, A, nat)
    assert world.lifecycle(nat) == "Pending:Wait"
    complete(scene, A, nat, hook="second")
    assert world.lifecycle(nat) == "InService"
    assert world.completions == [(nat, HOOK, "CONTINUE"), (nat, "second", "CONTINUE")]
    with pytest.raises(ClientError, match=f"No active Lifecycle Action found .* {nat}"):
        complete(scene, A, nat)


def test_launching_hook_abandon_replaces(scene: Scene) -> None:
    world, nat = scene.world, scene.nats[A]
    complete(scene, A, nat, "ABANDON")
    [replacement] = scene.members(A)
    assert replacement != nat
    assert world.lifecycle(nat) == "Terminated"
    assert world.lifecycle(replacement) == "Pending:Wait"
    answer = world.ec2.describe_instances(InstanceIds=[nat])
    assert answer["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"


def test_completion_errors(scene: Scene) -> None:
    good = {
        "AutoScalingGroupName": scene.groups[A],
        "LifecycleHookName": HOOK,
        "LifecycleActionResult": "CONTINUE",
        "InstanceId": scene.nats[A],
    }
    for wrong in (
        {"AutoScalingGroupName": "nobody"},
        {"AutoScalingGroupName": scene.groups[B]},
        {"LifecycleActionResult": "PERHAPS"},
        {"LifecycleHookName": "nothing"},
        {"InstanceId": "i-0123456789abcdef0"},
    ):
        act = scene.world.autoscaling.complete_lifecycle_action
        assert code_of(act, **good | wrong) == "ValidationError"
    assert scene.world.lifecycle(scene.nats[A]) == "Pending:Wait"


def test_hook_times_out_into_its_default(scene: Scene) -> None:
    world = scene.world
    group = {"AutoScalingGroupName": scene.groups[A], "LifecycleHookName": HOOK}
    world.clock.advance(200)
    world.autoscaling.record_lifecycle_action_heartbeat(InstanceId=scene.nats[A], **group)
    world.clock.advance(200)
    # 400 s: beyond the timeout of 300 s, within the heartbeat's.
    assert world.lifecycle(scene.nats[A]) == "Pending:Wait"
    assert world.lifecycle(scene.nats[B]) == "Terminated"
    world.clock.advance(101)
    assert world.lifecycle(scene.nats[A]) == "Terminated"
    assert (scene.nats[A], HOOK, "ABANDON") in world.timeouts
    assert world.completions == []
    patient = scene.launch_group(A, default_result="CONTINUE")
    world.clock.advance(301)
    listed = world.autoscaling.describe_auto_scaling_instances(InstanceIds=[patient])
    assert listed["AutoScalingInstances"][0]["LifecycleState"] == "InService"


@pytest.mark.parametrize("during", [True, False])
def test_terminating_hook(world: World, during: bool) -> None:
    scene = two_zone_vpc(world, nats_in_group=False)
    world.replace_while_terminating(during)
    nat = scene.launch_group(A, hook=False, terminating_hook=True)
    assert world.lifecycle(nat) == "InService"
    world.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=nat, ShouldDecrementDesiredCapacity=False
    )
    assert world.lifecycle(nat) == "Terminating:Wait"
    answer = world.ec2.describe_instances(InstanceIds=[nat])
    assert answer["Reservations"][0]["Instances"][0]["State"]["Name"] == "running"
    assert len(scene.members(A)) == (2 if during else 1)
    complete(scene, A, nat, hook="hanat-terminating")
    assert world.lifecycle(nat) == "Terminated"
    assert [world.lifecycle(member) for member in scene.members(A)] == ["InService"]


def test_scaling_in_goes_through_the_hook(world: World) -> None:
    scene = two_zone_vpc(world, nats_in_group=False)
    world.replace_while_terminating(False)
    nat = scene.launch_group(A, hook=False, terminating_hook=True)
    world.autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=scene.groups[A], MinSize=0, DesiredCapacity=0
    )
    assert world.lifecycle(nat) == "Terminating:Wait"
    complete(scene, A, nat, hook="hanat-terminating")
    assert scene.members(A) == []


def test_termination_by_ec2_is_replaced(scene: Scene) -> None:
    scene.world.ec2.terminate_instances(InstanceIds=[scene.nats[A]])
    [replacement] = scene.members(A)
    assert replacement != scene.nats[A]
    assert scene.world.lifecycle(replacement) == "Pending:Wait"


def test_unhealthy_is_replaced(scene: Scene) -> None:
    scene.world.autoscaling.set_instance_health(
        InstanceId=scene.nats[A], HealthStatus="Unhealthy", ShouldRespectGracePeriod=False
    )
    assert scene.nats[A] not in scene.members(A)
    assert len(scene.members(A)) == 1


def test_warm_pool(scene: Scene) -> None:
    world, nat = scene.world, scene.nats[A]
    world.set_lifecycle_state(nat, "Warmed:Pending:Wait")
    assert imds_get(world, nat, "autoscaling/target-lifecycle-state") == (200, "Warmed:Stopped")
    complete(scene, A, nat)
    assert world.lifecycle(nat) == "Warmed:Stopped"
    with pytest.raises(ValueError, match="needs a hook"):
        world.set_lifecycle_state(nat, "Terminating:Wait")


def test_hooks_from_a_template(world: World) -> None:
    scene = two_zone_vpc(world, nats_in_group=False)
    hook = {
        "LifecycleHookName": "from-template",
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
        "HeartbeatTimeout": 60,
    }
    scene.group_by_template(A, LifecycleHookSpecificationList=[hook])
    [member] = world.autoscaling.describe_auto_scaling_instances()["AutoScalingInstances"]
    assert member["LifecycleState"] == "Pending:Wait"
    assert world.faults == []


# --- IMDS -----------------------------------------------------------------------------------------


def imds(
    world: World,
    instance: str,
    method: str,
    path: str,
    **headers: str,
) -> tuple[int, str]:
    address = urlsplit(world.imds(instance).url).netloc
    connection = http.client.HTTPConnection(address, timeout=5)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=names)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def imds_token(world: World, instance: str, ttl: str = "60") -> str:
    status, token = imds(
        world,
        instance,
        "PUT",
        "/latest/api/token",
        X_aws_ec2_metadata_token_ttl_seconds=ttl,
    )
    assert status == 200
    return token


def imds_get(world: World, instance: str, path: str) -> tuple[int, str]:
    token = imds_token(world, instance)
    return imds(world, instance, "GET", f"{META}/{path}", X_aws_ec2_metadata_token=token)


def test_imds_is_strict(scene: Scene) -> None:
    world, nat = scene.world, scene.nats[A]
    path = f"{META}/instance-id"
    assert imds(world, nat, "GET", path)[0] == 401
    assert imds(world, nat, "GET", path, X_aws_ec2_metadata_token="made-up")[0] == 401
    for ttl in ("0", "21601", "x", ""):
        headers = {"X_aws_ec2_metadata_token_ttl_seconds": ttl}
        assert imds(world, nat, "PUT", "/latest/api/token", **headers)[0] == 400
    assert imds(world, nat, "PUT", "/latest/api/token")[0] == 400
    headers = {"X_aws_ec2_metadata_token_ttl_seconds": "60", "X_Forwarded_For": "10.0.0.9"}
    assert imds(world, nat, "PUT", "/latest/api/token", **headers)[0] == 403
    token = imds_token(world, nat)
    with_token = {"X_aws_ec2_metadata_token": token}
    assert imds(world, nat, "GET", path, **with_token) == (200, nat)
    world.clock.advance(61)
    assert imds(world, nat, "GET", path, **with_token)[0] == 401
    with_token = {"X_aws_ec2_metadata_token": imds_token(world, nat)}
    world.imds(nat).expire_tokens()
    assert imds(world, nat, "GET", path, **with_token)[0] == 401
    last = world.imds_calls(nat)[-1]
    assert (last.method, last.path, last.status, last.had_token) == ("GET", path, 401, True)


def test_imds_modes(scene: Scene) -> None:
    world, nat = scene.world, scene.nats[A]
    world.imds(nat).mode = "off"
    headers = {"X_aws_ec2_metadata_token_ttl_seconds": "60"}
    assert imds(world, nat, "PUT", "/latest/api/token", **headers)[0] == 403
    assert imds(world, nat, "GET", f"{META}/instance-id")[0] == 403
    world.imds(nat).mode = "v1_only"
    assert imds(world, nat, "PUT", "/latest/api/token", **headers)[0] == 404
    assert imds(world, nat, "GET", f"{META}/instance-id") == (200, nat)


def test_imds_knows_its_instance(scene: Scene) -> None:
    world, nat = scene.world, scene.nats[A]
    second = scene.attach_interface(nat, scene.public_subnets[A])
    world.ec2.associate_vpc_cidr_block(VpcId=scene.vpc, CidrBlock="10.1.0.0/16")
    answer = world.ec2.describe_network_interfaces(
        NetworkInterfaceIds=[scene.interface(nat), second]
    )
    found = {item["NetworkInterfaceId"]: item for item in answer["NetworkInterfaces"]}
    first = found[scene.interface(nat)]

    def get(path: str) -> str | None:
        status, text = imds_get(world, nat, path)
        return text if status == 200 else None

    assert get("mac") == first["MacAddress"]
    assert get("local-ipv4") == first["PrivateIpAddress"]
    assert get("placement/region") == "us-east-1"
    assert get("placement/availability-zone") == A
    macs = get("network/interfaces/macs/").split("\n")
    assert set(macs) == {f"{item['MacAddress']}/" for item in found.values()}
    for interface_id, item in found.items():
        about = f"network/interfaces/macs/{item['MacAddress']}"
        assert get(f"{about}/interface-id") == interface_id
        assert get(f"{about}/subnet-id") == scene.public_subnets[A]
        assert get(f"{about}/vpc-id") == scene.vpc
        assert get(f"{about}/vpc-ipv4-cidr-blocks") == "10.0.0.0/16\n10.1.0.0/16"
        assert get(f"{about}/local-ipv4s") == item["PrivateIpAddress"]
        assert get(f"{about}/device-number") == str(item["Attachment"]["DeviceIndex"])
    assert "placement/" in get("").split("\n")
    missing = ("spot/instance-action", "events/recommendations/rebalance", "x", "mac/")
    assert [get(path) for path in missing] == [None] * 4


def test_imds_target_lifecycle_state(world: World) -> None:
    scene = two_zone_vpc(world, nats_in_group=False)
    path = "autoscaling/target-lifecycle-state"
    assert imds_get(world, scene.launch_instance(scene.public_subnets[A]), path)[0] == 404
    nat = scene.launch_group(A, terminating_hook=True)
    assert imds_get(world, nat, path) == (200, "InService")
    complete(scene, A, nat)
    assert imds_get(world, nat, path) == (200, "InService")
    world.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=nat, ShouldDecrementDesiredCapacity=False
    )
    assert imds_get(world, nat, path) == (200, "Terminated")


def test_imds_credentials(scene: Scene) -> None:
    world, nat = scene.world, scene.nats[A]
    folder = "iam/security-credentials/"
    assert imds_get(world, nat, folder) == (200, "hanat-nat")
    world.imds(nat).credentials_seconds = -60
    credentials = json.loads(imds_get(world, nat, f"{folder}hanat-nat")[1])
    assert credentials["Code"] == "Success"
    assert credentials["AccessKeyId"] == world.source(nat)
    assert credentials["Expiration"] < credentials["LastUpdated"]
    world.imds(nat).role = None
    assert imds_get(world, nat, folder)[0] == 404


def test_imds_weather(scene: Scene) -> None:
    world, nat = scene.world, scene.nats[A]
    about = {"service": "imds", "path": "*/instance-id", "method": "GET"}
    world.weather(None, Body("busy", 503), times=2, **about)
    world.weather(None, Body("", 200), times=1, **about)
    answers = [imds_get(world, nat, "instance-id") for _ in range(4)]
    assert answers == [(503, "busy"), (503, "busy"), (200, ""), (200, nat)]
    world.weather(None, Reset(), service="imds", path="/latest/api/token", instance_id=nat)
    with pytest.raises(ConnectionResetError):
        imds_token(world, nat)
    imds_token(world, scene.nats[B])


# --- The rest -------------------------------------------------------------------------------------


def test_probe(world: World) -> None:
    address = urlsplit(world.probe_url).netloc

    def probe() -> int:
        connection = http.client.HTTPConnection(address, timeout=0.2)
        connection.request("GET", "/")
        return connection.getresponse().status

    assert probe() == 200
    world.probe.mode = "503"
    assert probe() == 503
    world.probe.mode = "hang"
    with pytest.raises(TimeoutError):
        probe()
    world.probe.mode = "closed"
    with pytest.raises(ConnectionRefusedError):
        probe()
    world.reset()
    assert probe() == 200


def test_reset_forgets_everything(scene: Scene) -> None:
    world = scene.world
    address = urlsplit(world.imds(scene.nats[A]).url)
    world.weather("*", Throttle())
    world.deny("DescribeVpcs")
    world.clock.advance(1000)
    assert code_of(world.client("ec2", CLIENT).describe_vpcs) == "RequestLimitExceeded"
    world.reset()
    assert abs(world.clock.now() - time.monotonic()) < 1
    assert world.calls() == world.rules == world.completions == []
    world.client("ec2", CLIENT).describe_vpcs()
    assert code_of(world.ec2.describe_vpcs, VpcIds=[scene.vpc]) == "InvalidVpcID.NotFound"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port), timeout=1)


def test_overhead(scene: Scene) -> None:
    """The world must be fast next to the 50 ms that benches add to each call. The bound is ten
    times what was measured, for slow machines; the fastest counts, for busy ones."""
    client = scene.world.client("ec2", CLIENT)
    for _ in range(30):
        client.describe_route_tables(Filters=[{"Name": "tag-key", "Values": ["NATAZ"]}])
    assert min(call.took for call in scene.world.calls()) < 0.02


def test_tls(world: World, tmp_path: Path) -> None:
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate, key = write_certificate(tmp_path, names)
    url = world.listen(tls=(str(certificate), str(key)))
    trust = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection(urlsplit(url).netloc, context=trust, timeout=5)
    connection.request("GET", "/?Action=DescribeVpcs&Version=2016-11-15")
    assert connection.getresponse().status == 401


def test_sockets_from_elsewhere(scene: Scene) -> None:
    """A server takes bound sockets, too."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    url = scene.world.imds(scene.nats[A], sock=bound).url
    assert url == f"http://127.0.0.1:{bound.getsockname()[1]}"
    assert imds_get(scene.world, scene.nats[A], "instance-id") == (200, scene.nats[A])


def test_command_line(isolated: None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.world", "--latency-ms", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        lines = [process.stdout.readline() for _ in range(7)]
        exports = dict(re.fullmatch(r"export (\w+)=(\S+)\n", line).groups() for line in lines[:6])
        assert "Pending:Wait" in lines[6]
        url = urlsplit(exports["AWS_ENDPOINT_URL"])
        socket.create_connection((url.hostname, url.port), timeout=1).close()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert errors == ""
