"""Weather: rules that delay, refuse, break or replace answers of the APIs and of IMDS."""

import fnmatch
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from .errors import ApiError, error_reply, throttled
from .wire import Reply

Run = Callable[[], Reply]


@dataclass(frozen=True)
class Latency:
    """Adds to every other rule that fires; slept before the call is executed."""

    seconds: float


@dataclass(frozen=True)
class ErrorReply:
    status: int
    code: str
    message: str = "Injected by the test."


@dataclass(frozen=True)
class Throttle:
    """The service's own way to say that the request rate is too high."""


@dataclass(frozen=True)
class Reset:
    """TCP RST; the call is not executed."""


@dataclass(frozen=True)
class ResetAfter:
    """The call takes effect, then TCP RST in place of the answer."""


@dataclass(frozen=True)
class Hang:
    """No answer for so long (or until the world resets or closes), then RST."""

    seconds: float = 3600.0


@dataclass(frozen=True)
class Truncate:
    """The real answer, cut in its middle; Content-Length matches what is left."""


@dataclass(frozen=True)
class ShortBody:
    """Half of the body that Content-Length promises, then the connection closes."""


@dataclass(frozen=True)
class Trickle:
    """The real answer, so many bytes of its body a second."""

    rate: float


@dataclass(frozen=True)
class Replace:
    body: str
    status: int = 200


@dataclass(frozen=True)
class Body:
    """IMDS: this text for the path."""

    text: str
    status: int = 200


@dataclass(frozen=True)
class Edit:
    """The real answer, in which what `change` returns stands in the place of each item of a list
    that has `key` for the text of one of its fields, such as its ID."""

    key: str
    change: Callable[[Element], list[Element]]

    def apply(self, body: bytes) -> bytes:
        document = ElementTree.fromstring(body)
        found = [
            (parent, item)
            for parent in document.iter()
            for item in parent
            if _name(item) in ("item", "member") and any(part.text == self.key for part in item)
        ]
        for parent, item in found:
            at = list(parent).index(item)
            parent[at : at + 1] = self.change(item)
        # As the services write it, without prefixes.
        ElementTree.register_namespace("", document.tag[1:].partition("}")[0])
        return ElementTree.tostring(document, encoding="utf-8", xml_declaration=True)


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def field(name: str, text: str | None) -> Callable[[Element], list[Element]]:
    """For Edit: this text for the item's field and all of that name below it, or none of them."""

    def change(item: Element) -> list[Element]:
        for parent in list(item.iter()):
            for part in list(parent):
                if _name(part) == name and text is None:
                    parent.remove(part)
                elif _name(part) == name:
                    part.text = text
        return [item]

    return change


def twice(item: Element) -> list[Element]:
    """For Edit."""
    return [item, item]


Effect = (
    Latency
    | ErrorReply
    | Throttle
    | Reset
    | ResetAfter
    | Hang
    | Truncate
    | ShortBody
    | Trickle
    | Replace
    | Body
    | Edit
)


@dataclass
class Rule:
    """Fires on matching requests: lets the first `skip` pass, then fires `times` times.

    `after` has the call executed before the effect. For IMDS set service="imds" and select by
    `path` and `method`; `action`, `path` and the values of `match` are shell-style patterns.
    """

    action: str | None
    effect: Effect
    times: int | None = None
    skip: int = 0
    match: Mapping[str, str] | None = None
    after: bool = False
    service: str | None = None
    path: str | None = None
    method: str | None = None
    instance_id: str | None = None
    fired: int = attribute(default=0, init=False)
    _seen: int = attribute(default=0, init=False, repr=False)

    def wants(self, subject: "Subject") -> bool:
        if (self.service == "imds") != (subject.service == "imds"):
            return False
        checks = (
            (self.service, subject.service),
            (self.action, subject.action),
            (self.path, subject.path),
            (self.method, subject.method),
            (self.instance_id, subject.instance_id),
        )
        if not all(want is None or fnmatch.fnmatchcase(got, want) for want, got in checks):
            return False
        wanted = (self.match or {}).items()
        return all(fnmatch.fnmatchcase(subject.params.get(k, ""), v) for k, v in wanted)

    def spent(self) -> bool:
        return self.times is not None and self.fired >= self.times


@dataclass(frozen=True)
class Subject:
    """What a rule can select by."""

    service: str
    action: str = ""
    params: Mapping[str, str] = attribute(default_factory=dict)
    path: str = ""
    method: str = ""
    instance_id: str = ""


class Weather:
    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._lock = threading.Lock()
        self._calm = threading.Event()

    def add(self, rule: Rule) -> Rule:
        with self._lock:
            self.rules.append(rule)
        return rule

    def reset(self) -> None:
        """Forget the rules and let go of whatever hangs."""
        with self._lock:
            self.rules.clear()
            self._calm.set()
            self._calm = threading.Event()

    def run(self, subject: Subject, execute: Run) -> Reply:
        """Answer the request through the weather. Holds no lock while it sleeps or waits."""
        latency, rule, calm = self._forecast(subject)
        if latency:
            time.sleep(latency)
        if rule is None:
            return execute()
        effect = rule.effect
        reply = Reply()
        if rule.after or isinstance(effect, (ResetAfter, Truncate, ShortBody, Trickle, Edit)):
            reply = execute()
        match effect:
            case ErrorReply(status, code, message):
                return error_reply(subject.service, ApiError(status, code, message))
            case Throttle():
                return error_reply(subject.service, throttled(subject.service))
            case Hang(seconds):
                calm.wait(seconds)
                return Reply(0, reset=True)
            case Truncate():
                return replace(reply, body=reply.body[: len(reply.body) // 2])
            case ShortBody():
                half = len(reply.body) // 2
                return replace(reply, body=reply.body[:half], missing=len(reply.body) - half)
            case Edit():
                return replace(reply, body=effect.apply(reply.body))
            case Trickle(rate):
                return replace(reply, rate=rate)
            case Replace(text, status) | Body(text, status):
                kind = "text/plain" if subject.service == "imds" else "text/xml;charset=UTF-8"
                return Reply(status, text.encode(), {"Content-Type": kind})
        return Reply(0, reset=True)  # Reset and ResetAfter

    def _forecast(self, subject: Subject) -> tuple[float, Rule | None, threading.Event]:
        """Every latency that fires, and the first other rule that does."""
        latency, chosen = 0.0, None
        with self._lock:
            for rule in self.rules:
                delays = isinstance(rule.effect, Latency)
                if (chosen and not delays) or rule.spent() or not rule.wants(subject):
                    continue
                rule._seen += 1
                if rule._seen <= rule.skip:
                    continue
                rule.fired += 1
                if delays:
                    latency += rule.effect.seconds
                else:
                    chosen = rule
            return latency, chosen, self._calm
