"""Who vouches for a version, and who is believed."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from model_store.errors import KeyFileError, UntrustedVersionError
from model_store.signatures import TrustPolicy, new_key_pair, read_private_key, read_trusted_keys
from model_store.store import ModelStore
from tests.model_store.builders import FILES, fields
from tests.model_store.places import Place


def policy(*public: Path, required: bool = True) -> TrustPolicy:
    return TrustPolicy(required, {k: v for file in public for k, v in read_trusted_keys(file).items()})


def test_a_signed_version_is_trusted(store: ModelStore, place: Place, tmp_path: Path) -> None:
    """Signed by a trusted key: verified, by any reader; the digest is as before."""
    secret, public, identity = new_key_pair(tmp_path / "release")
    published = store.publish(FILES, fields())
    assert store.sign("lesion7", "1", read_private_key(secret)) == (identity,)
    assert place.store().verify("lesion7", "1", policy(public)).digest == published.digest


def test_unsigned_or_signed_by_others_is_not(store: ModelStore, tmp_path: Path) -> None:
    """Where a signature is required, none and a stranger's are refused, with different reasons."""
    secret, _, _ = new_key_pair(tmp_path / "stranger")
    _, trusted, _ = new_key_pair(tmp_path / "release")
    store.publish(FILES, fields())
    with pytest.raises(UntrustedVersionError, match="not signed, and a signature is required"):
        store.verify("lesion7", "1", policy(trusted))
    store.sign("lesion7", "1", read_private_key(secret))
    with pytest.raises(UntrustedVersionError, match=r"signed by no trusted key \(1 are trusted\)"):
        store.verify("lesion7", "1", policy(trusted))
    store.verify("lesion7", "1", policy(trusted, required=False))


def test_one_of_several_signatures_is_enough(store: ModelStore, tmp_path: Path) -> None:
    """Two who sign at the same time both stand there; each reader believes its own."""
    pairs = [new_key_pair(tmp_path / name) for name in ("training", "clinic")]
    store.publish(FILES, fields())
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda pair: store.sign("lesion7", "1", read_private_key(pair[0])), pairs))
    assert set(store.signers("lesion7", "1")) == {identity for _, _, identity in pairs}
    for _, public, _ in pairs:
        store.verify("lesion7", "1", policy(public))


def test_signing_twice_changes_nothing(store: ModelStore, tmp_path: Path) -> None:
    """A key stands in the file once."""
    secret, _, identity = new_key_pair(tmp_path / "release")
    store.publish(FILES, fields())
    for _ in range(2):
        assert store.sign("lesion7", "1", read_private_key(secret)) == (identity,)


def test_a_signature_is_of_one_version(store: ModelStore, place: Place, tmp_path: Path) -> None:
    """Moved to another version it is refused, even where none is required."""
    secret, public, _ = new_key_pair(tmp_path / "release")
    for _ in range(2):
        store.publish(FILES, fields())
    store.sign("lesion7", "1", read_private_key(secret))
    place.write("2", "manifest.sig", place.read("1", "manifest.sig"))
    for required in (True, False):
        with pytest.raises(UntrustedVersionError, match="is of another text"):
            place.store().verify("lesion7", "2", policy(public, required=required))


def test_the_secret_key_is_its_owners(tmp_path: Path) -> None:
    """Only its owner can read it, and it is never written over."""
    secret, public, _ = new_key_pair(tmp_path / "release")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    with pytest.raises(KeyFileError, match="File exists"):
        new_key_pair(tmp_path / "release")
    assert read_trusted_keys(tmp_path).keys() == read_trusted_keys(public).keys()


def test_other_keys_are_refused(tmp_path: Path) -> None:
    """No file, no key, a key of another kind, a folder without keys: each is one line."""
    rsa = generate_private_key(65537, 2048)
    (tmp_path / "rsa.key").write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "rsa.pub").write_bytes(rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "text").write_text("no key")
    (tmp_path / "empty").mkdir()
    for read, file, reason in (
        (read_private_key, "rsa.key", "not an Ed25519 key"),
        (read_private_key, "text", "not a private key in PEM"),
        (read_private_key, "missing", "No such file"),
        (read_trusted_keys, "rsa.pub", "not an Ed25519 key"),
        (read_trusted_keys, "text", "not a public key in PEM"),
        (read_trusted_keys, "empty", "no \\*.pub in this folder"),
    ):
        with pytest.raises(KeyFileError, match=reason):
            read(tmp_path / file)
