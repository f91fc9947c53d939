"""Who stands behind a bundle: an Ed25519 signature (RFC 8032) over its manifest.

In: a manifest as a mapping, raw keys of 32 bytes. Out: its digest, its signature, or BundleError.
Does not know weights, folders or registries. The manifest names the checksum of the weights, so
who signs it signs them. Neither the digest nor the signature is part of what is signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from model.errors import BundleError

KEY_BYTES: Final = 32
"""Of a seed or a public key, raw."""
DIGEST, SIGNATURE = "digest", "signature"


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    kept = {k: v for k, v in manifest.items() if k not in (DIGEST, SIGNATURE)}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


def digest(manifest: Mapping[str, Any]) -> str:
    """12 hex digits of what is in a manifest."""
    return hashlib.sha256(_canonical(manifest)).hexdigest()[:12]


def sign(manifest: dict[str, Any], seed: bytes) -> None:
    """Enter the signature by the key of this seed, in place of another one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    manifest[SIGNATURE] = key.sign(_canonical(manifest)).hex()


def public_key(seed: bytes) -> bytes:
    """The public key of a seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def check(manifest: Mapping[str, Any], public_key: bytes, what: object) -> None:
    """Raise BundleError, which names `what`, unless it was signed by this key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if SIGNATURE not in manifest:
        raise BundleError(
            f"the bundle in {what} is not signed",
            remedy="sign it (`finetune --key`, `models add --key`), or do not ask for a signature",
        )
    try:
        signature = bytes.fromhex(manifest[SIGNATURE])
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _canonical(manifest))
    except (InvalidSignature, ValueError, TypeError):
        raise BundleError(
            f"the bundle in {what} is not signed by the expected key",
            remedy="give the public key of whoever signed it, or sign a copy (`models add --key`)",
        ) from None
