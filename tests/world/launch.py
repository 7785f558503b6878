"""How a group launches: from the version of the launch template that the group names.

moto takes image, type and user data from that version but everything else from the template's
default version, lists every member under the default version, and cannot read the user data of a
version that CreateLaunchTemplateVersion made. Importing this module patches moto.
"""

from typing import Any

from moto.autoscaling.models import FakeAutoScalingGroup, InstanceState
from moto.ec2.models import EC2Backend
from moto.ec2.models.launch_templates import (
    LaunchTemplate,
    LaunchTemplateVersion,
)
from moto.ec2.utils import parse_user_data

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
    return group.instance_states[known:]


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
def _run_instances(original: Any, backend: EC2Backend, *args: Any, **kwargs: Any) -> Any:
    if _launching is not None:
        kwargs["launch_template"] = {
            "LaunchTemplateId": _launching.template.id,
            "Version": _launching.number,
        }
    return original(backend, *args, **kwargs)


@wrap(LaunchTemplate, "create_version")
def _create_version(
    original: Any, template: LaunchTemplate, data: dict[str, Any], description: str
) -> LaunchTemplateVersion:
    if isinstance(data.get("UserData"), str):
        data["UserData"] = parse_user_data(data["UserData"])
    return original(template, data, description)
