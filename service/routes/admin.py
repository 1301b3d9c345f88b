"""POST /v1/admin/reload: operators' routes, with a token."""

import secrets
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import (
    ModelNotReadyError,
    NotFoundError,
    StoreUnavailableNowError,
    UnauthorizedError,
    VersionRefusedError,
)
from service.problems import problem_responses
from service.schemas import RefusedVersion, ReloadReport

router = APIRouter()
_bearer = HTTPBearer(auto_error=False, description="the setting `admin_token`")
_RETRY_SECONDS = 5.0


async def require_token(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Raises NotFoundError where no token is set, UnauthorizedError without the right one."""
    expected = request.app.state.settings.admin_token
    if expected is None:
        raise NotFoundError("operators' routes are off: DERMSERVE_ADMIN_TOKEN is not set")
    # Takes as long for a nearly right token as for any other.
    if given is None or not secrets.compare_digest(given.credentials.encode(), expected.get_secret_value().encode()):
        raise UnauthorizedError("the header `Authorization: Bearer ...` must hold the admin token")


@router.post(
    "/v1/admin/reload",
    summary="Follow the store now",
    dependencies=[Depends(require_token)],
    responses=problem_responses(
        UnauthorizedError, NotFoundError, VersionRefusedError, StoreUnavailableNowError, ModelNotReadyError
    ),
)
async def reload(request: Request) -> ReloadReport:
    """Load what the store's aliases name now, also what was refused before, and answer when it serves."""
    started = time.monotonic()
    services = request.app.state.services
    refusal = await services.follower.refresh(anew=True)
    current = services.registry.current()
    if services.follower.store_trouble:
        raise StoreUnavailableNowError(
            f"the model store does not answer; version {current.manifest.version} goes on serving", _RETRY_SECONDS
        )
    if refusal:
        raise VersionRefusedError(
            f"version {refusal.version}: {refusal.reason}: {refusal.detail}; "
            f"version {current.manifest.version} goes on serving"
        )
    lineup = services.registry.lineup
    return ReloadReport(
        serving=current.identity,
        loaded=[model.identity for model in lineup.beside],
        shadow=lineup.shadow.identity if lineup.shadow else None,
        refused=[RefusedVersion(**vars(refused)) for refused in lineup.refused.values()],
        seconds=round(time.monotonic() - started, 3),
    )
