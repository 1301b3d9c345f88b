"""Every way a request can fail, and the stage that raises it.

ServiceError                 status  code
├── InvalidRequestError        422   invalid_request       arrival, upload, options: the request itself is malformed
├── UploadTimeoutError         408   upload_timeout        upload: the body did not arrive in time
├── PayloadTooLargeError       413   payload_too_large     arrival, upload, decode: too many bytes or pixels
├── UnsupportedFormatError     415   unsupported_format    decode: not one of the five formats, by magic bytes
├── InvalidImageError          400   invalid_image         decode: not decodable, truncated, animated
├── UnavailableError                                       (+ Retry-After)
│   ├── OverloadedError        503   overloaded            admission, upload, batcher: it would miss the deadline
│   └── ModelNotReadyError     503   model_not_ready       registry: no verified model
├── DeadlineExceededError      504   deadline_exceeded     arrival, upload, predictor, batcher: it passed
├── InferenceFailedError       500   inference_failed      analysis, batcher: the network gave no valid answer
└── NotFoundError              404   not_found             routes, registry: no such version, or not loaded

Of operators' routes alone:
├── UnauthorizedError          401   unauthorized          admin: no token, or a wrong one
├── VersionRefusedError        409   version_refused       admin: the wanted version failed a check, the old one serves
└── StoreUnavailableNowError   503   store_unavailable     admin: the model store does not answer (+ Retry-After)

ClientGoneError: the caller left; nobody is there to read an answer.
"""

import math
from typing import ClassVar, Literal

# A phase of refusing; a shorter deadline of its own, or a slow picture; all bodies in memory; the line of the workers.
OverloadReason = Literal["backlog", "own_deadline", "bytes", "queue_full"]


class ServiceError(Exception):
    """A failure with a documented status and code. Callers see the message: no internals, no patient data."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to the failure."""
        return {}


class InvalidRequestError(ServiceError):
    """The request is malformed: no `file` field, a header that is no number, a class that the model does not know."""

    status, code, title = 422, "invalid_request", "The request is malformed"


class UploadTimeoutError(ServiceError):
    """The body did not arrive within `receive_timeout_seconds`, or too slowly."""

    status, code, title = 408, "upload_timeout", "The picture did not arrive in time"

    @property
    def headers(self) -> dict[str, str]:
        """As for PayloadTooLargeError."""
        return {"Connection": "close"}


class PayloadTooLargeError(ServiceError):
    """More bytes than `body_limit_bytes` or more pixels than `pixel_limit_pixels`."""

    status, code, title = 413, "payload_too_large", "The picture is too large"

    @property
    def headers(self) -> dict[str, str]:
        """The rest of the body is not read, so the connection cannot be used again."""
        return {"Connection": "close"}


class UnsupportedFormatError(ServiceError):
    """The first bytes are those of none of the accepted formats."""

    status, code, title = 415, "unsupported_format", "The file format is not supported"


class InvalidImageError(ServiceError):
    """An accepted format, but it cannot be decoded to one picture."""

    status, code, title = 400, "invalid_image", "The picture cannot be read"


class UnavailableError(ServiceError):
    """Not now; `retry_after_seconds` tells when it is worth trying again."""

    status = 503

    def __init__(self, detail: str, retry_after_seconds: float) -> None:
        super().__init__(detail)
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))  # the header takes whole seconds

    @property
    def headers(self) -> dict[str, str]:
        """RFC 9110 Retry-After."""
        return {"Retry-After": str(self.retry_after_seconds)}


class OverloadedError(UnavailableError):
    """The predicted finish misses the deadline, or a limit on work or bytes inside is reached; `reason` says which."""

    code, title = "overloaded", "The service is busy"

    def __init__(self, detail: str, retry_after_seconds: float, reason: OverloadReason = "queue_full") -> None:
        super().__init__(detail, retry_after_seconds)
        self.reason = reason


class ModelNotReadyError(UnavailableError):
    """No verified model is loaded, or the service is shutting down."""

    code, title = "model_not_ready", "No model is ready"


class DeadlineExceededError(ServiceError):
    """The deadline passed after the request was admitted."""

    status, code, title = 504, "deadline_exceeded", "The answer would have come too late"


class InferenceFailedError(ServiceError):
    """The network failed or gave values that are not probabilities."""

    status, code, title = 500, "inference_failed", "The analysis failed"


class NotFoundError(ServiceError):
    """No such model version, none that is loaded, or nothing of this kind here."""

    status, code, title = 404, "not_found", "Not found"


class UnauthorizedError(ServiceError):
    """An operator's route was called without its token."""

    status, code, title = 401, "unauthorized", "A token is needed"

    @property
    def headers(self) -> dict[str, str]:
        """RFC 6750."""
        return {"WWW-Authenticate": "Bearer"}


class VersionRefusedError(ServiceError):
    """The version that ought to serve failed a check; what served before goes on."""

    status, code, title = 409, "version_refused", "The version was refused"


class StoreUnavailableNowError(UnavailableError):
    """The model store does not answer; what is loaded goes on serving."""

    code, title = "store_unavailable", "The model store does not answer"


class ClientGoneError(Exception):
    """The caller closed the connection before the answer."""

    status: ClassVar[int] = 499  # nginx's number for it; seen in logs and metrics only


ERRORS: tuple[type[ServiceError], ...] = (
    InvalidRequestError,
    UploadTimeoutError,
    PayloadTooLargeError,
    UnsupportedFormatError,
    InvalidImageError,
    OverloadedError,
    ModelNotReadyError,
    DeadlineExceededError,
    InferenceFailedError,
    NotFoundError,
)
