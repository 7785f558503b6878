"""What AWS's services ask of each other: clients whose calls are answered in the same thread, under
the world's lock, as a test's own would be."""

from collections.abc import Callable
from typing import Any

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from moto.core.botocore_stubber import MockRawResponse

from .autoscaling import REGION
from .record import TESTER
from .wire import Reply, Request

_URL = "http://world"


class Inside:
    def __init__(self) -> None:
        self.answer: Callable[[Request], Reply] | None = None
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        if service not in self._clients:
            client = boto3.client(
                service,
                region_name=REGION,
                endpoint_url=_URL,
                aws_access_key_id=TESTER,
                aws_secret_access_key="test",
                config=Config(retries={"total_max_attempts": 1}, parameter_validation=True),
            )
            client.meta.events.register("before-send", self._send)
            self._clients[service] = client
        return self._clients[service]

    def _send(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        body = request.body or b""
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        headers["host"] = "world"
        path, _, query = request.url.removeprefix(_URL).partition("?")
        assert self.answer is not None, "a world runs before its services do"
        reply = self.answer(
            Request(
                request.method,
                path,
                query,
                headers,
                body.encode() if isinstance(body, str) else bytes(body),
            )
        )
        raw = MockRawResponse(reply.body)
        return AWSResponse(request.url, reply.status, reply.headers, raw)


# One world a process, like moto's state.
INSIDE = Inside()
