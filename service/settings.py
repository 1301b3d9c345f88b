"""The service's settings: environment variables `DERMSERVE_*` or the same names as options of `dermserve`.

Read once, at the entrance, and passed down. A name that is not known here is refused: a mistyped limit must not be
silently ignored.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, NoDecode, SettingsConfigDict, SettingsError

from model_store.store import PRODUCTION, SHIPPED
from service.choice import VariantChoice, Wishes

PREFIX = "DERMSERVE_"
_NOT_OURS = {"DERMSERVE_DATA"}  # where the tests and the training find the real pictures


def _user_cache_folder() -> Path | None:
    """Of the user whose process this is; none where there is no home, as in a container."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return caches / "dermserve" / "engine"


class InvalidSettingsError(Exception):
    """A setting is unknown or has a wrong value; the message is one line."""


class Settings(BaseSettings):
    """dermserve: two most probable diagnoses for a dermatoscopic picture, within 3 seconds.

    Every option can also be set in the environment as DERMSERVE_NAME.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    store: str = Field(
        default=str(SHIPPED), description="model store: directory or s3://bucket/prefix; the default is the shipped one"
    )
    store_cache: Path | None = Field(
        default=None, description="folder that keeps what was read from object storage; none: in the user's cache"
    )
    store_cache_limit_bytes: int = Field(default=2_000_000_000, gt=0, description="largest size of that folder")
    require_signature: bool = Field(default=False, description="serve only versions signed by one of the trusted keys")
    trusted_keys: Path | None = Field(default=None, description="public key (.pub), or a folder of them")
    model: str = Field(default="lesion7", description="name of the model to serve")
    alias: str = Field(default=PRODUCTION, description="alias or version number to serve; an alias is followed")
    also_serve: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="aliases or version numbers, with commas between: they answer requests that name them"
    )
    store_poll_seconds: float = Field(
        default=5.0, ge=0, le=86_400, description="how often the store is asked for its aliases; 0: only at start"
    )
    shadow_share: float = Field(
        default=0.1, ge=0, le=1, description="share of the pictures that the store's candidate, if any, sees too"
    )
    admin_token: SecretStr | None = Field(
        default=None, min_length=16, description="what operators send to /v1/admin; none: these routes are off"
    )
    admin_token_file: Path | None = Field(default=None, description="file that holds the admin token instead")
    variant: VariantChoice = Field(
        default="auto", description="number format of the network; auto: the fastest that answers rightly here"
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
    upload_rate_min_bytes_per_second: float = Field(
        default=2000.0, ge=0, description="an upload that stays below this for some seconds is ended"
    )
    body_limit_bytes: int = Field(default=25_000_000, gt=0, description="largest request body")
    pixel_limit_pixels: int = Field(default=40_000_000, gt=0, description="largest picture, width times height")
    bytes_in_flight_limit_bytes: int = Field(
        default=250_000_000, gt=0, description="all request bodies in memory together"
    )
    max_batch_size: int = Field(
        default=8,
        ge=1,
        le=256,
        description="pictures a worker takes at once, at most; up to it, the best measured size is taken",
    )
    max_queue_size: int = Field(default=512, ge=1, description="pictures waiting for a worker, at most")
    workers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="threads that decode and run the network, a batch each; none: as many as measured best here",
    )
    threads_per_session: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="threads that compute one batch in the network; none: as many as measured best here",
    )
    engine_cache: Path | None = Field(
        default_factory=_user_cache_folder,
        description="folder that keeps what was measured at start; empty: measure at every start",
    )
    drain_seconds: float = Field(
        default=1.0, ge=0, le=600, description="after SIGTERM, go on serving this long while callers are turned away"
    )
    shutdown_seconds: float = Field(default=30.0, gt=0, description="longest wait for running requests at the end")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="lowest level logged")

    @field_validator("also_serve", mode="before")
    @classmethod
    def _split(cls, names: object) -> object:
        given = [names] if isinstance(names, str) else names
        if not isinstance(given, list | tuple):
            return names
        return tuple(part.strip() for name in given for part in str(name).split(",") if part.strip())

    @model_validator(mode="before")
    @classmethod
    def _token_from_file(cls, given: dict[str, Any]) -> dict[str, Any]:
        file = given.get("admin_token_file")
        if file is None:
            return given
        if given.get("admin_token") is not None:
            raise ValueError("admin_token and admin_token_file are both given")
        try:
            return {**given, "admin_token": Path(file).read_text().strip()}
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"admin_token_file cannot be read: {type(error).__name__}") from error

    @model_validator(mode="after")
    def _somebody_is_trusted(self) -> "Settings":
        if self.require_signature and self.trusted_keys is None:
            raise ValueError("require_signature needs trusted_keys: without them no version could serve")
        return self

    @field_validator("engine_cache", mode="before")
    @classmethod
    def _empty_is_none(cls, folder: object) -> object:
        return None if folder == "" else folder

    def wishes(self) -> Wishes:
        """What is fixed of the engine."""
        return Wishes(self.variant, self.threads_per_session, self.workers, self.max_batch_size)


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
