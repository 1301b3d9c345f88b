"""Follows the store: what the aliases name is loaded in the background, checked, and put in place in one step.

A version that fails a check is refused and reported, and what serves goes on. A store that does not answer changes
nothing. The old version is let go by its last request.
"""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from model_store.errors import StoreError, StoreUnavailableError
from service.loading import LoadedModel, Loader, Refusal, RefusalReason, RefusedVersionError, Wanted
from service.log import log
from service.memory import give_memory_back
from service.registry import Registry

Result = TypeVar("Result")
_SETTLED_AFTER_SECONDS = 1.0
KEPT_SECONDS = 60.0  # after a swap, for a way back: whoever promotes a bad version notices soon


class FollowerObserver(Protocol):
    """What following reports, in the event loop; the metrics implement it."""

    def serves(self, loaded: LoadedModel) -> None:
        """This version answers from now on."""

    def loaded_in(self, seconds: float) -> None:
        """A version has passed all checks."""

    def refused(self, reason: RefusalReason) -> None:
        """A version has not."""

    def store_reachable(self, reachable: bool) -> None:
        """Whether the store told where its aliases stand."""

    def in_memory(self, change: int) -> None:
        """A version came into memory, or its last request let go of it."""


@dataclass(frozen=True)
class StoreTrouble:
    """The store has not answered since then."""

    since: datetime
    reason: str


class Follower:
    """`thread` runs everything that blocks: one thread, below the event loop's priority."""

    def __init__(
        self,
        registry: Registry,
        observer: FollowerObserver,
        thread: ThreadPoolExecutor,
        *,
        alias: str,
        also_serve: Sequence[str],
        shadow: bool,
        poll_seconds: float,
    ) -> None:
        self._registry, self._observer, self._thread = registry, observer, thread
        self._alias, self._also_serve, self._shadow, self._poll_seconds = alias, also_serve, shadow, poll_seconds
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._store_trouble: StoreTrouble | None = None
        self._forgetting: asyncio.TimerHandle | None = None
        for model in registry.lineup.roles:
            self._watch(model)

    @property
    def store_trouble(self) -> StoreTrouble | None:
        """What is wrong with the store, if something is."""
        return self._store_trouble

    async def run(self) -> None:
        """Look at the store now and then, until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception as error:  # the next look may be luckier; without this there would be none
                log(logging.ERROR, "looking at the store failed", exc_info=error)
            if not self._poll_seconds:
                return
            await asyncio.sleep(self._poll_seconds)

    async def refresh(self, *, anew: bool = False) -> Refusal | None:
        """Load what the store wants; returns why the version that ought to serve does not, if so.

        What was refused is tried again when its digest or the alias has changed, or `anew`.
        """
        async with self._turn:
            wanted = await self._look()
            if wanted is None:
                return None
            if anew:
                self._registry.lineup = replace(self._registry.lineup, refused={})
            self._registry.lineup = replace(
                self._registry.lineup, aliases=wanted.aliases, refused=self._still_refused(wanted)
            )
            present = {model.version.digest: model for model in self._registry.lineup.roles}
            for version, digest in wanted.digests.items():  # the one that serves comes first
                loaded = present.get(digest or "") or await self._load(version, digest)
                if loaded:
                    present[loaded.version.digest] = loaded
                    self._place(loaded, version, wanted)
            self._drop_unwanted(wanted)
            return self._registry.lineup.refused.get(wanted.serving)

    async def _look(self) -> Wanted | None:
        """Ask the store. None while it does not answer."""
        loader = self._registry.loader
        try:
            wanted = await self._blocking(lambda: loader.look(self._alias, self._also_serve, shadow=self._shadow))
        except StoreError as error:
            self._note(str(error))
            return None
        self._note(None)
        return wanted

    def _note(self, trouble: str | None) -> None:
        self._observer.store_reachable(trouble is None)
        if (trouble is None) == (self._store_trouble is None):
            return
        self._store_trouble = StoreTrouble(datetime.now(UTC), trouble) if trouble else None
        level, event = (logging.WARNING, "store unreachable") if trouble else (logging.INFO, "store reachable again")
        log(level, event, reason=trouble)

    def _still_refused(self, wanted: Wanted) -> dict[str, Refusal]:
        """Refusals of what is still wanted and has not changed: no use in trying again."""
        refused = self._registry.lineup.refused
        return {v: refused[v] for v, digest in wanted.digests.items() if v in refused and refused[v].digest == digest}

    async def _load(self, version: str, digest: str | None) -> LoadedModel | None:
        """None when it is refused, now or before, and when the store does not give it."""
        registry = self._registry
        if version in registry.lineup.refused:
            return None
        running, started = registry.loaded.choice if registry.loaded else None, time.monotonic()
        try:
            loaded = await self._blocking(lambda: registry.loader.beside(version, running))
        except StoreUnavailableError as error:
            self._note(str(error))
            return None
        except RefusedVersionError as error:
            refusal = Refusal(version, digest, error.reason, str(error))
            registry.lineup = replace(registry.lineup, refused={**registry.lineup.refused, version: refusal})
            self._observer.refused(error.reason)
            log(logging.WARNING, "version refused", version=version, reason=error.reason, detail=str(error))
            return None
        self._observer.loaded_in(time.monotonic() - started)
        self._watch(loaded)
        self._loop.call_later(_SETTLED_AFTER_SECONDS, self._complete, weakref.ref(loaded))
        return loaded

    def _complete(self, loading: "weakref.ref[LoadedModel]") -> None:
        """Half of a load's work serves only lone pictures and the next load: it waits until the swap is over."""
        loaded = loading()
        if loaded is None:
            return  # swapped out again
        with suppress(RuntimeError):  # the thread has ended, and soon the process
            self._thread.submit(_settle, self._registry.loader, loaded)

    def _place(self, loaded: LoadedModel, version: str, wanted: Wanted) -> None:
        """Put a version into every role that it is wanted in, at once."""
        lineup = before = self._registry.lineup
        if version == wanted.serving:
            lineup = replace(lineup, serving=loaded)
        if version in wanted.beside and loaded not in lineup.beside:
            lineup = replace(lineup, beside=(*lineup.beside, loaded))
        if version == wanted.shadow:
            lineup = replace(lineup, shadow=loaded)
        self._registry.lineup = lineup  # the swap
        if lineup.serving is not before.serving:
            self._observer.serves(loaded)
            log(logging.INFO, "model serves", **loaded.identity.model_dump())
            self._forget_later()

    def _forget_later(self) -> None:
        """What the loader keeps for a way back goes when there has been no swap for a while."""
        if self._forgetting:
            self._forgetting.cancel()
        self._forgetting = self._loop.call_later(KEPT_SECONDS, self._forget)

    def _forget(self) -> None:
        serving = self._registry.loaded
        with suppress(RuntimeError):  # the thread has ended, and soon the process
            if serving:
                self._thread.submit(self._registry.loader.forget, serving)

    def _drop_unwanted(self, wanted: Wanted) -> None:
        """Let go of what nobody wants any more. What serves stays until its successor is there."""
        lineup = self._registry.lineup
        newest = {model.manifest.version: model for model in lineup.beside if model.manifest.version in wanted.beside}
        shadow = lineup.shadow if lineup.shadow and lineup.shadow.manifest.version == wanted.shadow else None
        self._registry.lineup = replace(lineup, beside=tuple(newest.values()), shadow=shadow)

    def _watch(self, model: LoadedModel) -> None:
        """Count it until its last request lets go of it; then its memory goes back to the system."""
        self._observer.in_memory(1)
        weakref.finalize(model, self._gone).atexit = False

    def _gone(self) -> None:
        """In whichever thread let go last, in the midst of whatever it does: no lock may be taken here."""
        with suppress(RuntimeError):  # the loop has ended, and soon the process
            self._loop.call_soon_threadsafe(self._observer.in_memory, -1)
            self._loop.call_soon_threadsafe(self._loop.call_later, _SETTLED_AFTER_SECONDS, self._give_back)

    def _give_back(self) -> None:
        """Later: what is given back callers' threads have to ask for again, so not in the second of a swap."""
        with suppress(RuntimeError):  # the thread has ended
            self._thread.submit(give_memory_back)

    async def _blocking(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _settle(loader: Loader, loaded: LoadedModel) -> None:
    try:
        loader.settle(loaded)
    except Exception as error:  # every picture is answered without
        log(logging.WARNING, "what a swap leaves to do has failed: lone pictures get no more threads", exc_info=error)
    give_memory_back()  # what making a session has used
