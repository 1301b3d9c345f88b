"""Errors of the model store.

StoreError
├── StoreUnavailableError   any: the storage does not answer, or lets nobody in; it may be different in a minute
├── NotInStoreError         resolve, open: no such model, version or alias
├── DamagedVersionError     open, verify: a file is missing, changed or unlisted, or the manifest is not valid
│   └── UnsafeGraphError    graph check: the graph may not be run, or is not what the manifest says
├── UntrustedVersionError   verify: no signature that the policy accepts
├── InvalidManifestError    publish: the version would not be valid
├── AliasError              promote, roll back, retire: the alias cannot be moved, the version is in use
│   └── GateRefusedError    promote: the version does not pass the gate
├── KeyFileError            keys, sign: a key file cannot be read or written
└── ReplayError             replay, compare: the picture or the version cannot be run here
"""


class StoreError(Exception):
    """Base of all expected failures; the message is one line for an operator."""


class StoreUnavailableError(StoreError):
    """The storage cannot be reached now; what was read from it before is still in the cache."""


class NotInStoreError(StoreError):
    """The model, version or alias does not exist."""


class DamagedVersionError(StoreError):
    """The version in the store is not what was published."""


class UnsafeGraphError(DamagedVersionError):
    """The graph is refused before any part of it is run."""


class UntrustedVersionError(StoreError):
    """The version is not signed as the policy asks."""


class InvalidManifestError(StoreError):
    """The files or values given do not make a valid version."""


class AliasError(StoreError):
    """The alias cannot be moved as asked, or the version not removed."""


class GateRefusedError(AliasError):
    """The version does not reach what the gate asks."""


class KeyFileError(StoreError):
    """A key file is missing, of another kind, or would be overwritten."""


class ReplayError(StoreError):
    """A picture or a version cannot be run on this machine."""
