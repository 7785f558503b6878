"""What CloudFormation refuses at once, and what it rolls back."""

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.stages.stacks import ALONE, HANAT, HELD, WITH_VPC, alone, given, nothing_left
from tests.world import World
from tests.world.deploy import deploy
from tests.world.scene import Scene

# --- Refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "parameters", "why"),
    [
        (ALONE, {"PublicSubnetB": "subnet-x"}, "PublicSubnetB"),
        (ALONE, {"PublicSubnetA": "subnet-0123456789abcdef0"}, "does not exist"),
        (ALONE, {"VpcId": "vpc-0123456789abcdef0"}, "does not exist"),
        (ALONE, {"ClientCidr": "10.0.0.0/33"}, "ClientCidr"),
        (ALONE, {"ClientCidr": "10.0.0.256/24"}, "ClientCidr"),
        (ALONE, {"InstanceType": "m5.large"}, "InstanceType"),
        (ALONE, {"MaxInstanceLifetime": "60"}, "MaxInstanceLifetime"),
        (ALONE, {"ImageId": "debian"}, "ImageId"),
        (ALONE, {"HanatUrlArm64": "http://example.com/hanat"}, "HanatUrlArm64"),
        (ALONE, {"HanatSha256Arm64": "A" * 64}, "HanatSha256Arm64"),
        (ALONE, {"Settings": "HANAT_SOURCE=a  HANAT_B=c"}, "Settings"),
        (ALONE, {"Settings": "PATH=/tmp"}, "Settings"),
        (ALONE, {"HanatSha256Arm64": ""}, "HanatUrlArm64 needs HanatSha256Arm64"),
        (ALONE, {"HanatSha256X86": ""}, "HanatUrlX86 needs HanatSha256X86"),
        (ALONE, {"HanatUrlArm64": "", "HanatUrlX86": ""}, "Amazon Linux does not have hanat"),
        (ALONE, {"HanatUrlX86": "", "InstanceType": "t3.nano"}, "x86_64"),
        (ALONE, {"Nonsense": "1"}, "do not exist in the template"),
        (WITH_VPC, {"VpcCidr": "10.0.0.0/8"}, "VpcCidr"),
        (WITH_VPC, {"PublicCidrA": "10.0.0.0"}, "PublicCidrA"),
    ],
)
def test_wrong_parameters(
    network: Scene, template: Path, parameters: dict[str, str], why: str
) -> None:
    whole = given(network, **parameters) if template == ALONE else HANAT | parameters
    with pytest.raises(ClientError, match=f"ValidationError.*{why}"):
        deploy(network.world, template, whole)
    assert network.world.client("cloudformation").describe_stacks()["Stacks"] == []


def test_a_missing_parameter(network: Scene) -> None:
    parameters = given(network)
    del parameters["ClientCidr"]
    with pytest.raises(ClientError, match=r"ValidationError.*\[ClientCidr\] must have values"):
        deploy(network.world, ALONE, parameters)


def test_an_update_is_checked_too(network: Scene) -> None:
    stack = alone(network)
    with pytest.raises(ClientError, match=r"ValidationError.*needs HanatSha256Arm64"):
        stack.update({"HanatSha256Arm64": ""})
    assert stack.status == "CREATE_COMPLETE"


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"VpcId": {"Ref": "Nobody"}}, "Unresolved resource dependencies"),
        ({"VpcId": {"Ref": "Table"}}, "Circular dependency"),
        ({"VpcId": {"Fn::Select": [1, ["vpc-1"]]}}, "Fn::Select cannot select"),
        ({"VpcId": {"Fn::Sub": "${x:-y}"}}, "variable names in Fn::Sub"),
        ({"VpcId": {"Fn::GetAtt": "Vpc.Colour"}}, "does not support attribute type Colour"),
    ],
)
def test_wrong_templates(world: World, properties: dict[str, Any], why: str) -> None:
    """The world's own engine, on what the templates do not do."""
    resources = {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}},
        "Table": {"Type": "AWS::EC2::RouteTable", "Properties": properties},
    }
    client = world.client("cloudformation")
    try:
        client.create_stack(StackName="wrong", TemplateBody=json.dumps({"Resources": resources}))
    except ClientError as error:
        said = str(error)
    else:
        # What shows only when the resource's turn comes.
        [stack] = client.describe_stacks()["Stacks"]
        assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
        said = stack["StackStatusReason"]
    assert why in said


def test_substitutions(world: World) -> None:
    text = {"Fn::Sub": ["$x ${!kept} ${a} ${AWS::StackName}", {"a": {"Fn::Join": ["-", [1, 2]]}}]}
    outputs = {
        "Text": {"Value": text},
        "List": {"Value": {"Fn::Join": [",", ["a", {"Ref": "AWS::NoValue"}, "b"]]}},
    }
    vpc = {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}}
    client = world.client("cloudformation")
    body = {"Resources": {"Vpc": vpc}, "Outputs": outputs}
    client.create_stack(StackName="said", TemplateBody=json.dumps(body))
    [stack] = client.describe_stacks()["Stacks"]
    said = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    assert said == {"Text": "$x ${kept} 1-2 said", "List": "a,b"}


def test_it_takes_the_capability(network: Scene) -> None:
    with pytest.raises(ClientError, match="InsufficientCapabilities"):
        network.world.client("cloudformation").create_stack(
            StackName="nat",
            TemplateBody=ALONE.read_text(),
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in given(network).items()
            ],
        )


def test_what_fails_half_way_is_rolled_back(network: Scene) -> None:
    stack = alone(network, PublicSubnetB="subnet-0123456789abcdef0")
    assert stack.status == "ROLLBACK_IN_PROGRESS", "the first zone's NAT waits for its hook"
    network.world.clock.advance(HELD)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert "subnet-0123456789abcdef0" in stack.reason
    assert stack.resources == {}
    nothing_left(network.world)
