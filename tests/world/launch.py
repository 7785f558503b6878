"""How a group launches: from the version of the launch template that the group names.

moto takes image, type and user data from that version but everything else from the template's
default version, lists every member under the default version, and cannot read the user data of a
version that CreateLaunchTemplateVersion made. Of a template it leaves out the network interfaces,
the instance profile, the market, the metadata options and the tags of volumes and interfaces.
Importing this module patches moto.
"""

import copy
from typing import Any

from moto.autoscaling.models import FakeAutoScalingGroup, InstanceState
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.instances import Reservation
from moto.ec2.models.launch_templates import (
    LaunchTemplate,
    LaunchTemplateVersion,
)
from moto.ec2.utils import convert_tag_spec, filter_iam_instance_profiles, parse_user_data

from .clock import CLOCK
from .patching import wrap

_moto_launch = FakeAutoScalingGroup.replace_autoscaling_group_instances
# What the group that launches right now launches from.
_launching: LaunchTemplateVersion | None = None

# EC2 gives these tags to each instance of a launch template (EC2 user guide, "Launch instances
# from a launch template").
_TEMPLATE_TAG, _VERSION_TAG = "aws:ec2launchtemplate:id", "aws:ec2launchtemplate:version"


def launch(group: FakeAutoScalingGroup, count: int) -> list[InstanceState]:
    """New members of the group, which moto calls `InService`."""
    global _launching
    known = len(group.instance_states)
    _launching = _version(group)
    try:
        _moto_launch(group, count, group.get_propagated_tags())
    finally:
        _launching = None
    members = group.instance_states[known:]
    for member in members:
        member.launched_at = CLOCK.now()
    return members


def is_current(member: InstanceState) -> bool:
    """Would the group launch this member from the same version of the same template again?"""
    version = _version(member.auto_scaling_group)
    wanted = (version.template.id, str(version.number)) if version else (None, None)
    return _launched_from(member) == wanted


def _version(group: FakeAutoScalingGroup) -> LaunchTemplateVersion | None:
    template = group.ec2_launch_template
    return template.get_version(group.launch_template_version) if template else None


def _launched_from(member: InstanceState) -> tuple[str | None, str | None]:
    tags = {tag["key"]: tag["value"] for tag in member.instance.get_tags()}
    return tags.get(_TEMPLATE_TAG), tags.get(_VERSION_TAG)


def _template_of(member: InstanceState) -> dict[str, Any] | None:
    template_id, version = _launched_from(member)
    if template_id is None:
        return None
    name = member.auto_scaling_group.ec2_backend.get_launch_template(template_id).name
    return {"LaunchTemplateId": template_id, "LaunchTemplateName": name, "Version": version}


# API reference, Instance and AutoScalingInstanceDetails: "the launch template for the instance".
InstanceState.launch_template = property(_template_of)


@wrap(EC2Backend, "run_instances")
def _run_instances(original: Any, backend: EC2Backend, *args: Any, **kwargs: Any) -> Reservation:
    if _launching is not None:
        kwargs["launch_template"] = {
            "LaunchTemplateId": _launching.template.id,
            "Version": _launching.number,
        }
    if not kwargs.get("launch_template"):
        return original(backend, *args, **kwargs)
    data = backend._get_template_from_args(kwargs["launch_template"]).data
    image = args[0] or data.get("ImageId")
    if profile := data.get("IamInstanceProfile"):
        # EC2 checks it before it launches anything.
        filter_iam_instance_profiles(
            backend.account_id, backend.partition, profile.get("Arn"), profile.get("Name")
        )
    reservation = original(backend, *args, **_completed(backend, kwargs, data, image))
    tags = convert_tag_spec(data.get("TagSpecifications", []))
    for instance in reservation.instances:
        if profile and not backend.iam_instance_profile_associations.get(instance.id):
            association = backend.associate_iam_instance_profile(
                instance.id, profile.get("Name"), profile.get("Arn")
            )
            found = association.iam_instance_profile
            instance.iam_instance_profile = {"Arn": found.arn, "Id": found.id}
        # EC2 API reference, Instance: the security groups are those of its primary interface.
        instance.security_groups = instance.security_groups or list(instance.nics[0].group_set)
        for interface in instance.nics.values():
            interface.add_tags(tags.get("network-interface", {}))
        for _, device in instance.get_block_device_mapping:
            backend.get_volume(device.volume_id).add_tags(tags.get("volume", {}))
    return reservation


def _completed(
    backend: EC2Backend, given: dict[str, Any], data: dict[str, Any], image: str
) -> dict[str, Any]:
    """The request with what the template has and it has not (EC2 user guide, "Launch instances from
    a launch template": what the request gives overrides the template)."""
    kwargs = dict(given)
    if interfaces := copy.deepcopy(data.get("NetworkInterfaces")):
        for interface in interfaces:
            interface.setdefault("SubnetId", kwargs.get("subnet_id"))
        kwargs["nics"] = kwargs.get("nics") or interfaces
    if market := data.get("InstanceMarketOptions"):
        if market != {"MarketType": "spot"}:
            raise NotImplementedError(f"the world knows no market such as {market}")
        kwargs["instance_market_options"] = "spot"
    kwargs["metadata_options"] = {
        **data.get("MetadataOptions", {}),
        **kwargs.get("metadata_options", {}),
    }
    if (devices := data.get("BlockDeviceMappings")) and "block_device_mappings" not in kwargs:
        kwargs["block_device_mappings"] = _devices(backend, devices, image)
    return kwargs


def _devices(
    backend: EC2Backend, devices: list[dict[str, Any]], image: str
) -> list[dict[str, Any]]:
    """EC2 user guide, "Block device mappings": the root device's size is that of the image's
    snapshot unless it is given; another one needs a size."""
    found = backend.describe_images(filters={"image-id": image})
    root = found[0].root_device_name if found else None
    devices = copy.deepcopy(devices)
    for device in devices:
        if (
            root is not None
            and device["DeviceName"] != root
            and not device["Ebs"].get("VolumeSize")
        ):
            raise EC2ClientError(
                "MissingParameter",
                "The request must contain the parameter size or snapshotId for "
                f"{device['DeviceName']}",
            )
        device["Ebs"].setdefault("VolumeSize", 8)
    return devices


@wrap(LaunchTemplate, "create_version")
def _create_version(
    original: Any, template: LaunchTemplate, data: dict[str, Any], description: str
) -> LaunchTemplateVersion:
    if isinstance(data.get("UserData"), str):
        data["UserData"] = parse_user_data(data["UserData"])
    return original(template, data, description)
