"""The versions in this process: the one that serves, others beside it, the shadow; and those that were refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from model_store.signatures import TrustPolicy
from model_store.store import ModelStore
from service.choice import Wishes
from service.choice_cache import ChoiceCache
from service.errors import ModelNotReadyError, NotFoundError
from service.loading import LoadedModel, Loader, Refusal

Role = Literal["serving", "loaded", "shadow"]


@dataclass(frozen=True)
class Lineup:
    """What is loaded at one moment, and what the store's aliases said then. Replaced as a whole, never changed.

    `beside` are answered with when a request names them; `refused` are versions that were wanted, by their number.
    """

    serving: LoadedModel | None = None
    beside: tuple[LoadedModel, ...] = ()
    shadow: LoadedModel | None = None
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def roles(self) -> dict[LoadedModel, Role]:
        """Every loaded version once, in its most important role."""
        roles: dict[LoadedModel, Role] = {} if self.shadow is None else {self.shadow: "shadow"}
        roles |= dict.fromkeys(self.beside, "loaded")
        return roles if self.serving is None else roles | {self.serving: "serving"}


class Registry:
    """Holds the present lineup: one assignment replaces it, and whoever took a model from it keeps that model."""

    def __init__(
        self,
        store: ModelStore,
        name: str,
        wishes: Wishes | None = None,
        cache: ChoiceCache | None = None,
        policy: TrustPolicy | None = None,
    ) -> None:
        self.store, self.name = store, name
        self.loader = Loader(store, name, wishes or Wishes(), cache, policy or TrustPolicy())
        self.lineup = Lineup()

    def load(self, alias: str) -> LoadedModel:
        """Load the version that serves first. Raises StoreError or SelfTestError; what was loaded before stays."""
        loaded = self.loader.first(alias)
        self.lineup = replace(self.lineup, serving=loaded)
        return loaded

    @property
    def loaded(self) -> LoadedModel | None:
        """The serving version, if there is one."""
        return self.lineup.serving

    def current(self, asked: str | None = None) -> LoadedModel:
        """The serving version, or the one that is `asked` for by number or alias.

        Raises ModelNotReadyError (without a verified model there is no answer), NotFoundError (it is not loaded).
        """
        lineup = self.lineup
        if lineup.serving is None:
            raise ModelNotReadyError("no verified model is loaded", retry_after_seconds=5)
        if asked is None:
            return lineup.serving
        version = lineup.aliases.get(asked, asked)
        for model in lineup.roles:
            if model.manifest.version == version:
                return model
        raise NotFoundError(f"this version is not loaded; loaded are {_listed(lineup)}")


def _listed(lineup: Lineup) -> str:
    def number(model: LoadedModel) -> int:
        return int(model.manifest.version)

    versions: Sequence[LoadedModel] = sorted(lineup.roles, key=number)
    return ", ".join(f"{model.manifest.version} ({lineup.roles[model]})" for model in versions)
