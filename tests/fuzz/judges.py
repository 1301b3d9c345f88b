"""What a picture may end in: a valid prediction or a documented refusal. Everything else is a fault."""

import http.client
import json
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

import numpy as np

from model_store.contract.preprocessing import Preprocessing
from service.decode import decode
from service.errors import (
    ERRORS,
    InferenceFailedError,
    InvalidImageError,
    PayloadTooLargeError,
    ServiceError,
    UnsupportedFormatError,
)
from service.settings import Settings

Judge = Callable[[bytes], str]
ANSWERED = "200 prediction"
_REFUSALS = (InvalidImageError, PayloadTooLargeError, UnsupportedFormatError)
# Overload is no fault: a decoder that is slow on purpose may bring it about.
_DOCUMENTED = {(error.status, error.code) for error in ERRORS} - {
    (InferenceFailedError.status, InferenceFailedError.code)
}
_CONTRACT = Preprocessing(height=224, width=224, resize="squash", reduced_decode_factor=2)
PIXEL_LIMIT: int = Settings.model_fields["pixel_limit_pixels"].default


class FaultError(Exception):
    """What must not happen, in one line."""


def judge_decoding(body: bytes) -> str:
    """The decoder itself, in this thread. Raises FaultError."""
    try:
        picture = decode(body, _CONTRACT, PIXEL_LIMIT)
    except _REFUSALS as refused:
        return f"{refused.status} {refused.code}"
    except ServiceError as error:
        raise FaultError(f"the decoder refused with {error.code}") from error
    except BaseException as error:  # a panic of a library must be seen too
        raise FaultError(f"the decoder raised {error!r}") from error
    if picture.tensor.shape != (224, 224, 3) or picture.tensor.dtype != np.uint8:
        raise FaultError(f"a tensor {picture.tensor.dtype} {picture.tensor.shape}")
    if not np.isfinite(list(vars(picture.quality).values())).all():
        raise FaultError(f"a quality that is no number: {picture.quality}")
    return ANSWERED


class AnswerJudge:
    """Posts to a running service, each thread over a connection of its own that is kept as long as it lasts."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._address, self._timeout_seconds = urlsplit(url).netloc, timeout_seconds
        self._own = threading.local()

    def __call__(self, body: bytes) -> str:
        """The answer's kind. Raises FaultError."""
        try:
            status, kind, answer = self._post(body)
        except (OSError, http.client.HTTPException) as error:
            raise FaultError(f"no answer: {error!r}") from error
        try:
            content = json.loads(answer)
        except ValueError as error:
            raise FaultError(f"{status} without JSON: {answer[:100]!r}") from error
        if status == 200:
            _require_prediction(content)
            return ANSWERED
        if kind != "application/problem+json" or (status, content.get("code")) not in _DOCUMENTED:
            raise FaultError(f"{status} {kind} {content}")
        return f"{status} {content['code']}"

    def _post(self, body: bytes) -> tuple[int, str | None, bytes]:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._address, timeout=self._timeout_seconds)
            self._own.connection = connection
        connection.request("POST", "/v1/predictions", body, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()


def _require_prediction(content: dict[str, object]) -> None:
    probabilities = content.get("probabilities")
    values = list(probabilities.values()) if isinstance(probabilities, dict) else []
    if not values or not all(0 <= value <= 1 for value in values) or abs(sum(values) - 1) > 1e-3:
        raise FaultError(f"probabilities {probabilities}")
