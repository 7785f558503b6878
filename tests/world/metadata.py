"""What an instance's metadata says, by path, read from the emulator's state (EC2 user guide,
"Instance metadata categories"). How it is asked for is in imds.py."""

import base64
import json

from moto.ec2.models.instances import Instance

from . import ec2
from .autoscaling import LIFECYCLE, REGION
from .spot import SPOT

# EC2 user guide, "Get the available versions of the instance metadata", and after those the ones
# that cloud-init asks for. What they answer is the same here.
VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-09-24",
    "2021-03-23",
    "latest",
)
_DOMAIN = "ec2.internal"  # of private names in us-east-1 (Amazon VPC user guide, "DNS attributes")


def tree(instance_id: str) -> dict[str, str]:
    """The categories by their path below `meta-data/`, without those of the instance's role."""
    instance = _instance(instance_id)
    interfaces = instance.nics
    address = interfaces[0].private_ip_address
    name = f"ip-{address.replace('.', '-')}.{_DOMAIN}"
    values = {
        "ami-id": instance.image_id,
        "ami-launch-index": str(instance.ami_launch_index),
        "block-device-mapping/ami": instance.root_device_name,
        "block-device-mapping/root": instance.root_device_name,
        "hostname": name,
        "instance-id": instance.id,
        "instance-life-cycle": "spot" if instance.lifecycle == "spot" else "on-demand",
        "instance-type": instance.instance_type,
        "local-hostname": name,
        "local-ipv4": address,
        "mac": interfaces[0].mac_address,
        "placement/availability-zone": instance.availability_zone,
        "placement/region": REGION,
        "reservation-id": _reservation(instance),
        "security-groups": "\n".join(group.name for group in interfaces[0].group_set),
        "services/domain": "amazonaws.com",
        "services/partition": "aws",
    }
    if instance.public_ip:
        values["public-ipv4"] = instance.public_ip
    for index, interface in sorted(interfaces.items()):
        vpc = interface.ec2_backend.get_vpc(interface.subnet.vpc_id)
        blocks = [item["cidr_block"] for item in vpc.get_cidr_block_association_set()]
        addresses = [item["PrivateIpAddress"] for item in interface.private_ip_addresses]
        about = f"network/interfaces/macs/{interface.mac_address}"
        values |= {
            f"{about}/device-number": str(index),
            f"{about}/interface-id": interface.id,
            f"{about}/local-ipv4s": "\n".join(addresses),
            f"{about}/mac": interface.mac_address,
            f"{about}/owner-id": interface.owner_id,
            f"{about}/subnet-id": interface.subnet.id,
            f"{about}/subnet-ipv4-cidr-block": interface.subnet.cidr_block,
            f"{about}/vpc-id": vpc.id,
            f"{about}/vpc-ipv4-cidr-block": blocks[0],
            f"{about}/vpc-ipv4-cidr-blocks": "\n".join(blocks),
        }
    if target := LIFECYCLE.target(instance_id):
        values["autoscaling/target-lifecycle-state"] = target
    return values | SPOT.notices(instance_id)


def profile_arn(instance_id: str) -> str | None:
    """Of the instance profile that it was launched with."""
    return (_instance(instance_id).iam_instance_profile or {}).get("Arn")


def role(instance_id: str) -> str | None:
    """The role in that instance profile."""
    association = ec2.backend().iam_instance_profile_associations.get(instance_id)
    roles = association.iam_instance_profile.roles if association else []
    return roles[0].name if roles else None


def identity(instance_id: str) -> str:
    """EC2 user guide, "Instance identity documents"."""
    instance = _instance(instance_id)
    document = {
        "accountId": instance.owner_id,
        "architecture": instance.architecture,
        "availabilityZone": instance.availability_zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "marketplaceProductCodes": None,
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "kernelId": None,
        "pendingTime": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "privateIp": instance.nics[0].private_ip_address,
        "ramdiskId": None,
        "region": REGION,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)


def user_data(instance_id: str) -> bytes | None:
    """The instance's user data, decoded; call it under the world's lock."""
    encoded = _instance(instance_id).user_data
    return (base64.b64decode(str(encoded)) or None) if encoded else None


def _reservation(instance: Instance) -> str:
    reservations = instance.ec2_backend.reservations.values()
    return next(r.id for r in reservations if instance in r.instances)


def _instance(instance_id: str) -> Instance:
    return ec2.backend().get_instance(instance_id)
