"""GET /v1/models and /v1/models/{version}: what serves, with its manifest and model card."""

from typing import Literal

from fastapi import APIRouter, Request

from model_store.errors import NotInStoreError
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
    """All versions in the store, newest first; `serving` is the one that answers."""
    registry: Registry = request.app.state.services.registry
    versions = reversed(registry.store.versions(registry.name))
    opened = [registry.store.open(registry.name, version) for version in versions]
    return ModelList(models=[_summary(registry, version) for version in opened])


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
    return ModelDetail(
        digest=opened.digest,
        status=_status(registry, opened),
        manifest=opened.manifest.model_dump(mode="json"),
        model_card=card,
    )


def _summary(registry: Registry, version: ModelVersion) -> ModelSummary:
    manifest = version.manifest
    known = [lesions()[code] for code in manifest.classes]
    return ModelSummary(
        name=manifest.name,
        version=manifest.version,
        digest=version.digest,
        status=_status(registry, version),
        created_at=manifest.created_at,
        classes=[
            LesionClass(code=c.code, name=c.name, description=c.description, malignant=c.malignant) for c in known
        ],
        malignancy_threshold=manifest.malignancy.threshold,
    )


def _status(registry: Registry, version: ModelVersion) -> Literal["serving", "available"]:
    return "serving" if registry.loaded and registry.loaded.version.digest == version.digest else "available"
