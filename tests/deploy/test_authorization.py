"""What the templates' role allows its NATs: what the binary calls, and nothing else."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from botocore.exceptions import ClientError
from cryptography import x509

from tests.nat import Nat, Ran, Running, binary_path
from tests.skipping import program
from tests.stages.kernel import second_interface
from tests.stages.stacks import ALONE, HANAT, alone, third_subnet
from tests.world import World, metadata
from tests.world.authority import write_certificate
from tests.world.authorization import Target, allowed, decide, granted, policies
from tests.world.deploy import deploy
from tests.world.scene import HOOK, ZONES, Scene, two_zone_vpc

A, B = ZONES
BUCKET, KEY = "our-downloads", "releases/hanat-arm64.tar.gz"
EVERYWHERE = "0.0.0.0/0"
NOT_MODIFIED = r"UnauthorizedOperation.*ec2:ModifyNetworkInterfaceAttribute"


@dataclass
class Deployed:
    """A NAT that the template launched, and the APIs as it is allowed to call them."""

    scene: Scene
    instance: str

    def call(self, service: str, action: str, **params: Any) -> Any:
        world = self.scene.world
        return getattr(world.client(service, world.source(self.instance)), action)(**params)

    def take(self, table: str) -> Any:
        interface = self.scene.interface(self.instance)
        return self.call(
            "ec2",
            "create_route",
            RouteTableId=table,
            DestinationCidrBlock=EVERYWHERE,
            NetworkInterfaceId=interface,
        )

    @property
    def role(self) -> str:
        role = metadata.role(self.instance)
        assert role is not None
        return role


@pytest.fixture
def deployed(world: World) -> Deployed:
    world.clock.freeze()
    scene = two_zone_vpc(world, nats_in_group=False)
    network = {
        "VpcId": scene.vpc,
        "PublicSubnetA": scene.public_subnets[A],
        "ClientCidr": "10.0.0.0/16",
        "HanatUrlArm64": f"s3://{BUCKET}/{KEY}",
    }
    stack = deploy(world, ALONE, HANAT | network)
    assert (stack.status, stack.reason) == ("CREATE_COMPLETE", "")
    [instance] = world.lifecycles()
    return Deployed(scene, instance)


# --- The binary -----------------------------------------------------------------------------------


def test_the_binary_may_do_all_it_does_and_nothing_more(isolated, deployed: Deployed) -> None:
    scene, world = deployed.scene, deployed.scene.world
    world.clock.reset()
    nat = Nat(scene, deployed.instance)
    [taken] = scene.add_tables(1, owner="any", default="natgw")
    # With another interface it asks for the subnets, too.
    second_interface(nat.machine, "10.0.2.20/24")
    ran = nat.claim()
    assert ran.code == 0, str(ran)
    assert nat.owns(scene.private_tables[A])
    assert nat.owns(taken)
    assert nat.state == "InService"
    may = granted(policies(deployed.role))
    leave(deployed)
    assert not nat.owns(taken)
    assert [call.error for call in world.calls() if call.error] == []
    called = {f"{call.service}:{call.action}" for call in world.calls()}
    # User data fetches the object, before the binary is there.
    assert may - called == {"s3:GetObject"}
    assert called <= may


def leave(deployed: Deployed) -> None:
    """Its group terminates it; first there is nobody, then somebody gets the routes, and the hook
    is answered."""
    scene, world = deployed.scene, deployed.scene.world
    world.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=deployed.instance, ShouldDecrementDesiredCapacity=False
    )
    nat = Nat(scene, deployed.instance)
    watch = [binary_path(), "watch", "--drain-wait", "0s", "--linger", "0s"]
    with nat.machine.entered():
        process = subprocess.Popen(watch, env=nat.env, stderr=subprocess.PIPE, text=True)
    with Running(process):
        world.wait_for("DescribeAutoScalingGroups")
        peer = scene.interface(scene.launch_instance(scene.public_subnets[B]))
        check = {"NetworkInterfaceId": peer, "SourceDestCheck": {"Value": False}}
        world.ec2.modify_network_interface_attribute(**check)
        scene.nat_gateway(owner="any")
        scene.add_tables(1, owner=B, default=peer)
        answer = (deployed.instance, "hanat-terminating", "CONTINUE")
        world.wait_until(lambda: answer in world.completions, timeout=30)


def test_the_binary_says_what_it_may_not(isolated, deployed: Deployed) -> None:
    scene, world = deployed.scene, deployed.scene.world
    world.clock.reset()
    iam = world.client("iam")
    statement = {"Effect": "Deny", "Action": "ec2:CreateRoute", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    iam.put_role_policy(RoleName=deployed.role, PolicyName="no", PolicyDocument=document)
    ran: Ran = Nat(scene, deployed.instance).claim("--deadline", "4s")
    assert ran.code != 0
    assert "UnauthorizedOperation" in str(ran)
    assert world.default_route(scene.private_tables[A]) is None


# --- Calls ----------------------------------------------------------------------------------------


def test_a_table_with_the_tag(deployed: Deployed) -> None:
    table = deployed.scene.private_tables[B]
    deployed.take(table)
    deployed.call(
        "ec2",
        "replace_route",
        RouteTableId=table,
        DestinationCidrBlock=EVERYWHERE,
        NetworkInterfaceId=deployed.scene.interface(deployed.instance),
    )


def test_a_table_without_the_tag(deployed: Deployed) -> None:
    [table] = deployed.scene.add_tables(1, owner=None)
    with pytest.raises(ClientError, match=r"UnauthorizedOperation.*ec2:CreateRoute"):
        deployed.take(table)
    assert deployed.scene.world.default_route(table) is None
    with pytest.raises(ClientError, match=r"UnauthorizedOperation.*ec2:ReplaceRoute"):
        deployed.call(
            "ec2",
            "replace_route",
            RouteTableId=deployed.scene.public_table,
            DestinationCidrBlock=EVERYWHERE,
            NetworkInterfaceId=deployed.scene.interface(deployed.instance),
        )
    way_out = deployed.scene.world.default_route(deployed.scene.public_table)
    assert way_out is not None
    assert way_out.target == deployed.scene.internet_gateway


def test_another_vpc(deployed: Deployed) -> None:
    scene, ec2 = deployed.scene, deployed.scene.world.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    [table] = scene.add_tables(1, owner="any", vpc=vpc)
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        deployed.take(table)
    assert scene.world.default_route(table) is None


def turn_check_off(deployed: Deployed, interface: str) -> None:
    modify(deployed, interface, SourceDestCheck={"Value": False})


def modify(deployed: Deployed, interface: str, **attribute: Any) -> None:
    action = "modify_network_interface_attribute"
    deployed.call("ec2", action, NetworkInterfaceId=interface, **attribute)


def test_its_own_interface(deployed: Deployed) -> None:
    own = deployed.scene.interface(deployed.instance)
    assert check_of(deployed, own)
    turn_check_off(deployed, own)
    assert not check_of(deployed, own)


def test_an_interface_elsewhere(deployed: Deployed) -> None:
    """One of its VPC, but not in a subnet of the stack's, and one of another VPC."""
    scene, ec2 = deployed.scene, deployed.scene.world.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    other = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    for subnet in (scene.public_subnets[B], scene.private_subnets[A], other):
        answer = ec2.create_network_interface(SubnetId=subnet)
        interface = answer["NetworkInterface"]["NetworkInterfaceId"]
        with pytest.raises(ClientError, match=NOT_MODIFIED):
            turn_check_off(deployed, interface)
        assert check_of(deployed, interface)


@pytest.mark.parametrize(
    "attribute",
    [
        {"Description": {"Value": "ours"}},
        {"Groups": ["sg-0123456789abcdef0"]},
        {"Attachment": {"AttachmentId": "eni-attach-1", "DeleteOnTermination": False}},
    ],
)
def test_another_attribute(deployed: Deployed, attribute: dict[str, Any]) -> None:
    own = deployed.scene.interface(deployed.instance)
    with pytest.raises(ClientError, match=NOT_MODIFIED):
        modify(deployed, own, **attribute)


@pytest.mark.parametrize("zones", [1, 2, 3])
def test_the_interfaces_of_all_zones(network: Scene, zones: int) -> None:
    """A zone that the stack does not have is no hole."""
    subnets = [*network.public_subnets.values(), third_subnet(network)]
    parameters = ("PublicSubnetA", "PublicSubnetB", "PublicSubnetC")
    named = dict(zip(parameters, subnets[:zones], strict=False))
    role = alone(network, **named).outputs["Role"]
    may = []
    for subnet in subnets:
        answer = network.world.ec2.create_network_interface(SubnetId=subnet)
        interface = answer["NetworkInterface"]["NetworkInterfaceId"]
        params = {"NetworkInterfaceId": interface, "SourceDestCheck.Value": "false"}
        may.append(allowed(role, "ec2", "ModifyNetworkInterfaceAttribute", params))
    assert may == [number < zones for number in range(3)]


def test_several_attributes_at_a_time(deployed: Deployed) -> None:
    params = {
        "NetworkInterfaceId": deployed.scene.interface(deployed.instance),
        "SourceDestCheck.Value": "false",
        "Description.Value": "ours",
    }
    with pytest.raises(NotImplementedError, match="at a time"):
        allowed(deployed.role, "ec2", "ModifyNetworkInterfaceAttribute", params)


def check_of(deployed: Deployed, interface: str) -> bool:
    ask = {"NetworkInterfaceIds": [interface]}
    [found] = deployed.scene.world.ec2.describe_network_interfaces(**ask)["NetworkInterfaces"]
    return found["SourceDestCheck"]


def test_another_group(deployed: Deployed) -> None:
    scene = deployed.scene
    other = scene.launch_group(B, name="nat-a-other")

    def complete(group: str, instance: str) -> None:
        deployed.call(
            "autoscaling",
            "complete_lifecycle_action",
            AutoScalingGroupName=group,
            LifecycleHookName=HOOK,
            LifecycleActionResult="CONTINUE",
            InstanceId=instance,
        )

    def beat(group: str, instance: str) -> None:
        deployed.call(
            "autoscaling",
            "record_lifecycle_action_heartbeat",
            AutoScalingGroupName=group,
            LifecycleHookName=HOOK,
            InstanceId=instance,
        )

    refused = r"\(AccessDenied\).*autoscaling:"
    with pytest.raises(ClientError, match=f"{refused}RecordLifecycleActionHeartbeat"):
        beat("nat-a-other", other)
    with pytest.raises(ClientError, match=f"{refused}CompleteLifecycleAction"):
        complete("nat-a-other", other)
    assert scene.world.lifecycle(other) == "Pending:Wait"
    beat("nat-a", deployed.instance)
    complete("nat-a", deployed.instance)
    assert scene.world.lifecycle(deployed.instance) == "InService"


def test_one_without_such_a_role_may_do_everything(deployed: Deployed) -> None:
    scene = deployed.scene
    [table] = scene.add_tables(1, owner=None)
    Deployed(scene, scene.launch_group(B)).take(table)


def test_a_route_to_a_nat_gateway_needs_the_table_alone(deployed: Deployed) -> None:
    table, gateway = deployed.scene.private_tables[B], deployed.scene.nat_gateway()
    to = {"RouteTableId": table, "DestinationCidrBlock": EVERYWHERE, "NatGatewayId": gateway}
    deployed.call("ec2", "create_route", **to)
    deployed.call("ec2", "replace_route", **to)
    assert deployed.scene.world.default_route(table).target == gateway


@pytest.mark.parametrize(
    "action", ["DescribeNatGateways", "DescribeInstanceStatus", "DescribeSubnets"]
)
@pytest.mark.parametrize(("resource", "expected"), [("*", True), ("arn:aws:ec2:*:*:*/*", False)])
def test_descriptions_are_of_everything(
    world: World, action: str, resource: str, expected: bool
) -> None:
    role = role_for(world, f"ec2:{action}", resource)
    assert allowed(role, "ec2", action, {}) is expected


def test_a_heartbeat_is_of_a_group(network: Scene) -> None:
    world, action = network.world, "RecordLifecycleActionHeartbeat"
    network.launch_group(A, name="ours")
    network.launch_group(B, name="theirs")
    role = role_for(world, f"autoscaling:{action}", "arn:aws:autoscaling:*:*:*/ours")
    for group, expected in (("ours", True), ("theirs", False)):
        assert allowed(role, "autoscaling", action, {"AutoScalingGroupName": group}) is expected


def role_for(world: World, action: str, resource: str) -> str:
    """A role that may do this and nothing else."""
    iam, statement = world.client("iam"), {"Effect": "Allow"}
    statement |= {"Action": action, "Resource": resource}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    iam.create_role(RoleName="other", AssumeRolePolicyDocument="{}")
    iam.put_role_policy(RoleName="other", PolicyName="one", PolicyDocument=document)
    return "other"


def test_a_policy_that_is_attached(deployed: Deployed) -> None:
    [table] = deployed.scene.add_tables(1, owner=None)
    iam = deployed.scene.world.client("iam")
    statement = {"Effect": "Allow", "Action": "ec2:Create*", "Resource": "*"}
    policy = iam.create_policy(
        PolicyName="more",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=deployed.role, PolicyArn=policy)
    deployed.take(table)


def test_an_action_that_the_world_does_not_know(deployed: Deployed) -> None:
    with pytest.raises(NotImplementedError, match="ec2:DeleteRoute"):
        allowed(deployed.role, "ec2", "DeleteRoute", {})


# --- S3 -------------------------------------------------------------------------------------------


class Curl:
    """`curl` as user data calls it, with the credentials that IMDS gives."""

    def __init__(self, deployed: Deployed, folder: Path) -> None:
        self._curl = program("curl")
        world = deployed.scene.world
        self._imds = world.imds(deployed.instance).url
        names = [x509.DNSName("s3.us-east-1.amazonaws.com")]
        self._certificate, key = write_certificate(folder, names)
        url = world.listen(tls=(str(self._certificate), str(key)))
        self._port = url.rpartition(":")[2]
        self._body = folder / "body"
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        self._token = self._ask("api/token", "PUT", ttl)
        path = "meta-data/iam/security-credentials/"
        self.credentials = json.loads(self._get(path + self._get(path)))

    def get(self, path: str, sign: bool = True) -> tuple[int, bytes]:
        lines = [f'url = "https://s3.us-east-1.amazonaws.com/{path}"']
        if sign:
            known = self.credentials
            lines += [
                'aws-sigv4 = "aws:amz:us-east-1:s3"',
                f'user = "{known["AccessKeyId"]}:{known["SecretAccessKey"]}"',
                f'header = "x-amz-security-token: {known["Token"]}"',
                'header = "x-amz-content-sha256: UNSIGNED-PAYLOAD"',
            ]
        ran = subprocess.run(
            [
                *(self._curl, "--silent", "--show-error", "--cacert", self._certificate),
                *("--connect-to", f"::127.0.0.1:{self._port}", "--write-out", "%{http_code}"),
                *("--config", "-", "--output", self._body),
            ],
            input="\n".join(lines),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return int(ran.stdout), self._body.read_bytes()

    def _get(self, path: str) -> str:
        return self._ask(path, "GET", {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, path: str, method: str, headers: dict[str, str]) -> str:
        request = Request(f"{self._imds}/latest/{path}", headers=headers, method=method)
        with urlopen(request) as answer:
            return answer.read().decode()


@pytest.fixture
def curl(deployed: Deployed, tmp_path: Path) -> Curl:
    s3 = deployed.scene.world.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    for key in (KEY, "releases/another"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=os.urandom(4 << 20))
    return Curl(deployed, tmp_path)


def test_the_object(deployed: Deployed, curl: Curl) -> None:
    world = deployed.scene.world
    wanted = world.client("s3").get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
    assert curl.get(f"{BUCKET}/{KEY}") == (200, wanted)
    [call] = world.calls("GetObject")
    assert (call.service, call.source, call.status) == ("s3", world.source(deployed.instance), 200)
    assert call.params == {"Bucket": BUCKET, "Key": KEY}


@pytest.mark.parametrize("key", ["releases/another", "releases/none"])
def test_another_object(curl: Curl, key: str) -> None:
    status, body = curl.get(f"{BUCKET}/{key}")
    assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)


@pytest.mark.parametrize(
    ("field", "status", "code"),
    [
        ("AccessKeyId", 403, b"InvalidAccessKeyId"),
        ("SecretAccessKey", 403, b"SignatureDoesNotMatch"),
        ("Token", 400, b"InvalidToken"),
    ],
)
def test_credentials_that_are_not_its_own(curl: Curl, field: str, status: int, code: bytes) -> None:
    curl.credentials[field] += "x"
    answered, body = curl.get(f"{BUCKET}/{KEY}")
    assert (answered, code in body) == (status, True)


def test_an_object_that_is_not_there(deployed: Deployed, curl: Curl) -> None:
    # S3 API reference, GetObject: who may not list the bucket is not told.
    deployed.scene.world.client("s3").delete_object(Bucket=BUCKET, Key=KEY)
    status, body = curl.get(f"{BUCKET}/{KEY}")
    assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)


def test_without_a_signature(curl: Curl) -> None:
    status, body = curl.get(f"{BUCKET}/{KEY}", sign=False)
    assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)


# --- Policies -------------------------------------------------------------------------------------

TABLE = Target(
    "arn:aws:ec2:us-east-1:123456789012:route-table/rtb-1",
    {"ec2:Vpc": "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-1", "aws:ResourceTag/NATAZ": "any"},
)


def policy(effect: str = "Allow", **other: Any) -> dict[str, Any]:
    return {"Statement": [{"Effect": effect, "Action": "ec2:*", "Resource": "*", **other}]}


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([], False),
        ([policy()], True),
        ([policy(), policy("Deny")], False),
        ([policy("Deny")], False),
        ([policy(Action=["s3:*", "ec2:create?oute"])], True),
        ([policy(Action="ec2:Create")], False),
        ([policy(Resource=TABLE.arn)], True),
        ([policy(Resource="arn:aws:ec2:*:*:route-table/*")], True),
        ([policy(Resource="arn:aws:ec2:*:route-table/*")], False),
        ([policy(Resource="arn:aws:ec2:*:*:ROUTE-table/*")], False),
    ],
)
def test_statements(documents: list[dict[str, Any]], expected: bool) -> None:
    assert decide(documents, "ec2:CreateRoute", TABLE) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"ArnEquals": {"ec2:Vpc": TABLE.context["ec2:Vpc"]}}, True),
        ({"ArnLike": {"ec2:Vpc": "arn:aws:ec2:*:*:vpc/vpc-?"}}, True),
        ({"ArnEquals": {"ec2:Vpc": "arn:aws:ec2:*:vpc/vpc-1"}}, False),
        ({"StringEquals": {"aws:ResourceTag/NATAZ": ["us-east-1a", "any"]}}, True),
        ({"StringEquals": {"aws:ResourceTag/NATAZ": "a*"}}, False),
        ({"StringLike": {"aws:ResourceTag/NATAZ": "a*"}}, True),
        ({"StringLike": {"aws:ResourceTag/Other": "*"}}, False),
        ({"Null": {"aws:ResourceTag/NATAZ": "false"}}, True),
        ({"Null": {"aws:ResourceTag/NATAZ": "true"}}, False),
        ({"Null": {"aws:ResourceTag/Other": True}}, True),
        (
            {
                "Null": {"aws:ResourceTag/NATAZ": "false"},
                "ArnEquals": {"ec2:Vpc": "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-2"},
            },
            False,
        ),
    ],
)
def test_conditions(condition: dict[str, Any], expected: bool) -> None:
    assert decide([policy(Condition=condition)], "ec2:CreateRoute", TABLE) is expected


@pytest.mark.parametrize(
    "statement",
    [
        {"Condition": {"StringEqualsIgnoreCase": {"ec2:Vpc": "x"}}},
        {"Condition": {"StringEquals": {"ec2:Region": "us-east-1"}}},
        {"Condition": {"StringEquals": {"ec2:Attribute/SourceDestCheck": "false"}}},
        {"NotResource": "*"},
    ],
)
def test_what_the_world_does_not_know_is_no_allow(statement: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="the world knows no"):
        decide([policy(), policy(**statement)], "ec2:CreateRoute", TABLE)
