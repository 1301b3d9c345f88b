"""The version loaded in this process: opened, verified, self-tested; or none."""

from dataclasses import dataclass

from model_store.contract.manifest import Manifest
from model_store.store import ModelStore, ModelVersion
from service.engine import Engine, VariantChoice, load_engine
from service.errors import ModelNotReadyError
from service.schemas import ServingModel


@dataclass(frozen=True)
class LoadedModel:
    """A version that answered its golden vectors rightly, and the engine that runs it."""

    version: ModelVersion
    engine: Engine

    @property
    def manifest(self) -> Manifest:
        """The version's manifest."""
        return self.version.manifest

    @property
    def identity(self) -> ServingModel:
        """What answers say of the version."""
        return ServingModel(
            name=self.manifest.name,
            version=self.manifest.version,
            digest=self.version.digest,
            variant=self.engine.variant,
        )


class Registry:
    """Knows the store and what is loaded from it."""

    def __init__(self, store: ModelStore, name: str, variant: VariantChoice = "auto") -> None:
        self.store, self.name, self._variant = store, name, variant
        self._loaded: LoadedModel | None = None

    def load(self, alias: str) -> LoadedModel:
        """Load a version to serve. Raises StoreError or SelfTestError; what was loaded before stays."""
        version = self.store.verify(self.name, alias)
        self._loaded = LoadedModel(version, load_engine(version, self._variant))
        return self._loaded

    @property
    def loaded(self) -> LoadedModel | None:
        """The serving version, if there is one."""
        return self._loaded

    def current(self) -> LoadedModel:
        """The serving version. Raises ModelNotReadyError: without a verified model there is no answer."""
        if self._loaded is None:
            raise ModelNotReadyError("no verified model is loaded", retry_after_seconds=5)
        return self._loaded
