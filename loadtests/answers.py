"""Is this answer what the interface promises? One word for every way in which it is not."""

import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

from loadtests.http_client import Answer

ANSWERED = "answered"
REFUSED = "refused"
# Every other word but ABANDONED is an error: http_<status>, refused_without_retry_after, and these
TIMEOUT = "timeout"
CONNECTION_FAILED = "connection_failed"
TOO_MANY_IN_FLIGHT = "too_many_in_flight"
SENT_TOO_LATE = "sent_too_late"  # the generator's own fault
ABANDONED = "abandoned"  # no error: the caller left, as the scenario told it to
WRONG_ANSWER = "wrong_answer"

PROBABILITY_SUM_TOLERANCE = 1e-3


def classify(answer: Answer) -> str:
    """ANSWERED, REFUSED or the word for the error."""
    if answer.status == 200:
        return ANSWERED
    if answer.status == 503:
        return REFUSED if is_retry_after(answer.headers.get("retry-after", "")) else "refused_without_retry_after"
    return f"http_{answer.status}"


def is_retry_after(value: str) -> bool:
    """Whether a Retry-After header says seconds or a date (RFC 9110, 10.2.3)."""
    if re.fullmatch(r"[0-9]+", value):
        return True
    try:
        parsedate_to_datetime(value)
    except ValueError:
        return False
    return True


def retry_after_seconds(value: str) -> float:
    """How long a valid Retry-After header asks to wait, in seconds from now, 0 for a date in the past."""
    if value.isdecimal():
        return float(value)
    return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())


def body_fault(body: bytes) -> str | None:
    """What is wrong with the body of a 200 answer, in words, or None."""
    try:
        prediction = json.loads(body)
        return _prediction_fault(prediction)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"not a prediction: {type(error).__name__} {error}"


def _prediction_fault(prediction: dict[str, Any]) -> str | None:
    probabilities: dict[str, float] = prediction["probabilities"]
    diagnoses: list[dict[str, Any]] = prediction["diagnoses"]
    total = sum(probabilities.values())
    if not abs(total - 1.0) <= PROBABILITY_SUM_TOLERANCE:  # written so that NaN is a fault too
        return f"probabilities sum to {total:.4f}"
    if not diagnoses and prediction.get("in_distribution", {}).get("accepted") is False:
        return None  # the gate saw no lesion: no diagnosis is the right answer
    if len(diagnoses) != 2:
        return f"{len(diagnoses)} diagnoses instead of 2"
    best_two = sorted(probabilities.values(), reverse=True)[:2]
    if [probabilities[diagnosis["code"]] for diagnosis in diagnoses] != best_two:
        return "the diagnoses are not the two most probable classes, best first"
    return None


def model_of(body: bytes) -> str:
    """Name and version of the model that answered, "unknown" when the body does not say."""
    try:
        model = json.loads(body)["model"]
        return f"{model['name']} version {model['version']}"
    except (ValueError, TypeError, KeyError):
        return "unknown"
