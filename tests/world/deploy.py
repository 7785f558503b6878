"""Deploys a template as a user would: packaged by the AWS CLI's own code, created and watched by
CloudFormation's API."""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from awscli.customizations.cloudformation.artifact_exporter import Template
from awscli.customizations.cloudformation.yamlhelper import yaml_dump

from .world import World

BUCKET = "templates"
_CAPABILITIES = ["CAPABILITY_IAM"]


class _Uploader:
    """The CLI's own one uploads in threads; this does what the exporter asks of it."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def upload_with_dedup(self, file_name: str, extension: str) -> str:
        body = Path(file_name).read_bytes()
        key = f"{sha256(body).hexdigest()}.{extension}"
        self._s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        return f"s3://{BUCKET}/{key}"

    def to_path_style_s3_url(self, key: str, _version: str | None) -> str:
        return f"https://s3.us-east-1.amazonaws.com/{BUCKET}/{key}"


@dataclass
class Stack:
    world: World
    name: str
    template: Path
    parameters: dict[str, str] = field(default_factory=dict)
    id: str = ""

    @property
    def status(self) -> str:
        return self._described["StackStatus"]

    @property
    def reason(self) -> str:
        return self._described.get("StackStatusReason", "")

    @property
    def outputs(self) -> dict[str, str]:
        outputs = self._described.get("Outputs", [])
        return {output["OutputKey"]: output["OutputValue"] for output in outputs}

    @property
    def resources(self) -> dict[str, str]:
        """What there is, by its logical name."""
        answer = self._client.describe_stack_resources(StackName=self.id)["StackResources"]
        return {entry["LogicalResourceId"]: entry["PhysicalResourceId"] for entry in answer}

    def update(
        self, parameters: dict[str, str] | None = None, template: Path | None = None
    ) -> None:
        """Change these parameters and keep the others."""
        self.parameters |= parameters or {}
        self.template = template or self.template
        self._client.update_stack(StackName=self.id, **self._request())

    def delete(self) -> None:
        self._client.delete_stack(StackName=self.id)

    def create(self) -> None:
        self.id = self._client.create_stack(StackName=self.name, **self._request())["StackId"]

    def _request(self) -> dict[str, Any]:
        return {
            "TemplateBody": package(self.world, self.template),
            "Parameters": [
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in self.parameters.items()
            ],
            "Capabilities": _CAPABILITIES,
        }

    @property
    def _described(self) -> dict[str, Any]:
        return self._client.describe_stacks(StackName=self.id)["Stacks"][0]

    @property
    def _client(self) -> Any:
        return self.world.client("cloudformation")


def package(world: World, template: Path) -> str:
    """`aws cloudformation package`: the template with its nested ones in a bucket."""
    s3 = world.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    exported = Template(template.name, str(template.parent.resolve()), _Uploader(s3)).export()
    return yaml_dump(exported)


def deploy(world: World, template: Path, parameters: dict[str, str], name: str = "nat") -> Stack:
    stack = Stack(world, name, template, dict(parameters))
    stack.create()
    return stack
