"""For those who like Locust's page: locust -f loadtests/locustfile.py --host http://127.0.0.1:8000

Its users are a closed loop and each request costs it several times what our own generator needs: good for watching a
service with many users, not for judging the 3-second promise (`python -m loadtests scenario` does that).
Needs `pip install --constraint requirements.lock '.[loadtest,locust]'`.
"""

import itertools
from typing import Any, cast

from locust import FastHttpUser, between, task

from loadtests.answers import ANSWERED, REFUSED, body_fault, classify
from loadtests.generator import PREDICTIONS
from loadtests.http_client import Answer
from loadtests.pictures import make_pictures

TARGET_SECONDS = 3.0
PICTURES = itertools.cycle(make_pictures(16, seed=1))


class Clinic(FastHttpUser):
    """Somebody who sends a picture, reads the answer, and takes the next picture."""

    wait_time = between(0.5, 2.0)

    @task
    def predict(self) -> None:
        """One picture: an answer in time is a success, a proper refusal is none of the service's faults."""
        headers = {"Content-Type": "image/jpeg"}
        picture = cast(Any, next(PICTURES))  # Locust takes bytes, though its types do not say so
        with self.client.post(PREDICTIONS, data=picture, headers=headers, catch_response=True) as response:
            answer_headers = {name.lower(): value for name, value in (response.headers or {}).items()}
            kind = classify(Answer(response.status_code, answer_headers, response.content or b""))
            seconds = response.request_meta["response_time"] / 1000
            if kind == REFUSED:
                response.request_meta["name"] = f"{PREDICTIONS} refused"
                response.success()
            elif kind != ANSWERED:
                response.failure(kind)
            elif fault := body_fault(response.content):
                response.failure(fault)
            elif seconds > TARGET_SECONDS:
                response.failure(f"answered later than {TARGET_SECONDS:g} s")
