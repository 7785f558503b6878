"""Which stacks there are, what CreateStack and UpdateStack refuse, and stacks inside of others."""

from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError
from moto.cloudformation.exceptions import AlreadyExistsException, CloudFormationError

from .autoscaling import LIFECYCLE, Part
from .cloudformation import GONE, NESTED, Inputs, Stack
from .inside import INSIDE
from .stack_resources import KINDS, Kind, Properties, Resource, kind
from .template import (
    check_parameters,
    check_rules,
    creation_order,
    dependencies,
    invalid,
    parse,
)

_SSM = "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
# Types of parameters whose values must exist ("AWS-specific parameter types"), by how to see that.
_EXISTING = {
    "AWS::EC2::VPC::Id": ("describe_vpcs", "VpcIds"),
    "AWS::EC2::Subnet::Id": ("describe_subnets", "SubnetIds"),
}


class Stacks(Part):
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.all: list[Stack] = []

    def named(self, name: str) -> Stack:
        """By name, unless it is deleted, or by ID."""
        for stack in self.all:
            if stack.id == name or (stack.name == name and stack.status != GONE):
                return stack
        raise invalid(f"Stack with id {name} does not exist")

    def create(
        self,
        name: str,
        text: str,
        given: dict[str, str],
        capabilities: list[str],
        parent: Stack | None = None,
    ) -> Stack:
        if any(stack.name == name and stack.status != GONE for stack in self.all):
            raise AlreadyExistsException(f"Stack [{name}] already exists")
        stack = Stack(name, checked(text, given, capabilities), parent, capabilities=capabilities)
        _check_resources(stack)
        self.all.append(stack)
        if parent:
            parent.nested.append(stack)
        stack.create()
        return stack

    def update(
        self, stack: Stack, text: str | None, given: dict[str, str], capabilities: list[str]
    ) -> None:
        if stack.status.endswith("_IN_PROGRESS") or stack.status == "ROLLBACK_COMPLETE":
            raise invalid(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
        inputs = checked(text or stack.inputs.body, given, capabilities)
        _check_resources(Stack(stack.name, inputs))
        # A stack with nested ones is always updated (?): they may have changed by themselves.
        nested = any(r["Type"] == NESTED for r in inputs.body["Resources"].values())
        if inputs == stack.inputs and not nested:
            raise invalid("No updates are to be performed.")
        stack.capabilities = capabilities
        stack.update(inputs)

    def act(self) -> bool:
        return any(stack.proceed() for stack in list(self.all))


def checked(text: str | dict[str, Any], given: dict[str, str], capabilities: list[str]) -> Inputs:
    """What CreateStack and UpdateStack refuse at once. Parameters of Systems Manager are looked up
    anew at each operation ("Specify existing resources at runtime")."""
    body = parse(text) if isinstance(text, str) else text
    values = check_parameters(body, given)
    kinds = {name: spec["Type"] for name, spec in body.get("Parameters", {}).items()}
    if unknown := set(kinds.values()) - {"String", _SSM, *_EXISTING}:
        raise NotImplementedError(f"the world knows no parameters of type {sorted(unknown)}")
    for name, value in values.items():
        if kinds[name] in _EXISTING:
            _check_exists(name, value, *_EXISTING[kinds[name]])
    resolved = {name: _look_up(value) for name, value in values.items() if kinds[name] == _SSM}
    check_rules(body, lambda name: resolved.get(name, values[name]))
    # "Acknowledging IAM resources in CloudFormation templates".
    if _makes_roles(body) and not {"CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"} & set(capabilities):
        raise CloudFormationError(
            "InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_IAM]"
        )
    return Inputs(body, values, resolved)


def _makes_roles(body: dict[str, Any]) -> bool:
    return any(resource["Type"].startswith("AWS::IAM::") for resource in body["Resources"].values())


def _check_exists(name: str, value: str, method: str, ids: str) -> None:
    try:
        getattr(INSIDE.client("ec2"), method)(**{ids: [value]})
    except ClientError:
        raise invalid(
            f"Parameter validation failed: parameter value {value} for parameter name {name} "
            "does not exist"
        ) from None


def _look_up(name: str) -> str:
    try:
        return INSIDE.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    except ClientError:
        raise invalid(
            f"Unable to fetch parameters [{name}] from parameter store for this account."
        ) from None


def _check_resources(stack: Stack) -> None:
    """What is wrong with a template whatever its resources turn out to be."""
    body = stack.inputs.body
    for name in body.get("Conditions", {}):
        stack.functions.condition(name)
    known = {*body["Resources"], *stack.inputs.values}
    for logical, resource in body["Resources"].items():
        type_name = resource["Type"]
        if type_name not in KINDS:
            raise NotImplementedError(f"the world knows no {type_name}")
        mine = KINDS[type_name]
        if unknown := set(resource.get("Properties", {})) - {*mine.known, *mine.in_place}:
            raise NotImplementedError(f"the world knows no {sorted(unknown)} of {type_name}")
        names = [name for name in dependencies(resource) if not name.startswith("AWS::")]
        if unknown := [name for name in names if name not in known]:
            raise invalid(
                f"Template format error: Unresolved resource dependencies [{', '.join(unknown)}] "
                f"in the Resources block of the template ({logical})"
            )
    creation_order(body, stack.exists)


@kind("CloudFormation::Stack")
class Nested(Kind):
    in_place = ("TemplateURL", "Parameters")

    def create(self, resource: Resource) -> None:
        parent = STACKS.named(resource.tags["aws:cloudformation:stack-id"])
        name = resource.name(limit=128)
        stack = STACKS.create(name, *self._made_from(resource), parent.capabilities, parent)
        resource.id = stack.id
        self._look(resource, stack, "CREATE_COMPLETE")

    def update(self, resource: Resource, old: Properties) -> None:
        stack = STACKS.named(resource.id)
        parent = STACKS.named(resource.tags["aws:cloudformation:stack-id"])
        stack.proceed()
        try:
            STACKS.update(stack, *self._made_from(resource), parent.capabilities)
        except CloudFormationError as error:
            if error.message != "No updates are to be performed.":
                raise
            return
        self._look(resource, stack, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")

    def delete(self, resource: Resource) -> bool:
        stack = STACKS.named(resource.id)
        if stack.status != GONE and stack.status != "DELETE_IN_PROGRESS":
            stack.delete()
        stack.proceed()
        return stack.status == GONE

    def _made_from(self, resource: Resource) -> tuple[str, dict[str, str]]:
        return read(resource.properties["TemplateURL"]), resource.properties.get("Parameters", {})

    def _look(self, resource: Resource, stack: Stack, status: str) -> None:
        if stack.status != status:
            raise invalid(f"Embedded stack {stack.id} was not successfully created: {stack.reason}")
        resource.attributes = {
            f"Outputs.{output['OutputKey']}": output["OutputValue"] for output in stack.outputs
        }


def read(url: str) -> str:
    """The template at a URL of S3."""
    parts = urlsplit(url)
    bucket, _, key = parts.path.removeprefix("/").partition("/")
    if parts.scheme != "https" or not parts.netloc.startswith("s3.") or not key:
        raise invalid(f"TemplateURL must be a supported URL: {url}")
    return INSIDE.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()


STACKS = Stacks()
LIFECYCLE.add(STACKS)
