"""GET /healthz (process up) and /readyz (a verified, warmed model is serving). They touch no queue."""

from fastapi import APIRouter, Request, Response

from service.follower import Follower
from service.schemas import Health

router = APIRouter()


@router.get("/healthz", response_model_exclude_none=True, summary="Is the process up?")
async def healthz() -> Health:
    """Always ok while the event loop turns; a busy service is a healthy one."""
    return Health(status="ok")


@router.get(
    "/readyz",
    response_model_exclude_none=True,
    summary="Does a verified model serve?",
    responses={503: {"model": Health}},
)
async def readyz(request: Request, response: Response) -> Health:
    """503 without a model, and once SIGTERM has come. A busy service is ready: it answers, if only to refuse."""
    services = request.app.state.services
    loaded = services.registry.loaded
    if request.app.state.lifecycle.draining:
        response.status_code = 503
        return Health(status="draining")
    if loaded is None:
        response.status_code = 503
        return Health(status="not_ready", store=_store(services.follower))
    busy = services.admission.refusing or None
    return Health(status="ready", model=loaded.identity, busy=busy, store=_store(services.follower))


def _store(follower: Follower) -> str | None:
    """What is loaded serves without the store: this is no reason to be unready."""
    trouble = follower.store_trouble
    return f"unreachable since {trouble.since:%Y-%m-%dT%H:%M:%SZ}" if trouble else None
