"""CloudFormation's API on the world's stacks (cloudformation). Importing it patches moto, which
answers no action that is not here."""

from typing import Any

from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import ActionResult, EmptyResult

from .autoscaling import LIFECYCLE
from .cloudformation import Stack
from .stacks import STACKS, read
from .template import invalid

_BODY_LIMIT = 51_200  # user guide, "CloudFormation quotas"


def _create_stack(response: CloudFormationResponse) -> ActionResult:
    text = _template(response)
    if text is None:
        raise invalid("Either Template URL or Template Body must be specified.")
    given, capabilities = _parameters(response, {}), response._get_param("Capabilities", [])
    stack = STACKS.create(response._get_param("StackName"), text, given, capabilities)
    LIFECYCLE.tick()
    return ActionResult({"StackId": stack.id})


def _update_stack(response: CloudFormationResponse) -> ActionResult:
    stack = STACKS.named(response._get_param("StackName"))
    given = _parameters(response, stack.inputs.values)
    capabilities = response._get_param("Capabilities", [])
    STACKS.update(stack, _template(response), given, capabilities)
    LIFECYCLE.tick()
    return ActionResult({"StackId": stack.id})


def _delete_stack(response: CloudFormationResponse) -> ActionResult:
    name = response._get_param("StackName")
    # API reference, DeleteStack: of a stack that is not there, it succeeds (?).
    for stack in STACKS.all:
        if name in (stack.name, stack.id) and not stack.status.startswith("DELETE_"):
            stack.delete()
    LIFECYCLE.tick()
    return EmptyResult()


def _describe_stacks(response: CloudFormationResponse) -> ActionResult:
    name = response._get_param("StackName")
    stacks = [STACKS.named(name)] if name else STACKS.all
    shown = [_described(stack) for stack in stacks if name or stack.status != "DELETE_COMPLETE"]
    return ActionResult({"Stacks": shown})


def _describe_stack_resources(response: CloudFormationResponse) -> ActionResult:
    stack = STACKS.named(response._get_param("StackName"))
    return ActionResult(
        {
            "StackResources": [
                {
                    "StackName": stack.name,
                    "StackId": stack.id,
                    "LogicalResourceId": resource.logical,
                    "PhysicalResourceId": resource.id,
                    "ResourceType": resource.kind,
                    "Timestamp": stack.created,
                    "ResourceStatus": "CREATE_COMPLETE",
                }
                for resource in stack.resources.values()
            ]
        }
    )


def _described(stack: Stack) -> dict[str, Any]:
    parameters = [
        {"ParameterKey": key, "ParameterValue": value, "ResolvedValue": resolved}
        if (resolved := stack.inputs.resolved.get(key))
        else {"ParameterKey": key, "ParameterValue": value}
        for key, value in stack.inputs.values.items()
    ]
    return {
        "StackName": stack.name,
        "StackId": stack.id,
        "Description": stack.inputs.body.get("Description"),
        "Parameters": parameters,
        "Outputs": stack.outputs,
        "StackStatus": stack.status,
        "StackStatusReason": stack.reason,
        "CreationTime": stack.created,
        "Capabilities": stack.capabilities,
        "ParentId": stack.parent.id if stack.parent else None,
        "Tags": {},
    }


def _template(response: CloudFormationResponse) -> str | None:
    """The template that a request brings; None: the stack's own once more."""
    if url := response._get_param("TemplateURL"):
        return read(url)
    text = response._get_param("TemplateBody")
    if text is not None and len(text.encode()) > _BODY_LIMIT:
        raise invalid(
            "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: "
            f"Member must have length less than or equal to {_BODY_LIMIT}"
        )
    return text


def _parameters(response: CloudFormationResponse, before: dict[str, str]) -> dict[str, str]:
    """What is not given takes the template's default, in an update, too (?)."""
    given = {}
    for parameter in response._get_param("Parameters", []):
        key = parameter["ParameterKey"]
        previous = parameter.get("UsePreviousValue")
        given[key] = before[key] if previous else parameter["ParameterValue"]
    return given


def _unknown(_response: CloudFormationResponse) -> Any:
    raise NotImplementedError("the world knows no such action of CloudFormation")


CloudFormationResponse.create_stack = _create_stack
CloudFormationResponse.update_stack = _update_stack
CloudFormationResponse.delete_stack = _delete_stack
CloudFormationResponse.describe_stacks = _describe_stacks
CloudFormationResponse.describe_stack_resources = _describe_stack_resources
# What all others begin with.
CloudFormationResponse.cloudformation_backend = property(_unknown)
