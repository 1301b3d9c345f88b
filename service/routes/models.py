"""GET /v1/models and /v1/models/{version}: what is loaded and what could be, with manifest and model card."""

import contextlib

from fastapi import APIRouter, Request

from model_store.errors import DamagedVersionError, NotInStoreError, StoreError, StoreUnavailableError
from model_store.lesions import lesions
from model_store.store import ModelVersion
from service.errors import NotFoundError
from service.follower import Follower
from service.loading import LoadedModel
from service.problems import problem_responses
from service.registry import Lineup, Registry
from service.schemas import LesionClass, ModelDetail, ModelList, ModelStatus, ModelSummary, RefusedVersion

router = APIRouter()
_CARD = "MODEL_CARD.md"


@router.get("/v1/models", summary="Versions of the served model")
def list_models(request: Request) -> ModelList:
    """All versions in the store that this release can read, newest first; `serving` is the one that answers.

    While the store does not answer, these are the versions that are loaded.
    """
    services = request.app.state.services
    lineup = services.registry.lineup
    models = [_summary(lineup, version) for version in _versions(services.registry, services.follower)]
    return ModelList(models=models, refused=[RefusedVersion(**vars(refusal)) for refusal in lineup.refused.values()])


@router.get(
    "/v1/models/{version}", summary="One version: manifest and model card", responses=problem_responses(NotFoundError)
)
def show_model(request: Request, version: str) -> ModelDetail:
    """`version` is a version number or an alias such as `production`."""
    services = request.app.state.services
    registry: Registry = services.registry
    try:
        opened = _opened(registry, services.follower, version)
        card = opened.read(_CARD).decode()
    except (NotInStoreError, StoreUnavailableError):
        raise NotFoundError("no such version of the served model") from None
    except DamagedVersionError:
        raise NotFoundError("this release cannot read that version of the served model") from None
    return ModelDetail(
        digest=opened.digest,
        status=_status(registry.lineup, opened),
        manifest=opened.manifest.model_dump(mode="json"),
        model_card=card,
    )


def _versions(registry: Registry, follower: Follower) -> list[ModelVersion]:
    """Newest first."""
    found: list[ModelVersion] = []
    if not follower.store_trouble:  # asking in vain takes seconds
        with contextlib.suppress(StoreError):
            for version in reversed(registry.store.versions(registry.name)):
                with contextlib.suppress(DamagedVersionError):  # often just of an older release: none can serve
                    found.append(registry.store.open(registry.name, version))
            return found
    loaded = [model.version for model in registry.lineup.roles]
    return sorted(loaded, key=lambda version: -int(version.manifest.version))


def _opened(registry: Registry, follower: Follower, name: str) -> ModelVersion:
    """By number or alias. Raises StoreError."""
    if not follower.store_trouble:
        return registry.store.open(registry.name, name)
    version = registry.lineup.aliases.get(name, name)
    for model in registry.lineup.roles:
        if model.manifest.version == version:
            return model.version
    raise NotInStoreError("the store does not answer, and this version is not loaded")


def _summary(lineup: Lineup, version: ModelVersion) -> ModelSummary:
    manifest, loaded = version.manifest, _loaded(lineup, version)
    known = [lesions()[code] for code in manifest.classes]
    return ModelSummary(
        name=manifest.name,
        version=manifest.version,
        digest=version.digest,
        status=_status(lineup, version),
        created_at=manifest.created_at,
        classes=[
            LesionClass(code=c.code, name=c.name, description=c.description, malignant=c.malignant) for c in known
        ],
        malignancy_threshold=manifest.malignancy.threshold,
        variants=list(manifest.variants),
        serving_variant=loaded.engine.variant if loaded else None,
        aliases=sorted(alias for alias, target in lineup.aliases.items() if target == manifest.version),
    )


def _status(lineup: Lineup, version: ModelVersion) -> ModelStatus:
    loaded = _loaded(lineup, version)
    if loaded:
        return lineup.roles[loaded]
    return "refused" if version.manifest.version in lineup.refused else "available"


def _loaded(lineup: Lineup, version: ModelVersion) -> LoadedModel | None:
    return next((model for model in lineup.roles if model.version.digest == version.digest), None)
