"""CloudFormation templates: their functions, parameters, rules and conditions, and the order of
their resources (CloudFormation user guide, "Template anatomy" and "Intrinsic function reference").

moto's parser checks no parameter and no rule, and leaves `AWS::NoValue` in lists. What the world
does not know of the language is refused, never ignored. Wordings of errors are (?) unless quoted.
"""

import base64
import re
from collections.abc import Callable
from typing import Any

from awscli.customizations.cloudformation.yamlhelper import yaml_parse
from moto.cloudformation.exceptions import ValidationError

# Removes the property, or the list's item, that it is the value of.
NO_VALUE = object()

# What a function is looked up by: a Ref's name, or (resource, attribute).
Lookup = Callable[[str], Any]
Attribute = Callable[[str, str], Any]

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z0-9_.:]+")
# "Template anatomy", Rules: no other functions are known there; Conditions know no Fn::Contains.
_IN_RULES = {"Ref", "Fn::And", "Fn::Contains", "Fn::Equals", "Fn::Not", "Fn::Or"}
_SECTIONS = {
    *("AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Rules"),
    *("Conditions", "Resources", "Outputs"),
}
_RESOURCE_KEYS = {"Type", "Properties", "Condition", "DependsOn", "Metadata"}


def invalid(message: str) -> ValidationError:
    return ValidationError(message=message)


def parse(text: str) -> dict[str, Any]:
    """The template with its functions in long form."""
    body = yaml_parse(text)
    if unknown := set(body) - _SECTIONS:
        raise NotImplementedError(f"the world knows no {sorted(unknown)} in templates")
    for name, resource in body["Resources"].items():
        if unknown := set(resource) - _RESOURCE_KEYS:
            raise NotImplementedError(f"the world knows no {sorted(unknown)} of {name}")
    return body


class Functions:
    """Evaluates intrinsic functions. Of `Fn::If` only the branch that is taken is looked at."""

    def __init__(
        self,
        ref: Lookup,
        attribute: Attribute | None = None,
        conditions: dict[str, Any] | None = None,
        only: set[str] | None = None,
    ) -> None:
        self._ref = ref
        self._attribute = attribute
        self._conditions = conditions or {}
        self._only = only
        self._known = {
            name: getattr(self, f"_{name.removeprefix('Fn::').lower()}")
            for name in (
                *(
                    "Fn::And",
                    "Fn::Base64",
                    "Fn::Contains",
                    "Fn::Equals",
                    "Fn::GetAtt",
                    "Fn::GetAZs",
                ),
                *("Fn::If", "Fn::Join", "Fn::Not", "Fn::Or", "Fn::Select", "Fn::Split", "Fn::Sub"),
            )
        } | {"Ref": self._ref, "Condition": self.condition}

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            items = [self.value(item) for item in node]
            return [item for item in items if item is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            [(name, argument)] = node.items()
            # A policy's statement has a key named Condition; there it is no function.
            if name.startswith("Fn::") or name == "Ref" or _is_condition(name, argument):
                if name not in self._known or (self._only and name not in self._only):
                    raise NotImplementedError(f"the world knows no {name} here")
                return self._known[name](argument)
        values = {key: self.value(item) for key, item in node.items()}
        return {key: item for key, item in values.items() if item is not NO_VALUE}

    def condition(self, name: str) -> bool:
        if name not in self._conditions:
            raise invalid(f"Template format error: Unresolved condition {name}")
        return bool(self.value(self._conditions[name]))

    def _if(self, argument: list[Any]) -> Any:
        name, yes, no = argument
        return self.value(yes if self.condition(name) else no)

    def _and(self, argument: list[Any]) -> bool:
        return all(self._several("Fn::And", argument))

    def _or(self, argument: list[Any]) -> bool:
        return any(self._several("Fn::Or", argument))

    def _several(self, name: str, argument: list[Any]) -> list[bool]:
        # "Condition functions": the minimum number of conditions is 2, and the maximum is 10.
        if not 2 <= len(argument) <= 10:
            raise invalid(f"Template error: {name} needs 2 to 10 conditions")
        return [self.value(item) for item in argument]

    def _not(self, argument: list[Any]) -> bool:
        [item] = argument
        return not self.value(item)

    def _equals(self, argument: list[Any]) -> bool:
        left, right = (_text(self.value(item)) for item in argument)
        return left == right

    def _contains(self, argument: list[Any]) -> bool:
        if self._only is not _IN_RULES:
            raise invalid("Template error: Fn::Contains is for rules")
        items, item = argument
        return self.value(item) in self.value(items)

    def _join(self, argument: list[Any]) -> str:
        delimiter, items = argument
        return delimiter.join(_text(item) for item in self.value(items))

    def _split(self, argument: list[Any]) -> list[str]:
        delimiter, text = argument
        return self.value(text).split(delimiter)

    def _select(self, argument: list[Any]) -> Any:
        index, items = int(self.value(argument[0])), self.value(argument[1])
        if not 0 <= index < len(items):
            raise invalid(
                f"Template error: Fn::Select cannot select nonexistent value at index {index}"
            )
        return items[index]

    def _getazs(self, argument: Any) -> list[str]:
        region = self.value(argument) or self._ref("AWS::Region")
        return [f"{region}{letter}" for letter in "abcdef"]

    def _base64(self, argument: Any) -> str:
        return base64.b64encode(self.value(argument).encode()).decode()

    def _getatt(self, argument: Any) -> Any:
        resource, _, attribute = (
            argument.partition(".") if isinstance(argument, str) else (argument[0], "", argument[1])
        )
        if self._attribute is None:
            raise invalid("Template error: Fn::GetAtt cannot be used here")
        return self._attribute(resource, attribute)

    def _sub(self, argument: Any) -> str:
        text, variables = argument if isinstance(argument, list) else (argument, {})

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return f"${{{name[1:]}}}"
            if name in variables:
                return _text(self.value(variables[name]))
            return _text(self._getatt(name) if "." in name else self._ref(name))

        return _VARIABLE.sub(fill, text)


def check_rules(body: dict[str, Any], ref: Lookup) -> None:
    """Refuse parameters that an assertion forbids."""
    functions = Functions(ref, only=_IN_RULES)
    for name, rule in body.get("Rules", {}).items():
        if "RuleCondition" in rule and not functions.value(rule["RuleCondition"]):
            continue
        for assertion in rule["Assertions"]:
            if not functions.value(assertion["Assert"]):
                why = assertion.get("AssertDescription", "an assertion failed")
                raise invalid(f"Template error: rule {name}: {why}")


def check_parameters(body: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    """The parameters with their defaults, as strings; refuses what their constraints forbid."""
    declared = body.get("Parameters", {})
    if unknown := [name for name in given if name not in declared]:
        raise invalid(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
    values = {name: given.get(name, spec.get("Default")) for name, spec in declared.items()}
    if missing := [name for name, value in values.items() if value is None]:
        raise invalid(f"Parameters: [{', '.join(missing)}] must have values")
    for name, spec in declared.items():
        values[name] = value = _text(values[name])
        allowed = [_text(item) for item in spec.get("AllowedValues", [])]
        # "Parameters", AllowedPattern: it "must match the entire parameter value".
        matches = re.fullmatch(spec.get("AllowedPattern", r"[\s\S]*"), value)
        if not matches or (allowed and value not in allowed):
            limits = {"MinLength", "MaxLength", "MinValue", "MaxValue"} & set(spec)
            assert not limits, f"the world knows no {limits}"
            why = spec.get("ConstraintDescription")
            if why is None:
                kind = "be one of AllowedValues" if matches else "match its pattern"
                why = f"must {kind}"
            raise invalid(f"Parameter {name} failed to satisfy constraint: {why}")
    return values


def creation_order(body: dict[str, Any], exists: Callable[[str], bool]) -> list[str]:
    """The resources whose conditions hold, each after those that it names."""
    resources = body["Resources"]
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise invalid(f"Circular dependency between resources: [{', '.join(path)}]")
        if name not in ordered and exists(name):
            for needed in dependencies(resources[name]):
                if needed in resources:
                    visit(needed, (*path, name))
            ordered.append(name)

    for name in resources:
        visit(name, ())
    return ordered


def dependencies(resource: dict[str, Any]) -> list[str]:
    """The names that a resource mentions, parameters included, in the template's order."""
    explicit = resource.get("DependsOn", [])
    names = [explicit] if isinstance(explicit, str) else list(explicit)
    return names + _mentioned(resource.get("Properties", {}))


def _mentioned(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _mentioned(item)]
    if not isinstance(node, dict):
        return []
    names: list[str] = []
    for key, item in node.items():
        if key == "Ref":
            names.append(item)
        elif key == "Fn::GetAtt":
            names.append(item.split(".")[0] if isinstance(item, str) else item[0])
        else:
            if key == "Fn::Sub":
                text = item[0] if isinstance(item, list) else item
                own = item[1] if isinstance(item, list) else {}
                names += [name.split(".")[0] for name in _variables(text) if name not in own]
            names += _mentioned(item)
    return names


def _variables(text: str) -> list[str]:
    """What a text for Fn::Sub names."""
    names = [name for name in _VARIABLE.findall(text) if not name.startswith("!")]
    if not all(map(_VARIABLE_NAME.fullmatch, names)):
        raise invalid(
            "Template error: variable names in Fn::Sub syntax must contain only "
            "alphanumeric characters, underscores, periods, and colons"
        )
    return names


def _is_condition(name: str, argument: Any) -> bool:
    return name == "Condition" and isinstance(argument, str)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
