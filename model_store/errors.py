"""Errors of the model store.

StoreError
├── NotInStoreError         resolve, open: no such model, version or alias
├── DamagedVersionError     open, verify: a file is missing, changed, or the manifest is not valid
├── InvalidManifestError    publish: the version would not be valid
└── AliasError              promote, roll back: the alias cannot be moved
"""


class StoreError(Exception):
    """Base of all expected failures; the message is one line for an operator."""


class NotInStoreError(StoreError):
    """The model, version or alias does not exist."""


class DamagedVersionError(StoreError):
    """The version on disk is not what was published."""


class InvalidManifestError(StoreError):
    """The files or values given do not make a valid version."""


class AliasError(StoreError):
    """The alias cannot be moved as asked."""
