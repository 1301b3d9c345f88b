"""The service's settings: environment variables `DERMSERVE_*` or the same names as options of `dermserve`.

Read once, at the entrance, and passed down. A name that is not known here is refused: a mistyped limit must not be
silently ignored.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from model_store.store import PRODUCTION, SHIPPED
from service.engine import VariantChoice

PREFIX = "DERMSERVE_"
_NOT_OURS = {"DERMSERVE_DATA"}  # where the tests and the training find the real pictures


class InvalidSettingsError(Exception):
    """A setting is unknown or has a wrong value; the message is one line."""


class Settings(BaseSettings):
    """dermserve: two most probable diagnoses for a dermatoscopic picture, within 3 seconds.

    Every option can also be set in the environment as DERMSERVE_NAME.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    store: Path = Field(default=SHIPPED, description="model store directory; the default is the shipped one")
    model: str = Field(default="lesion7", description="name of the model to serve")
    alias: str = Field(default=PRODUCTION, description="alias or version number to serve")
    variant: VariantChoice = Field(
        default="auto", description="number format of the network; auto: int8 if it answers rightly here, else fp32"
    )
    prevalence: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of malignant lesions among those seen here; none: not corrected for",
    )
    deadline_seconds: float = Field(
        default=3.0, gt=0, le=60, description="an answer comes within this, or the request is refused"
    )
    receive_timeout_seconds: float = Field(default=30.0, gt=0, le=600, description="longest time an upload may take")
    body_limit_bytes: int = Field(default=25_000_000, gt=0, description="largest request body")
    pixel_limit_pixels: int = Field(default=40_000_000, gt=0, description="largest picture, width times height")
    bytes_in_flight_limit_bytes: int = Field(
        default=250_000_000, gt=0, description="all request bodies in memory together"
    )
    max_batch_size: int = Field(default=4, ge=1, le=256, description="pictures the network takes at once, at most")
    max_queue_size: int = Field(default=512, ge=1, description="pictures waiting for the network, at most")
    inference_threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=256, description="batches computed in parallel"
    )
    decode_threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=256, description="pictures decoded in parallel"
    )
    drain_seconds: float = Field(
        default=1.0, ge=0, le=600, description="after SIGTERM, go on serving this long while callers are turned away"
    )
    shutdown_seconds: float = Field(default=30.0, gt=0, description="longest wait for running requests at the end")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="lowest level logged")


def read_settings(arguments: Sequence[str] | Literal[False], environment: Mapping[str, str]) -> Settings:
    """Options win over the environment, the environment over defaults. Raises InvalidSettingsError."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    ours = (name for name in environment if name.upper().startswith(PREFIX) and name not in _NOT_OURS)
    unknown = sorted(name for name in ours if name.upper() not in known)
    if unknown:
        raise InvalidSettingsError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        if arguments is False:
            return Settings()
        source: CliSettingsSource[Settings] = CliSettingsSource(
            Settings, cli_parse_args=list(arguments), cli_prog_name="dermserve", cli_kebab_case=True
        )
        return Settings(_cli_settings_source=source)  # type: ignore[call-arg]
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise InvalidSettingsError("; ".join(faults)) from error
    except SettingsError as error:
        raise InvalidSettingsError(str(error)) from error
