"""Amazon Linux's images and the public parameters of Systems Manager that name the newest ones
(Amazon Linux 2023 user guide, "Launching AL2023 using the SSM parameter and AWS CLI")."""

import itertools

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.utils import utcnow
from moto.ec2.models.amis import Ami
from moto.ssm.models import Parameter, ssm_backends

from . import ec2
from .autoscaling import REGION

_PREFIX = "/aws/service/ami-amazon-linux-latest/"
# By parameter: the image's architecture.
NAMES = {
    f"{_PREFIX}al2023-ami-{kind}kernel-default-{architecture}": architecture
    for kind in ("minimal-", "")
    for architecture in ("arm64", "x86_64")
}

_numbers = itertools.count(1)


def reset() -> None:
    # These alone: moto would read hundreds, of images that it does not have.
    ssm_backends[DEFAULT_ACCOUNT_ID][REGION]._parameters.latest_amis_loaded = True
    for name in NAMES:
        publish(name)


def publish(name: str) -> str:
    """Amazon publishes a newer image under a parameter; returns its ID."""
    image = f"ami-{next(_numbers):017x}"
    backend = ec2.backend()
    backend.amis[image] = Ami(
        backend,
        image,
        name=name.removeprefix(_PREFIX),
        owner_alias="amazon",
        public=True,
        virtualization_type="hvm",
        architecture=NAMES[name],
        root_device_type="ebs",
        root_device_name="/dev/xvda",
    )
    versions = ssm_backends[DEFAULT_ACCOUNT_ID][REGION]._parameters[name]
    versions.append(
        Parameter(
            account_id=DEFAULT_ACCOUNT_ID,
            name=name,
            value=image,
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=utcnow(),
            version=len(versions) + 1,
            data_type="aws:ec2:image",
        )
    )
    return image
