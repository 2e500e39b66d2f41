"""What an IAM policy says to a request, by the rules of AWS that moto leaves out: resources and conditions.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]
ELEMENTS = {"Sid", "Effect", "Action", "Resource", "Condition"}


@dataclass(frozen=True)
class Request:
    """An *action* on the ARN *resource*; *context* has the values of each condition key that the service gives."""

    action: str
    resource: str = "*"
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def allowed(policies: Iterable[Policy], request: Request) -> bool:
    """Whether a statement allows it and none denies it."""
    found = {each["Effect"] for policy in policies for each in policy["Statement"] if _concerns(each, request)}
    return found == {"Allow"}


def matches(pattern: str, text: str) -> bool:
    """`*` is any characters and `?` is one.

    In an ARN no wildcard reaches over one of its first five colons. Ours stand behind them, or for a whole resource.
    """
    if "${" in pattern:
        raise ValueError(f"{pattern} has a variable")
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL))


def _concerns(statement: Mapping[str, Any], request: Request) -> bool:
    if unknown := statement.keys() - ELEMENTS:
        raise ValueError(f"{unknown} is not evaluated here")
    return (
        any(matches(action.lower(), request.action.lower()) for action in listed(statement["Action"]))
        and any(matches(resource, request.resource) for resource in listed(statement["Resource"]))
        and all(
            _holds(operator, key, listed(wanted), request.context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, key: str, wanted: list[str], context: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a condition does. A key that the request lacks fulfils ForAllValues and Null alone.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html
    """
    values = {name.lower(): each for name, each in context.items()}.get(key.lower(), ())
    quantifier, _, comparison = operator.rpartition(":")
    if comparison == "Null":
        return wanted == [str(not values).lower()]
    if comparison not in COMPARISONS or (not quantifier and len(values) > 1):
        raise ValueError(f"{operator} of {key} is not evaluated here, or takes one value only")
    compare = COMPARISONS[comparison]
    return QUANTIFIERS[quantifier](any(compare(each, value) for each in wanted) for value in values)


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": str.__eq__,
    "StringLike": matches,
    "ArnEquals": matches,  # the same as ArnLike
}
QUANTIFIERS: Mapping[str, Callable[[Iterable[bool]], bool]] = {"": any, "ForAnyValue": any, "ForAllValues": all}
