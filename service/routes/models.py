"""GET /v1/models and /v1/models/{version}: what serves, with its manifest and model card."""

import contextlib
from typing import Literal

from fastapi import APIRouter, Request

from model_store.errors import DamagedVersionError, NotInStoreError
from model_store.lesions import lesions
from model_store.store import ModelVersion
from service.errors import NotFoundError
from service.problems import problem_responses
from service.registry import Registry
from service.schemas import LesionClass, ModelDetail, ModelList, ModelSummary

router = APIRouter()
_CARD = "MODEL_CARD.md"


@router.get("/v1/models", summary="Versions of the served model")
def list_models(request: Request) -> ModelList:
    """All versions in the store that this release can read, newest first; `serving` is the one that answers."""
    registry: Registry = request.app.state.services.registry
    found = []
    for version in reversed(registry.store.versions(registry.name)):
        with contextlib.suppress(DamagedVersionError):  # often just of an older release; none of these can serve
            found.append(_summary(registry, registry.store.open(registry.name, version)))
    return ModelList(models=found)


@router.get(
    "/v1/models/{version}", summary="One version: manifest and model card", responses=problem_responses(NotFoundError)
)
def show_model(request: Request, version: str) -> ModelDetail:
    """`version` is a version number or an alias such as `production`."""
    registry: Registry = request.app.state.services.registry
    try:
        opened = registry.store.open(registry.name, version)
        card = opened.read(_CARD).decode()
    except NotInStoreError:
        raise NotFoundError("no such version of the served model") from None
    except DamagedVersionError:
        raise NotFoundError("this release cannot read that version of the served model") from None
    return ModelDetail(
        digest=opened.digest,
        status=_status(registry, opened),
        manifest=opened.manifest.model_dump(mode="json"),
        model_card=card,
    )


def _summary(registry: Registry, version: ModelVersion) -> ModelSummary:
    manifest = version.manifest
    status = _status(registry, version)
    known = [lesions()[code] for code in manifest.classes]
    return ModelSummary(
        name=manifest.name,
        version=manifest.version,
        digest=version.digest,
        status=status,
        created_at=manifest.created_at,
        classes=[
            LesionClass(code=c.code, name=c.name, description=c.description, malignant=c.malignant) for c in known
        ],
        malignancy_threshold=manifest.malignancy.threshold,
        variants=list(manifest.variants),
        serving_variant=registry.loaded.engine.variant if registry.loaded and status == "serving" else None,
    )


def _status(registry: Registry, version: ModelVersion) -> Literal["serving", "available"]:
    return "serving" if registry.loaded and registry.loaded.version.digest == version.digest else "available"
