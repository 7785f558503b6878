"""IMDSv2 for one instance: how it is asked (EC2 user guide, "Use the Instance Metadata Service");
what it says is in metadata.py."""

import json
import secrets
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID

from . import metadata
from .autoscaling import LIFECYCLE
from .clock import CLOCK
from .record import ImdsCall, Recorder
from .weather import Subject, Weather
from .wire import HttpServer, Reply, Request

_TOKEN = "x-aws-ec2-metadata-token"
_TTL = "x-aws-ec2-metadata-token-ttl-seconds"


class Imds:
    """`mode` is "normal", "off" (403 to everything) or "v1_only" (no tokens; GETs answer without
    one, which proves whether a client falls back to IMDSv1)."""

    def __init__(
        self, instance_id: str, lock: threading.RLock, recorder: Recorder, weather: Weather
    ) -> None:
        self.instance_id = instance_id
        self.mode = "normal"
        # Where EC2 was told of no instance profile; None: there is none.
        self.role: str | None = "hanat-nat"
        # How far ahead the credentials expire; negative: they already have.
        self.credentials_seconds = 6 * 3600.0
        self.access_key_id = access_key_id(instance_id)
        self.http = HttpServer(self._handle)
        self.url = ""
        self._lock = lock
        self._recorder = recorder
        self._weather = weather
        self._tokens: dict[str, float] = {}

    def listen(self, **where: Any) -> str:
        """Serve on another socket too; the first one is `url`. Arguments: HttpServer.listen."""
        url = self.http.listen(**where)
        self.url = self.url or url
        return url

    def expire_tokens(self) -> None:
        """Every token handed out so far is invalid from now on."""
        self._tokens.clear()

    def close(self) -> None:
        self.http.close()

    def _handle(self, request: Request) -> Reply:
        had_token = _TOKEN in request.headers
        call = self._recorder.add_imds(
            ImdsCall(self.instance_id, request.method, request.path, had_token)
        )
        subject = Subject(
            "imds",
            path=request.path,
            method=request.method,
            instance_id=self.instance_id,
        )
        reply = self._weather.run(subject, lambda: self._answer(request))
        call.status = 0 if reply.reset else reply.status
        return reply

    def _answer(self, request: Request) -> Reply:
        if self.mode == "off":
            return _plain(403, "Forbidden")
        if request.path == "/latest/api/token":
            return self._token(request)
        if request.method not in ("GET", "HEAD"):
            return _plain(405, "Method Not Allowed")
        if self.mode == "normal":
            expires = self._tokens.get(request.headers.get(_TOKEN, ""), 0.0)
            if expires <= CLOCK.now():
                return _plain(401, "Unauthorized")
        with self._lock:
            LIFECYCLE.tick()
            return self._look_up(request.path)

    def _token(self, request: Request) -> Reply:
        if self.mode == "v1_only":
            return _plain(404, "Not Found")
        if request.method != "PUT":
            return _plain(405, "Method Not Allowed")
        # EC2 user guide: a PUT through a proxy is refused.
        if "x-forwarded-for" in request.headers:
            return _plain(403, "Forbidden")
        ttl = request.headers.get(_TTL, "")
        if not ttl.isascii() or not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            return _plain(400, "Bad Request")
        token = secrets.token_urlsafe(40)
        self._tokens[token] = CLOCK.now() + int(ttl)
        reply = _plain(200, token)
        reply.headers[_TTL] = ttl
        return reply

    def _look_up(self, path: str) -> Reply:
        version, _, path = path.removeprefix("/").partition("/")
        if not version:
            return _plain(200, "\n".join(metadata.VERSIONS))
        if version not in metadata.VERSIONS:
            return _plain(404, "Not Found")
        user_data = metadata.user_data(self.instance_id)
        if path in ("user-data", "user-data/") and user_data is not None:
            # EC2 user guide, "Access instance metadata": user data comes as octets.
            return Reply(200, user_data, {"Content-Type": "application/octet-stream"})
        if not path:
            # EC2 lists these without a slash at their end.
            top = ["dynamic", "meta-data", "user-data"]
            return _plain(200, "\n".join(top if user_data is not None else top[:2]))
        values = self._values()
        if path in values:
            return _plain(200, values[path])
        directory = path if path.endswith("/") else f"{path}/"
        children: dict[str, None] = {}
        for name in values:
            if name.startswith(directory):
                child, slash, _ = name[len(directory) :].partition("/")
                children[child + slash] = None
        return _plain(200, "\n".join(children)) if children else _plain(404, "Not Found")

    def _values(self) -> dict[str, str]:
        """By path below a version."""
        values = metadata.tree(self.instance_id)
        if role := self._role():
            values["iam/info"] = self._profile(role)
            values[f"iam/security-credentials/{role}"] = self._credentials()
        identity = metadata.identity(self.instance_id)
        return {
            **{f"meta-data/{path}": value for path, value in values.items()},
            "dynamic/instance-identity/document": identity,
        }

    def _role(self) -> str | None:
        return self.role and (metadata.role(self.instance_id) or self.role)

    def _profile(self, role: str) -> str:
        unknown = f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:instance-profile/{role}"
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": _timestamp(datetime.now(UTC)),
                "InstanceProfileArn": metadata.profile_arn(self.instance_id) or unknown,
                "InstanceProfileId": "AIPA0123456789EXAMPLE",
            }
        )

    def _credentials(self) -> str:
        now = datetime.now(UTC)
        expires = now + timedelta(seconds=self.credentials_seconds)
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": _timestamp(now),
                "Type": "AWS-HMAC",
                "AccessKeyId": self.access_key_id,
                "SecretAccessKey": SECRET_ACCESS_KEY,
                "Token": session_token(self.instance_id),
                "Expiration": _timestamp(expires),
            }
        )


# Of every role; S3's signatures are checked with it, other services' are not.
SECRET_ACCESS_KEY = "the-secret-of-every-role"


def session_token(instance_id: str) -> str:
    return f"session-of-{instance_id}"


def access_key_id(instance_id: str) -> str:
    """The key ID that an instance's requests are signed with, and so their `Call.source`."""
    return "ASIA" + instance_id.removeprefix("i-")[:16].upper()


def _timestamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(status: int, text: str) -> Reply:
    return Reply(status, text.encode(), {"Content-Type": "text/plain"})
