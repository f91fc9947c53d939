"""Settings to client configurations: the one place where passwords and certificates are used.

In: Settings. Out: dictionaries for librdkafka and aiokafka, Faust's credentials, a Redis client,
and two checks that say in one sentence why a server cannot be used.
Does not know what travels over the connections. No message holds a password; an address that holds
one is shown without it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Container, Iterable, Mapping
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from streams import handshake
from streams.batch import Headers
from streams.errors import BrokerError, ConfigError, StoreUnready
from streams.sections import KafkaSettings, RedisSettings
from streams.settings import Settings

if TYPE_CHECKING:
    import faust
    import redis
    from confluent_kafka import KafkaError, Message
    from pydantic import SecretStr

Answer = TypeVar("Answer")

CHECK_TIMEOUT_S = 10.0
PAUSE_S = 0.2
PROBE_S = 1.0
_HEADERS = methodcaller("headers")
LOCAL_REMEDY = "Is it running? `fraudstream services up` starts one on this machine"


def confluent_config(settings: Settings, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What every confluent-kafka client needs to reach the broker; `extra` comes on top."""
    kafka = settings.kafka
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap,
        "client.id": "fraudstream",
        "security.protocol": kafka.security_protocol,
        # A broker that answers late at start is retried soon, not after ten seconds.
        "reconnect.backoff.max.ms": 1_000,
        # Warnings and worse: an idle connection that the broker closes is no news.
        "log_level": 4,
    }
    if _sasl(kafka):
        assert kafka.sasl_password is not None
        config["sasl.mechanism"] = kafka.sasl_mechanism
        config["sasl.username"] = kafka.sasl_username
        config["sasl.password"] = kafka.sasl_password.get_secret_value()
    if _tls(kafka):
        named = {
            "ssl.ca.location": kafka.ssl_ca,
            "ssl.certificate.location": kafka.ssl_cert,
            "ssl.key.location": kafka.ssl_key,
        }
        config |= {name: str(path) for name, path in named.items() if path is not None}
        if kafka.ssl_key_password is not None:
            config["ssl.key.password"] = kafka.ssl_key_password.get_secret_value()
    return config | dict(extra or {})


def aiokafka_config(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client needs to reach the broker."""
    kafka = settings.kafka
    config: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap,
        "client_id": "fraudstream",
        "security_protocol": kafka.security_protocol,
    }
    if _sasl(kafka):
        assert kafka.sasl_password is not None
        config["sasl_mechanism"] = kafka.sasl_mechanism
        config["sasl_plain_username"] = kafka.sasl_username
        config["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
    if _tls(kafka):
        config["ssl_context"] = kafka_ssl_context(kafka)
    return config


def faust_broker(settings: Settings) -> tuple[list[str], faust.types.auth.CredentialsT | None]:
    """Faust's `broker` URLs and `broker_credentials`."""
    import faust

    kafka = settings.kafka
    urls = [f"kafka://{address.strip()}" for address in kafka.bootstrap.split(",")]
    context = kafka_ssl_context(kafka) if _tls(kafka) else None
    if _sasl(kafka):
        assert kafka.sasl_password is not None
        return urls, faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password.get_secret_value(),
            ssl_context=context,
            mechanism=kafka.sasl_mechanism,
        )
    return urls, None if context is None else faust.SSLCredentials(context)


def kafka_ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """A verifying TLS context. Raises ConfigError for a certificate that cannot be read."""
    opened = "ssl_key_password opens the key"
    return _ssl_context("kafka", kafka, kafka.ssl_key_password, opened)


def _ssl_context(
    name: str, section: KafkaSettings | RedisSettings, password: SecretStr | None, opened: str
) -> ssl.SSLContext:
    """The context of a section's files, its key opened with the password; `opened` says how."""
    try:
        context = ssl.create_default_context(cafile=section.ssl_ca)
        if section.ssl_cert is not None:
            context.load_cert_chain(
                section.ssl_cert,
                section.ssl_key,
                # An empty answer keeps OpenSSL from asking on the terminal.
                (lambda: "") if password is None else password.get_secret_value,
            )
    except (OSError, ssl.SSLError) as error:
        paths = (section.ssl_ca, section.ssl_cert, section.ssl_key)
        raise ConfigError(
            f"a TLS file of [{name}] cannot be used ({', '.join(str(p) for p in paths if p)}): "
            f"{error}",
            remedy=f"{name}.ssl_ca, ssl_cert and ssl_key are PEM files, {opened}",
        ) from None
    return context


def _sasl(kafka: KafkaSettings) -> bool:
    return kafka.security_protocol.startswith("SASL")


def _tls(kafka: KafkaSettings) -> bool:
    return kafka.security_protocol.endswith("SSL")


def check_kafka(settings: Settings, timeout_s: float = CHECK_TIMEOUT_S) -> None:
    """Return when the broker lets us in. Raises BrokerError that says what is wrong.

    librdkafka itself retries for ever, and says a wrong password only in its log.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    if _tls(settings.kafka):
        kafka_ssl_context(settings.kafka)  # reads the files: librdkafka names none that it cannot
    seen: list[KafkaError] = []
    extra = {"error_cb": seen.append, "log_level": 0}
    try:
        client = AdminClient(confluent_config(settings, extra))
    except KafkaException as error:
        raise ConfigError(f"the [kafka] settings cannot be used: {_said(error)}") from None
    deadline = time.monotonic() + timeout_s
    # Short at first, to tell a wrong password at once; longer each time, for an answer that comes
    # after its question was given up counts for nothing.
    patience_s = 0.5
    while True:
        try:
            client.list_topics(timeout=min(patience_s, max(deadline - time.monotonic(), 0.1)))
        except KafkaException as failure:
            seen.append(failure.args[0])
        else:
            return
        patience_s *= 2
        client.poll(0)
        _raise_what_waiting_cannot_mend(settings, seen)
        if time.monotonic() > deadline:
            raise BrokerError(
                f"Kafka at {settings.kafka.bootstrap} does not answer in {timeout_s:.0f} s",
                remedy=_remedy_for_silence(settings.kafka),
            )


def topic_remedy(error: KafkaError) -> str | None:
    """What to do where a broker answers so to a reader of a topic."""
    from confluent_kafka import KafkaError

    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return "`fraudstream topics create` makes the topics"
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return "Let the user describe and read it; docs/security.md has the rights"
    if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
        return "Let the user describe the group; docs/security.md has the rights"
    return None


def _remedy_for_silence(kafka: KafkaSettings) -> str:
    """A listener that is spoken to in the wrong protocol is as silent as one that is not there."""
    for address in kafka.bootstrap.split(","):
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection(handshake.host_and_port(address), PROBE_S).close()
            spoken = kafka.security_protocol
            told = f"Somebody listens there: is kafka.security_protocol={spoken} what the listener"
            bare = spoken.endswith("SSL") and kafka.ssl_cert is None
            return f"{told} speaks{', or does it want a kafka.ssl_cert' if bare else ''}?"
    return LOCAL_REMEDY


def patiently(ask: Callable[[], Answer], passing: Container[int], patience_s: float) -> Answer:
    """What `ask` answers; it is called again while its error is one of `passing` and there is time.

    Raises KafkaException.
    """
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in passing or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_S)


def _raise_what_waiting_cannot_mend(settings: Settings, seen: Iterable[KafkaError]) -> None:
    """BrokerError for a wrong password and for a TLS handshake that failed."""
    from confluent_kafka import KafkaError

    address = settings.kafka.bootstrap
    for fault in seen:
        if fault.code() == KafkaError._AUTHENTICATION:
            raise BrokerError(
                f"Kafka at {address} refuses user {settings.kafka.sasl_username!r}",
                remedy="Check kafka.sasl_username, sasl_password and sasl_mechanism",
            )
        if fault.code() == KafkaError._SSL:
            why = handshake.refused(address, kafka_ssl_context(settings.kafka), PROBE_S)
            raise BrokerError(
                f"no TLS connection to Kafka at {address}: {why or fault.str()}",
                remedy="Check kafka.ssl_ca, that the broker's certificate names this host and has"
                " not expired, and that the listener speaks TLS",
            )


def _said(error: Exception) -> str:
    """The text of a KafkaException, which wraps a KafkaError."""
    inner = error.args[0] if error.args else error
    return str(inner.str()) if hasattr(inner, "str") else str(inner)


def content_bytes(content: str | bytes | None) -> bytes | None:
    """A key or a value as bytes; confluent-kafka's types allow a text."""
    return content.encode() if isinstance(content, str) else content


def headers_of(message: Message) -> Headers:
    """The headers as they came; none where a name is no UTF-8 (`live/loose.py` does the same).

    For such a name confluent-kafka 2.x returns something and leaves the error set. Only a call
    that C makes looks for that; Python's own, once specialised, goes on, and the error hits
    whatever C function is called next.
    """
    try:
        pairs: Any = _HEADERS(message)
    except (UnicodeDecodeError, SystemError):
        return ()
    return pairs or ()


def redis_client(settings: Settings) -> redis.Redis:
    """A Redis client; connects at the first command.

    It never repeats a command by itself: whether a commit may be repeated is the store's decision.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    server = settings.redis
    url = server.url.get_secret_value()
    given: dict[str, Any] = {
        "socket_timeout": server.timeout_s,
        "socket_connect_timeout": server.timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "fraudstream",
        "driver_info": None,  # else it sends CLIENT SETINFO, which our user may not
    }
    if server.username is not None:
        given["username"] = server.username
    if server.password is not None:
        given["password"] = server.password.get_secret_value()
    named = {
        "ssl_ca_certs": server.ssl_ca,
        "ssl_certfile": server.ssl_cert,
        "ssl_keyfile": server.ssl_key,
    }
    files = {name: path for name, path in named.items() if path is not None}
    for path in files.values():
        if not path.is_file():  # redis-py names no file, and asks to look for the server
            raise ConfigError(f"a TLS file of [redis] cannot be used ({path}): no such file")
    if files and not url.startswith("rediss://"):
        raise ConfigError(
            f"[redis] names TLS files, but {redis_address(settings)} is a plain address",
            remedy="Write redis.url with rediss://",
        )
    if files:
        # redis-py would ask for the password of a key.
        _ssl_context("redis", server, None, "and the key has no password")
    try:
        client = redis.Redis.from_url(url, **given, **{name: str(p) for name, p in files.items()})
        # Does not connect; an option after the `?` that redis-py does not know shows only here.
        client.connection_pool.make_connection()
        return client
    except (ValueError, TypeError):
        # What it says may quote a part of a password.
        raise ConfigError(
            "redis.url cannot be used",
            remedy="Write redis://host:port/0 or rediss://host:port/0, with redis.username and"
            " redis.password beside it; inside a URL a / of a password is %2F, a # is %23",
        ) from None


def redis_address(settings: Settings) -> str:
    """The address without user and password, for messages.

    A password with a slash, say, moves the border between the parts of a URL. So an address that
    has an `@` behind the host, or no host and port that can be told, is not shown at all.
    """
    url = settings.redis.url.get_secret_value()
    try:
        parts = urlsplit(url)
        told = parts.port is None or parts.port >= 0
    except ValueError:
        told = False
    if not told or "://" not in url or "@" in url.partition("://")[2].removeprefix(parts.netloc):
        return "the address in redis.url"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def check_redis(
    settings: Settings, client: redis.Redis | None = None, *, to_read: bool = False
) -> None:
    """Return when Redis lets us in. Raises StoreUnready that says what is wrong.

    `to_read`: one that cannot write its file, and so takes no write, will do.
    """
    import redis

    from streams.store.scripts import RIGHTS, to_write_again, unwritable

    own = client is None
    used = redis_client(settings) if client is None else client
    address = redis_address(settings)
    try:
        used.ping()
    except redis.exceptions.AuthenticationError as error:
        raise StoreUnready(
            f"Redis at {address} refuses the user name or password: {error}",
            remedy="Check redis.username and redis.password",
        ) from None
    except redis.exceptions.NoPermissionError as error:
        raise StoreUnready(
            f"Redis at {address} forbids a command: {error}",
            remedy=RIGHTS,
        ) from None
    except redis.exceptions.RedisError as error:
        # A PING is refused, too, as long as it cannot write.
        cannot_write, said = unwritable(error), str(error)
        if to_read and cannot_write:
            return
        raise StoreUnready(
            f"Redis at {address} cannot be used: {said}",
            remedy=to_write_again(said) if cannot_write else _remedy(said, address),
        ) from None
    finally:
        if own:
            used.close()


def _remedy(said: str, address: str) -> str:
    """What to do about a Redis that answers with this error, or not at all."""
    if "loading" in said:
        return "Try again when it has: loading_eta_seconds of `redis-cli INFO` tells when"
    if "ssl" in said.lower() or "certificate" in said.lower():
        return "Check redis.ssl_ca, ssl_cert and ssl_key, and that the port speaks TLS"
    if "Timeout" in said and address.startswith("rediss://"):
        return "Is it running, and does the port speak TLS?"
    if "Timeout reading" in said:
        return "Somebody listens there and says nothing: is it Redis, and is it busy or frozen?"
    return LOCAL_REMEDY
