"""How instances ask S3 for objects: by path-style URLs, signed with their role's credentials (S3
API reference, "Authenticating Requests (AWS Signature Version 4)"; the errors are those of its
"Error responses"). moto has the objects and checks no signatures."""

import hmac
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from . import ec2
from .autoscaling import REGION
from .errors import ApiError
from .imds import SECRET_ACCESS_KEY, access_key_id, session_token
from .wire import Request

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
    r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)
# "Authenticating Requests": the request's time must be within 15 minutes of S3's.
_SKEW = timedelta(minutes=15)


def named_by(request: Request) -> str:
    """Of an unsigned request: "s3" if its host says so, else nothing."""
    return "s3" if request.headers.get("host", "").startswith("s3.") else ""


def described(request: Request) -> tuple[str, dict[str, str]]:
    """The action that a request is, and its parameters; no action: the world does not know it."""
    bucket, _, key = request.path.removeprefix("/").partition("/")
    known = request.method == "GET" and key and not request.query
    return "GetObject" if known else "", {"Bucket": bucket, "Key": unquote(key)}


def exists(params: dict[str, str]) -> bool:
    objects = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    return objects.get_object(params["Bucket"], params["Key"]) is not None


def check_signature(request: Request) -> None:
    """Refuse what an instance's credentials did not sign."""
    found = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
    if found is None:
        raise ApiError(400, "AuthorizationHeaderMalformed", "The authorization header is malformed")
    key, _, region, names, signature = found.groups()
    instance = next((i for i in ec2.backend().all_instances() if access_key_id(i.id) == key), None)
    token = request.headers.get("x-amz-security-token")
    if instance is None or token is None:
        # Without their token temporary credentials are none.
        raise ApiError(
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
        )
    if token != session_token(instance.id):
        raise ApiError(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
    if region != REGION:
        raise ApiError(
            400,
            "AuthorizationHeaderMalformed",
            f"The authorization header is malformed; the region '{region}' is wrong; "
            f"expecting '{REGION}'",
        )
    signed = names.split(";")
    if "x-amz-content-sha256" not in request.headers:
        raise ApiError(400, "MissingSecurityHeader", "x-amz-content-sha256 is missing")
    # Host and all headers of Amazon's must be signed.
    needed = {"host", *(name for name in request.headers if name.startswith("x-amz-"))}
    expected = _signature(request, key, region, signed)
    if not needed <= set(signed) or not hmac.compare_digest(expected, signature):
        raise ApiError(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
        )
    when = datetime.strptime(request.headers["x-amz-date"], SIGV4_TIMESTAMP).replace(tzinfo=UTC)
    if abs(datetime.now(UTC) - when) > _SKEW:
        raise ApiError(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        )


def _signature(request: Request, key: str, region: str, signed: list[str]) -> str:
    """The signature as botocore makes it."""
    auth = S3SigV4Auth(Credentials(key, SECRET_ACCESS_KEY), "s3", region)
    # Of the path S3 signs each byte encoded but for the unreserved ones, however it was sent.
    path = quote(unquote(request.path), safe="/-._~")
    url = f"https://{request.headers.get('host', '')}{path}"
    headers = {name: request.headers.get(name, "") for name in signed}
    copy = AWSRequest(request.method, url, headers)
    copy.context["timestamp"] = request.headers.get("x-amz-date", "")
    return auth.signature(auth.string_to_sign(copy, auth.canonical_request(copy)), copy)
