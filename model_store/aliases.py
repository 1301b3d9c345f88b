"""`aliases.json`: where each alias of a model stands, how it came there, and which versions were retired."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from model_store.contract.manifest import ModelName, VersionNumber, first_fault
from model_store.contract.strict_json import StrictJSONError, parse_strictly
from model_store.errors import DamagedVersionError
from model_store.storage import RECORD_LIMIT_BYTES

PRODUCTION = "production"
PREVIOUS = "previous"
_HISTORY_LIMIT = 1000  # moves; older ones are forgotten


class Move(BaseModel):
    """One alias moved. `failed` are the lines of the gate that did not pass when it was forced, with its `reason`.

    Who did it is not recorded: that is the matter of whoever guards the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    action: Literal["promote", "rollback"]
    alias: ModelName
    from_version: VersionNumber | None
    to_version: VersionNumber
    reason: str | None = Field(default=None, max_length=1000)
    failed: tuple[str, ...] = ()


class AliasTable(BaseModel):
    """The file's content. Its first form, a plain table of alias to version, is still read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    aliases: dict[ModelName, VersionNumber] = {}
    history: tuple[Move, ...] = ()
    retired: dict[VersionNumber, datetime] = {}

    def moved(self, aliases: dict[str, str], moves: tuple[Move, ...]) -> "AliasTable":
        """The next state."""
        return self.model_copy(update={"aliases": aliases, "history": (*self.history, *moves)[-_HISTORY_LIMIT:]})

    def to_bytes(self) -> bytes:
        """As it is stored: aliases in the order of their names."""
        ordered = self.model_copy(update={"aliases": dict(sorted(self.aliases.items()))})
        return ordered.model_dump_json(indent=2).encode() + b"\n"


def read_aliases(data: bytes | None, place: str) -> AliasTable:
    """None is a model without aliases. Raises DamagedVersionError."""
    if data is None:
        return AliasTable()
    try:
        found = parse_strictly(data, RECORD_LIMIT_BYTES)
        if isinstance(found, dict) and "schema_version" not in found:
            return AliasTable(aliases=TypeAdapter(dict[ModelName, VersionNumber]).validate_python(found, strict=True))
        return AliasTable.model_validate_json(data, strict=True)
    except StrictJSONError as error:
        raise DamagedVersionError(f"{place}: not a table of aliases: {error}") from error
    except ValidationError as error:
        raise DamagedVersionError(f"{place}: not a table of aliases: {first_fault(error)}") from error
