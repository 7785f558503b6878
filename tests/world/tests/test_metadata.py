"""The world's metadata as whatever boots on an instance walks it: versions, directories, user
data."""

import json
import urllib.error
import urllib.request

import pytest

from tests.world import metadata
from tests.world.scene import ZONES

OWN = ZONES[0]
USER_DATA = "#!/bin/sh\n"


class Reader:
    def __init__(self, world, instance: str) -> None:
        self._url = world.imds(instance).url
        token = self._ask("/latest/api/token", "PUT", "token-ttl-seconds", "60")
        self._token = token.decode()

    def __call__(self, path: str) -> str:
        return self._ask(path, "GET", "token", self._token).decode()

    def missing(self, path: str) -> bool:
        try:
            self(path)
        except urllib.error.HTTPError as error:
            return error.code == 404
        return False

    def _ask(self, path: str, method: str, name: str, value: str) -> bytes:
        headers = {f"X-aws-ec2-metadata-{name}": value}
        request = urllib.request.Request(self._url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()


@pytest.fixture
def instance(scene) -> str:
    return scene.launch_instance(scene.public_subnets[OWN], UserData=USER_DATA)


def test_every_version_answers_alike(world, instance):
    read = Reader(world, instance)
    assert {"2009-04-04", "2021-03-23", "latest"} <= set(read("/").splitlines())
    for version in ("2009-04-04", "2021-03-23", "latest"):
        assert read(f"/{version}/") == "dynamic\nmeta-data\nuser-data"
        assert read(f"/{version}/meta-data/instance-id") == instance
        assert read(f"/{version}/user-data") == USER_DATA
    assert read.missing("/2525-01-01/meta-data/instance-id")


def test_directories_lead_to_every_value(world, instance):
    """As cloud-init finds out what there is."""
    read = Reader(world, instance)
    found, directories = set(), [""]
    while directories:
        directory = directories.pop()
        for name in read(f"/latest/meta-data/{directory}").splitlines():
            if name.endswith("/"):
                directories.append(directory + name)
            else:
                found.add(directory + name)
    assert found >= {"iam/security-credentials/hanat-nat", "iam/info", *metadata.tree(instance)}
    assert read("/latest/meta-data/local-hostname") == "ip-10-0-0-4.ec2.internal"
    assert read("/latest/meta-data/services/domain") == "amazonaws.com"
    assert read("/latest/meta-data/security-groups") == "default"
    [reservation] = world.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    assert read("/latest/meta-data/reservation-id") == reservation["ReservationId"]
    assert read.missing("/latest/meta-data/public-keys/")


def test_the_identity_document(world, instance):
    document = json.loads(Reader(world, instance)("/latest/dynamic/instance-identity/document"))
    assert document["instanceId"] == instance
    assert document["region"] == "us-east-1"
    assert document["privateIp"] == "10.0.0.4"


def test_without_user_data_there_is_none(world, scene):
    read = Reader(world, scene.launch_instance(scene.public_subnets[OWN]))
    assert read.missing("/latest/user-data")
    assert read("/latest/") == "dynamic\nmeta-data"


def test_the_role_is_the_instance_profiles(world, scene):
    iam = world.client("iam")
    iam.create_role(RoleName="the-role", AssumeRolePolicyDocument="{}")
    profile = iam.create_instance_profile(InstanceProfileName="the-profile")["InstanceProfile"]
    iam.add_role_to_instance_profile(InstanceProfileName="the-profile", RoleName="the-role")
    instance = scene.launch_instance(
        scene.public_subnets[OWN], IamInstanceProfile={"Name": "the-profile"}
    )
    read = Reader(world, instance)
    assert read("/latest/meta-data/iam/security-credentials/") == "the-role"
    about = json.loads(read("/latest/meta-data/iam/info"))
    assert about["InstanceProfileArn"] == profile["Arn"]
    world.imds(instance).role = None
    assert read.missing("/latest/meta-data/iam/info")
