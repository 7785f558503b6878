"""The commands for deployment, run as they are written in README and docs by the real AWS CLI."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.nat import ROOT
from tests.world import World
from tests.world.autoscaling import REGION
from tests.world.record import TESTER
from tests.world.scene import ZONES, two_zone_vpc

URL = "s3://my-bucket/hanat"


PAGES = "\n".join((ROOT / page).read_text() for page in ("README.md", "docs/deploying.md"))


def commands(*words: str) -> str:
    """The block of shell commands that holds all these words."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGES, re.S)
    [block] = [block for block in blocks if all(word in block for word in words)]
    return block


@pytest.fixture
def dist(tmp_path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    fill(folder, "0.9.9")
    return folder


def fill(folder: Path, version: str) -> None:
    """As `make dist` does with the templates and archives of a version."""
    shutil.copytree(ROOT / "cloudformation", folder, dirs_exist_ok=True)
    (folder / archive_of(version)).write_text(f"an archive of {version}")
    subprocess.run([folder / "fill.sh", folder, version, URL], check=True)


def archive_of(version: str) -> str:
    """The one of a machine that most people build on."""
    return f"hanat-{version}-x86_64-unknown-linux-gnu.tar.gz"


def run(world: World, folder: Path, script: str) -> str:
    env = {
        "AWS_ACCESS_KEY_ID": TESTER,
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": world.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
        "HOME": str(folder),
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stack(world: World) -> dict[str, Any]:
    return world.client("cloudformation").describe_stacks(StackName="nat")["Stacks"][0]


def parameter(world: World, name: str) -> str:
    values = {p["ParameterKey"]: p["ParameterValue"] for p in stack(world)["Parameters"]}
    return values[name]


def package(world: World, dist: Path, script: str) -> None:
    run(world, dist.parent, script)
    packaged = dist.parent / "packaged.yaml"
    # The CLI names the endpoint it has uploaded to, which is S3's own elsewhere.
    s3 = f"https://s3.{REGION}.amazonaws.com"
    packaged.write_text(packaged.read_text().replace(world.url, s3))


def test_two_commands_deploy_the_whole_vpc_and_others_update_and_remove_it(world, dist):
    world.client("s3").create_bucket(Bucket="my-bucket")
    publish = commands("aws s3 cp").splitlines()[-1]
    packs, creates = re.findall(r"^aws .*?[^\\]$", commands("cloudformation package"), re.M | re.S)
    run(world, dist.parent, publish)
    package(world, dist, packs)
    run(world, dist.parent, creates)
    made = stack(world)
    assert made["StackStatus"] == "CREATE_COMPLETE", made
    assert parameter(world, "HanatUrlX86") == f"{URL}/{archive_of('0.9.9')}"
    keys = {o["Key"] for o in world.client("s3").list_objects_v2(Bucket="my-bucket")["Contents"]}
    assert f"hanat/{archive_of('0.9.9')}" in keys

    fill(dist, "1.0.0")
    package(world, dist, packs)
    outputs = {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}
    group = outputs["NatGroupA"]
    said = run(world, dist.parent, commands("update-stack").replace("GROUP", group))
    assert group in said
    assert stack(world)["StackStatus"] == "UPDATE_COMPLETE"
    assert parameter(world, "HanatUrlX86") == f"{URL}/{archive_of('1.0.0')}"
    refreshes = world.autoscaling.describe_instance_refreshes(AutoScalingGroupName=group)
    assert [r["Status"] for r in refreshes["InstanceRefreshes"]] == ["InProgress"]

    tables = [outputs[f"PrivateRouteTable{zone}"] for zone in "AB"]
    nat = world.ec2.describe_network_interfaces()["NetworkInterfaces"][0]["NetworkInterfaceId"]
    for table in tables:
        world.ec2.create_route(
            RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NetworkInterfaceId=nat
        )
    run(world, dist.parent, commands("delete-stack").replace("vpc-…", outputs["Vpc"]))
    assert stack(world)["StackStatus"] == "DELETE_IN_PROGRESS"
    assert [world.default_route(table) for table in tables] == [None, None]
    world.clock.advance(3600)
    world.wait_until(lambda: world.client("cloudformation").describe_stacks()["Stacks"] == [])


def test_the_nats_alone(world, dist):
    """Into a VPC that exists, whose route table is tagged first."""
    scene = two_zone_vpc(world, nats_in_group=False)
    table = scene.add_tables(1, owner=None)[0]
    script = commands("create-tags", "create-stack")
    first, second = (scene.public_subnets[zone] for zone in ZONES)
    for what in (table, scene.vpc, first, second):
        kind = what.partition("-")[0]
        script = script.replace(f"{kind}-…", what, 1)
    run(world, dist.parent, script)
    assert stack(world)["StackStatus"] == "CREATE_COMPLETE", stack(world)
    groups = world.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert {g["AutoScalingGroupName"]: g["VPCZoneIdentifier"] for g in groups} == {
        "nat-a": first,
        "nat-b": second,
    }
    tags = world.ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Tags"]
    assert tags == [{"Key": "NATAZ", "Value": ZONES[0]}]
