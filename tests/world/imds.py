"""IMDSv2 for one instance, answered from the emulator's state (EC2 user guide,
"Use the Instance Metadata Service" and "Instance metadata categories")."""

import base64
import json
import secrets
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import Instance

from .autoscaling import LIFECYCLE, REGION
from .clock import CLOCK
from .record import ImdsCall, Recorder
from .spot import SPOT
from .weather import Subject, Weather
from .wire import HttpServer, Reply, Request

_ROOT = "/latest/meta-data"
_USER_DATA = "/latest/user-data"
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
        # None: no instance profile.
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
            if request.path == _USER_DATA:
                found = user_data(self.instance_id)
            else:
                text = self._lookup(request.path)
                found = None if text is None else text.encode()
        # EC2 user guide, "Access instance metadata": user data comes as octets, the rest as text.
        kind = "application/octet-stream" if request.path == _USER_DATA else "text/plain"
        return (
            _plain(404, "Not Found") if found is None else Reply(200, found, {"Content-Type": kind})
        )

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

    def _lookup(self, path: str) -> str | None:
        if path != _ROOT and not path.startswith(f"{_ROOT}/"):
            return None
        key = path[len(_ROOT) + 1 :]
        values = self._values()
        if key in values:
            return values[key]
        directory = key if not key or key.endswith("/") else f"{key}/"
        children: dict[str, None] = {}
        for name in values:
            if name.startswith(directory):
                child, slash, _ = name[len(directory) :].partition("/")
                children[child + slash] = None
        return "\n".join(children) if children else None

    def _values(self) -> dict[str, str]:
        instance = _instance(self.instance_id)
        interfaces = instance.nics
        values = {
            "instance-id": instance.id,
            "instance-type": instance.instance_type,
            "ami-id": instance.image_id,
            "local-ipv4": interfaces[0].private_ip_address,
            "mac": interfaces[0].mac_address,
            "placement/availability-zone": instance.availability_zone,
            "placement/region": REGION,
        }
        if instance.public_ip:
            values["public-ipv4"] = instance.public_ip
        for index, interface in sorted(interfaces.items()):
            vpc = interface.ec2_backend.get_vpc(interface.subnet.vpc_id)
            blocks = [item["cidr_block"] for item in vpc.get_cidr_block_association_set()]
            addresses = [item["PrivateIpAddress"] for item in interface.private_ip_addresses]
            about = f"network/interfaces/macs/{interface.mac_address}"
            values |= {
                f"{about}/device-number": str(index),
                f"{about}/interface-id": interface.id,
                f"{about}/local-ipv4s": "\n".join(addresses),
                f"{about}/mac": interface.mac_address,
                f"{about}/owner-id": interface.owner_id,
                f"{about}/subnet-id": interface.subnet.id,
                f"{about}/subnet-ipv4-cidr-block": interface.subnet.cidr_block,
                f"{about}/vpc-id": vpc.id,
                f"{about}/vpc-ipv4-cidr-block": blocks[0],
                f"{about}/vpc-ipv4-cidr-blocks": "\n".join(blocks),
            }
        if target := LIFECYCLE.target(self.instance_id):
            values["autoscaling/target-lifecycle-state"] = target
        values |= SPOT.notices(self.instance_id)
        if self.role:
            values[f"iam/security-credentials/{self.role}"] = self._credentials()
        return values

    def _credentials(self) -> str:
        now = datetime.now(UTC)
        expires = now + timedelta(seconds=self.credentials_seconds)
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": _timestamp(now),
                "Type": "AWS-HMAC",
                "AccessKeyId": self.access_key_id,
                "SecretAccessKey": "the-emulator-checks-no-signatures",
                "Token": f"session-of-{self.instance_id}",
                "Expiration": _timestamp(expires),
            }
        )


def access_key_id(instance_id: str) -> str:
    """The key ID that an instance's requests are signed with, and so their `Call.source`."""
    return "ASIA" + instance_id.removeprefix("i-")[:16].upper()


def user_data(instance_id: str) -> bytes | None:
    """The instance's user data as IMDS answers it, decoded; call it under the world's lock."""
    encoded = _instance(instance_id).user_data
    return (base64.b64decode(str(encoded)) or None) if encoded else None


def _instance(instance_id: str) -> Instance:
    return ec2_backends[DEFAULT_ACCOUNT_ID][REGION].get_instance(instance_id)


def _timestamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(status: int, text: str) -> Reply:
    return Reply(status, text.encode(), {"Content-Type": "text/plain"})
