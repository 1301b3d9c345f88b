"""GET /v1/shadow: what the candidate would have answered."""

from fastapi import APIRouter, Request

from service.errors import NotFoundError
from service.problems import problem_responses
from service.schemas import ShadowReport
from service.shadow import Shadow

router = APIRouter()


@router.get("/v1/shadow", summary="The candidate against the answers", responses=problem_responses(NotFoundError))
async def shadow(request: Request) -> ShadowReport:
    """Agreement, probability distance, flips of the malignancy decision, time. For `dermserve-models promote`."""
    running: Shadow = request.app.state.services.shadow
    return running.report()
