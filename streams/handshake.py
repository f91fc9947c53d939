"""Why a server's certificate is refused, told by a TLS handshake of our own.

In: addresses and a context with the same files. Out: one sentence, or nothing.
librdkafka has one sentence for a foreign authority, another host and a day gone by. Does not know
Kafka: nothing is asked after the handshake.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

UNKNOWN_AUTHORITY: Final = (18, 19, 20, 21)
"""OpenSSL's codes: self-signed, a chain that ends nowhere, its issuer or its first not found."""


def host_and_port(address: str) -> tuple[str, int]:
    """Of one address of a broker; an IPv6 host may stand in brackets. Raises ValueError."""
    host, _, port = address.strip().rpartition(":")
    return host.strip("[]"), int(port)


def refused(addresses: str, context: ssl.SSLContext, patience_s: float) -> str | None:
    """Of the first of the addresses whose certificate is refused; None where none is."""
    for address in addresses.split(","):
        try:
            place = host_and_port(address)
            with (
                socket.create_connection(place, patience_s) as plain,
                context.wrap_socket(plain, server_hostname=place[0]),
            ):
                continue
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            if error.verify_code in UNKNOWN_AUTHORITY:
                why = f"another authority signed it ({why})"
            return f"the certificate of {address.strip()} is refused: {why}"
        except (OSError, ValueError):  # this one tells nothing
            continue
    return None
