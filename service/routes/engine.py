"""GET /v1/engine: what computes the answers on this machine, and what it was chosen from."""

from dataclasses import asdict, replace

from fastapi import APIRouter, Request

from service.errors import ModelNotReadyError
from service.problems import problem_responses
from service.registry import Registry
from service.schemas import EngineReport

router = APIRouter()


@router.get("/v1/engine", summary="The engine, and how it was chosen", responses=problem_responses(ModelNotReadyError))
async def engine(request: Request) -> EngineReport:
    """Number format, threads, workers and batch sizes, with the figures of everything that was measured at start."""
    registry: Registry = request.app.state.services.registry
    loaded = registry.current()
    choice = replace(loaded.choice, threads_alone=loaded.engine.threads_alone)
    return EngineReport(model=loaded.identity, **asdict(loaded.machine), **asdict(choice))
