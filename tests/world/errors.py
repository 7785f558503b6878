"""AWS error answers in each service's own XML, and the error as an exception."""

from xml.sax.saxutils import escape

from .wire import Reply

_REQUEST_ID = "00000000-0000-4000-8000-000000000000"


class ApiError(Exception):
    """An answer that is an AWS error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message


def error_reply(service: str, error: ApiError) -> Reply:
    code, message = escape(error.code), escape(error.message)
    if service == "ec2":
        body = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            f"</Errors><RequestID>{_REQUEST_ID}</RequestID></Response>"
        )
    elif service == "s3":
        body = (
            f"<Error><Code>{code}</Code><Message>{message}</Message>"
            f"<RequestId>{_REQUEST_ID}</RequestId><HostId>host</HostId></Error>"
        )
    else:
        side = "Receiver" if error.status >= 500 else "Sender"
        body = (
            '<ErrorResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">'
            f"<Error><Type>{side}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{_REQUEST_ID}</RequestId></ErrorResponse>"
        )
    return Reply(
        error.status,
        f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode(),
        {"Content-Type": "text/xml;charset=UTF-8"},
    )


def throttled(service: str) -> ApiError:
    # EC2 says so with 503, Auto Scaling with 400 (EC2 API
    # reference, "Error codes"; Auto Scaling API reference, "Common errors").
    if service == "ec2":
        return ApiError(503, "RequestLimitExceeded", "Request limit exceeded.")
    return ApiError(400, "Throttling", "Rate exceeded")


def denied(service: str, action: str, source: str, role: str | None = None) -> ApiError:
    user = f"arn:aws:sts::123456789012:assumed-role/{role or 'hanat-nat'}/{source}"
    why = f"User: {user} is not authorized to perform: {service}:{action} on resource: *"
    if service == "ec2":
        return ApiError(
            403,
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. {why} "
            f"because no identity-based policy allows the {service}:{action} action",
        )
    return ApiError(403, "AccessDenied", "Access Denied" if service == "s3" else why)


def unsigned(service: str) -> ApiError:
    # EC2 API error codes, "AuthFailure"; query services name the missing token; to S3 it is an
    # anonymous request, and no object of the world's is public.
    if service == "s3":
        return ApiError(403, "AccessDenied", "Access Denied")
    if service == "ec2":
        return ApiError(401, "AuthFailure", "The request is not signed")
    return ApiError(403, "MissingAuthenticationToken", "The request is not signed")
