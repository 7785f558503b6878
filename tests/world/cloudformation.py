"""CloudFormation's stacks: created, updated, deleted, nested.

moto deletes and recreates what an update changes, compares templates by their texts, knows neither
rules nor constraints, and deletes groups with their instances. So this replaces it behind the same
API, for what the world's templates use; any other action is refused. Facts are the CloudFormation
user guide's, (?) marks what no public source says. Creating and updating take no time; deleting
takes as long as a group's terminating hooks do. Here is one stack; which there are is in stacks.
"""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError
from moto.cloudformation.exceptions import CloudFormationError
from moto.core import DEFAULT_ACCOUNT_ID

from . import stack_groups, stack_identity
from .autoscaling import REGION
from .stack_resources import KINDS, Resource
from .template import NO_VALUE, Functions, creation_order, dependencies, invalid

__all__ = ["stack_groups", "stack_identity"]

NESTED = "AWS::CloudFormation::Stack"
GONE = "DELETE_COMPLETE"
# While a stack deletes resources, and what it is called afterwards.
_DELETING = {
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS": "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS": "UPDATE_ROLLBACK_COMPLETE",
    "ROLLBACK_IN_PROGRESS": "ROLLBACK_COMPLETE",
    "DELETE_IN_PROGRESS": GONE,
}


@dataclass
class Inputs:
    """What a stack is made from: its template, and its parameters as they are given."""

    body: dict[str, Any]
    values: dict[str, str]
    # Of parameters that name one of Systems Manager's.
    resolved: dict[str, str]


@dataclass
class Stack:
    name: str
    inputs: Inputs
    parent: "Stack | None" = None
    status: str = "CREATE_IN_PROGRESS"
    reason: str = ""
    id: str = ""
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    resources: dict[str, Resource] = field(default_factory=dict)
    # To be deleted.
    leaving: list[Resource] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list)
    nested: list["Stack"] = field(default_factory=list)

    def __post_init__(self) -> None:
        where = f"arn:aws:cloudformation:{REGION}:{DEFAULT_ACCOUNT_ID}"
        self.id = f"{where}:stack/{self.name}/{uuid.uuid4()}"

    @property
    def functions(self) -> Functions:
        return Functions(self._ref, self._attribute, self.inputs.body.get("Conditions"))

    def exists(self, logical: str) -> bool:
        """Whether a resource's condition, if it has one, holds."""
        condition = self.inputs.body["Resources"][logical].get("Condition")
        return condition is None or self.functions.condition(condition)

    def _ref(self, name: str) -> Any:
        if name in self.inputs.values:
            return self.inputs.resolved.get(name, self.inputs.values[name])
        pseudo = {
            "AWS::AccountId": DEFAULT_ACCOUNT_ID,
            "AWS::NoValue": NO_VALUE,
            "AWS::Partition": "aws",
            "AWS::Region": REGION,
            "AWS::StackId": self.id,
            "AWS::StackName": self.name,
            "AWS::URLSuffix": "amazonaws.com",
        }
        return pseudo[name] if name in pseudo else self._resource(name).id

    def _attribute(self, name: str, attribute: str) -> str:
        attributes = self._resource(name).attributes
        if attribute not in attributes:
            # Of a real attribute, too, that the world does not know.
            raise invalid(
                f"Template error: resource {name} does not support attribute type {attribute} "
                "in Fn::GetAtt"
            )
        return attributes[attribute]

    def _resource(self, name: str) -> Resource:
        if name not in self.resources:
            raise invalid(
                f"Template format error: Unresolved resource dependencies [{name}] in the template"
            )
        return self.resources[name]

    # --- What happens ---------------------------------------------------------------------------

    def create(self) -> None:
        try:
            self._converge()
            self.status = "CREATE_COMPLETE"
        except (ClientError, CloudFormationError) as error:
            # "Choose how to handle failures": by default everything is rolled back.
            self._fails(error)
            self._leave(list(self.resources.values()), "ROLLBACK_IN_PROGRESS")

    def update(self, inputs: Inputs) -> None:
        before, self.inputs, self.reason = self.inputs, inputs, ""
        self.status = "UPDATE_IN_PROGRESS"
        try:
            self._converge()
            self.status = "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
        except (ClientError, CloudFormationError) as error:
            self._fails(error)
            self.status = "UPDATE_ROLLBACK_IN_PROGRESS"
            self.inputs = before
            self._converge()
            self.status = "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS"

    def delete(self) -> None:
        self._leave(list(self.resources.values()), "DELETE_IN_PROGRESS")

    def _leave(self, resources: list[Resource], status: str) -> None:
        self.leaving += resources
        self.resources = {}
        self.outputs = []
        self.status = status

    def _fails(self, error: Exception) -> None:
        self.reason = f"The following resource(s) failed: {error}"

    def _converge(self) -> None:
        """Make the resources what the inputs say."""
        body = self.inputs.body
        wanted = creation_order(body, self.exists)
        for logical in wanted:
            self._make(logical, body["Resources"][logical])
        for logical in [name for name in self.resources if name not in wanted]:
            # "Update behaviors": what is no longer needed is deleted when all the rest succeeded.
            self.leaving.append(self.resources.pop(logical))
        self.outputs = [
            {
                "OutputKey": key,
                "OutputValue": str(self.functions.value(output["Value"])),
                "Description": output.get("Description", ""),
            }
            for key, output in body.get("Outputs", {}).items()
            if "Condition" not in output or self.functions.condition(output["Condition"])
        ]

    def _make(self, logical: str, declared: dict[str, Any]) -> None:
        name = declared["Type"]
        properties = self.functions.value(declared.get("Properties", {}))
        needs = dependencies(declared)
        tags = {
            "aws:cloudformation:stack-name": self.name,
            "aws:cloudformation:stack-id": self.id,
            "aws:cloudformation:logical-id": logical,
        }
        new = Resource(logical, name, properties, needs, tags)
        old = self.resources.get(logical)
        if old is not None:
            changed = {
                key
                for key in old.properties.keys() | properties.keys()
                if old.properties.get(key) != properties.get(key)
            }
            # Nested stacks are always updated, for their own parameters may have changed.
            if not changed and name != NESTED:
                old.needs = needs
                return
            if changed <= set(KINDS[name].in_place):
                before, old.properties, old.needs = old.properties, properties, needs
                KINDS[name].update(old, before)
                return
            self.leaving.append(old)
        new.attributes = {}
        KINDS[name].create(new)
        self.resources[logical] = new

    def proceed(self) -> bool:
        """Delete what can be deleted now; True if anything happened."""
        if self.status not in _DELETING:
            return False
        deleted = False
        for resource in list(self.leaving):
            needed = any(resource.logical in other.needs for other in self.leaving)
            if not needed and _delete(resource):
                self.leaving.remove(resource)
                deleted = True
        # A nested stack's cleanup is waited for.
        busy = any(stack.status.endswith("_IN_PROGRESS") for stack in self.nested)
        if self.leaving or busy:
            return deleted
        self.status = _DELETING[self.status]
        return True


def _delete(resource: Resource) -> bool:
    try:
        return KINDS[resource.kind].delete(resource)
    except ClientError as error:
        # Something still uses it. (CloudFormation gives up after some tries.)
        if error.response["Error"]["Code"] in ("DependencyViolation", "DeleteConflict"):
            return False
        raise
