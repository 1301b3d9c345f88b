"""`python -m service`: read the settings, load the model, serve until SIGTERM, drain, exit 0."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn

from model_store.errors import StoreError
from model_store.signatures import TrustPolicy, read_trusted_keys
from model_store.store import ModelStore
from service.app import create_app
from service.choice_cache import ChoiceCache
from service.engine import SelfTestError
from service.lifecycle import Lifecycle
from service.log import configure_logging, keep_native_lines_out, log
from service.memory import keep_large_pieces_apart
from service.registry import Registry
from service.settings import InvalidSettingsError, Settings, read_settings

_REFUSED = 1  # exit code of a start that was refused
# A worker that runs Python gives the interpreter up after this: the event loop never waits long for it.
_SWITCH_INTERVAL_SECONDS = 0.001
_LAST_REQUESTS_SECONDS = 0.25  # uvicorn closes a connection whose request it has not yet read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service. A start that is refused prints one line and returns 1."""
    keep_large_pieces_apart()
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
        configure_logging(settings.log_level)
        cache = ChoiceCache(settings.engine_cache) if settings.engine_cache else None
        store = ModelStore(settings.store, settings.store_cache, settings.store_cache_limit_bytes)
        registry = Registry(store, settings.model, settings.wishes(), cache, _policy(settings))
        listener = _bind(settings.host, settings.port)
        registry.load(settings.alias)
    except InvalidSettingsError as error:
        return _refuse(f"settings: {error}")
    except (StoreError, SelfTestError) as error:
        return _refuse(f"model: {error}")
    except OSError as error:
        return _refuse(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}")
    keep_native_lines_out()
    _serve(settings, registry, listener)
    return 0


def _policy(settings: Settings) -> TrustPolicy:
    """Raises KeyFileError."""
    keys = read_trusted_keys(settings.trusted_keys) if settings.trusted_keys else {}
    return TrustPolicy(settings.require_signature, keys)


def _serve(settings: Settings, registry: Registry, listener: socket.socket) -> None:
    lifecycle = Lifecycle()
    config = uvicorn.Config(
        create_app(settings, registry, lifecycle),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
    )
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    # uvicorn raises the signal again when it has drained; a wished-for end is not a failure, before it listens neither.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        DrainingServer(config, lifecycle, settings.drain_seconds).run(sockets=[listener])


class DrainingServer(uvicorn.Server):
    """On the first signal, keeps answering for a while, with `Connection: close` and /readyz at 503.

    Without that, a request that a caller has just put on an idle keep-alive connection would be lost when the
    connection is closed.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, drain_seconds: float) -> None:
        super().__init__(config)
        self._lifecycle, self._drain_seconds = lifecycle, drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, keeping the loop for the signal handler; then says, on standard output, where it listens."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            print(f"dermserve listens on http://{host}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, but new connections end first and those just accepted get time to send their request."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_REQUESTS_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain, then stop. Second: stop at once.

        It may interrupt any line of Python, one that writes the log too, which then cannot be written to: all but the
        mark is done in the event loop.
        """
        if self._lifecycle.draining or self._loop is None:
            super().handle_exit(sig, frame)
            return
        self._lifecycle.draining = True
        self._loop.call_soon_threadsafe(self._drain, sig)

    def _drain(self, sig: int) -> None:
        log(logging.INFO, "draining", signal=signal.Signals(sig).name, seconds=self._drain_seconds)
        asyncio.get_running_loop().call_later(self._drain_seconds, super().handle_exit, sig, None)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket; raises OSError before anything expensive has started."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    return listener


def _refuse(reason: str) -> int:
    print(f"dermserve: {' '.join(reason.split())}", file=sys.stderr)
    return _REFUSED


if __name__ == "__main__":
    sys.exit(main())
