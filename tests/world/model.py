"""Checks every request against the service model that botocore ships."""

import re
from functools import cache
from typing import Any

import botocore.session
from botocore.model import OperationNotFoundError, ServiceModel, Shape

from .errors import ApiError

CHECKED = ("ec2", "autoscaling")
_INTEGER = re.compile(r"-?\d+")

# A request is flat ("Filter.1.Value.2": "x"); as a tree its inner nodes are dicts.
Tree = dict[str, Any]


@cache
def _service(name: str) -> ServiceModel:
    return botocore.session.get_session().get_service_model(name)


@cache
def _members(service: str, shape: Shape) -> dict[str, tuple[str, Shape]]:
    """Serialized name → (model name, shape) of a structure; botocore keeps its shapes."""
    return {
        _wire_name(service, member, name): (name, member) for name, member in shape.members.items()
    }


def _wire_name(service: str, shape: Shape, default: str) -> str:
    hints = shape.serialization
    if service != "ec2":
        return hints.get("name", default)
    # The EC2 protocol prefers queryName and capitalizes locationName in requests.
    if "queryName" in hints:
        return hints["queryName"]
    name = hints.get("name", default)
    return name[0].upper() + name[1:]


def check(service: str, params: dict[str, str]) -> None:
    """Raise the AWS error that a request of this shape deserves."""
    if service not in CHECKED:
        return
    model = _service(service)
    action, version = params.get("Action", ""), params.get("Version", "")
    if not action:
        raise ApiError(400, "MissingAction", "The request must contain the parameter Action")
    try:
        operation = model.operation_model(action)
    except OperationNotFoundError:
        operation = None
    if operation is None or version != model.api_version:
        raise ApiError(
            400, "InvalidAction", f"The action {action} is not valid for version {version!r}"
        )
    tree = _tree({k: v for k, v in params.items() if k not in ("Action", "Version")})
    if operation.input_shape is None:
        if tree:
            raise _unknown(next(iter(tree)))
        return
    _Check(service).structure(operation.input_shape, tree, "")


def _tree(params: dict[str, str]) -> Tree:
    root: Tree = {}
    for key, value in params.items():
        node = root
        *parents, leaf = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise _unknown(key)
        if isinstance(node.get(leaf), dict):
            raise _unknown(key)
        node[leaf] = value
    return root


def _unknown(path: str) -> ApiError:
    return ApiError(400, "UnknownParameter", f"The parameter {path} is not recognized")


class _Check:
    """Walks one request; `path` is where it is in it."""

    def __init__(self, service: str) -> None:
        self._service = service

    def value(self, shape: Shape, node: Any, path: str) -> None:
        if shape.type_name == "structure":
            self.structure(shape, node, path)
        elif shape.type_name == "list":
            self._list(shape, node, path)
        elif shape.type_name == "map":
            self._map(shape, node, path)
        elif isinstance(node, dict):
            raise _unknown(_deepest(path, node))
        elif shape.type_name in ("integer", "long") and not _INTEGER.fullmatch(node):
            raise _invalid(path, node, "integer")
        elif shape.type_name == "boolean" and node.lower() not in ("true", "false"):
            raise _invalid(path, node, "boolean")

    def structure(self, shape: Shape, node: Any, path: str) -> None:
        if not isinstance(node, dict):
            raise _unknown(path)
        known = _members(self._service, shape)
        prefix = f"{path}." if path else ""
        for name, child in node.items():
            if name not in known:
                raise _unknown(_deepest(prefix + name, child))
            self.value(known[name][1], child, prefix + name)
        for name, (model_name, _) in known.items():
            if model_name in shape.required_members and name not in node:
                raise ApiError(
                    400,
                    "MissingParameter",
                    f"The request must contain the parameter {prefix}{name}",
                )

    def _list(self, shape: Shape, node: Any, path: str) -> None:
        if self._service != "ec2" and not shape.serialization.get("flattened"):
            if node == "":
                return  # the query protocol's empty list
            member = shape.member.serialization.get("name", "member")
            if not isinstance(node, dict) or set(node) != {member}:
                raise _unknown(_deepest(path, node))
            node, path = node[member], f"{path}.{member}"
        if not isinstance(node, dict):
            raise _unknown(path)
        for index, child in node.items():
            if not index.isdigit() or int(index) < 1:
                raise _unknown(_deepest(f"{path}.{index}", child))
            self.value(shape.member, child, f"{path}.{index}")

    def _map(self, shape: Shape, node: Any, path: str) -> None:
        entries = node.get("entry") if isinstance(node, dict) else None
        if not isinstance(entries, dict) or set(node) != {"entry"}:
            raise _unknown(_deepest(path, node))
        for index, pair in entries.items():
            here = f"{path}.entry.{index}"
            if not isinstance(pair, dict) or set(pair) != {"key", "value"}:
                raise _unknown(_deepest(here, pair))
            self.value(shape.key, pair["key"], f"{here}.key")
            self.value(shape.value, pair["value"], f"{here}.value")


def _deepest(path: str, node: Any) -> str:
    """The first full parameter name below a node, for the message."""
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        path = f"{path}.{name}"
    return path


def _invalid(path: str, value: str, kind: str) -> ApiError:
    return ApiError(
        400, "InvalidParameterValue", f"Value ({value}) for parameter {path} is not of type {kind}"
    )
