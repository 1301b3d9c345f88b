"""Ed25519 signatures of manifests: who vouches for a version, and whom a reader believes.

A manifest names every file by its sha256, so a signature of its bytes vouches for the whole version. `manifest.sig`
lies beside it, may hold several signatures, and is the only file of a version that may be added to later.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from model_store.contract.manifest import Digest, first_fault
from model_store.contract.strict_json import StrictJSONError, parse_strictly
from model_store.errors import KeyFileError, UntrustedVersionError

SIGNATURE_LIMIT_BYTES = 64_000
# Signed together with the manifest, so that a signature made for anything else is never one of a manifest.
_CONTEXT = b"dermserve-manifest-v1\n"


class Signature(BaseModel):
    """One signature; `key_id` is `sha256:` and the sha256 of the 32 bytes of the public key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Literal["ed25519"]
    key_id: Digest
    signature: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class SignatureFile(BaseModel):
    """`manifest.sig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    signatures: tuple[Signature, ...] = Field(min_length=1, max_length=50)


@dataclass(frozen=True)
class TrustPolicy:
    """Whom a reader believes: public keys by their id, and whether a version without their signature is refused."""

    require_signature: bool = False
    trusted_keys: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)

    def check(self, manifest: bytes, signature_file: bytes | None, version: str) -> tuple[str, ...]:
        """The ids of the trusted keys that signed. Raises UntrustedVersionError with the reason.

        A wrong signature in the name of a trusted key is refused even where none is required.
        """
        if signature_file is None:
            if self.require_signature:
                raise UntrustedVersionError(f"{version}: not signed, and a signature is required")
            return ()
        signed = [s for s in read_signatures(signature_file, version).signatures if s.key_id in self.trusted_keys]
        for one in signed:
            try:
                raw = base64.b64decode(one.signature, validate=True)
                self.trusted_keys[one.key_id].verify(raw, _CONTEXT + manifest)
            except (InvalidSignature, binascii.Error) as error:
                raise UntrustedVersionError(f"{version}: the signature by {one.key_id} is of another text") from error
        if self.require_signature and not signed:
            raise UntrustedVersionError(f"{version}: signed by no trusted key ({len(self.trusted_keys)} are trusted)")
        return tuple(one.key_id for one in signed)


def read_signatures(signature_file: bytes, version: str) -> SignatureFile:
    """Raises UntrustedVersionError."""
    try:
        parse_strictly(signature_file, SIGNATURE_LIMIT_BYTES)
        return SignatureFile.model_validate_json(signature_file, strict=True)
    except StrictJSONError as error:
        raise UntrustedVersionError(f"{version}: the signature file is not acceptable JSON: {error}") from error
    except ValidationError as error:
        raise UntrustedVersionError(f"{version}: the signature file is not valid: {first_fault(error)}") from error


def with_signature(manifest: bytes, key: Ed25519PrivateKey, present: Sequence[Signature]) -> bytes:
    """A signature file that holds the present signatures and this key's."""
    identity = key_id(key.public_key())
    made = Signature(
        algorithm="ed25519",
        key_id=identity,
        signature=base64.b64encode(key.sign(_CONTEXT + manifest)).decode(),
    )
    others = tuple(one for one in present if one.key_id != identity)
    return SignatureFile(schema_version=1, signatures=(*others, made)).model_dump_json(indent=2).encode() + b"\n"


def key_id(key: Ed25519PublicKey) -> str:
    """`sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def new_key_pair(name: Path) -> tuple[Path, Path, str]:
    """Write `name.key` (PKCS 8, for its owner's eyes) and `name.pub`, both PEM. Returns both and the key's id."""
    key = Ed25519PrivateKey.generate()
    private, public = name.with_name(name.name + ".key"), name.with_name(name.name + ".pub")
    contents = (
        (private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600),
        (public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644),
    )
    for file, content, mode in contents:
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise KeyFileError(f"{file}: {error.strerror}") from error
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
    return private, public, key_id(key.public_key())


def read_private_key(file: Path) -> Ed25519PrivateKey:
    """Raises KeyFileError."""
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{file}: {getattr(error, 'strerror', None) or 'not a private key in PEM'}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{file}: not an Ed25519 key")
    return key


def read_trusted_keys(place: Path) -> dict[str, Ed25519PublicKey]:
    """Public keys by id from a file, or from every `*.pub` of a folder. Raises KeyFileError, also where none is."""
    files = sorted(place.glob("*.pub")) if place.is_dir() else [place]
    if not files:
        raise KeyFileError(f"{place}: no *.pub in this folder")
    keys = [_read_public_key(file) for file in files]
    return {key_id(key): key for key in keys}


def _read_public_key(file: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{file}: {getattr(error, 'strerror', None) or 'not a public key in PEM'}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{file}: not an Ed25519 key")
    return key
