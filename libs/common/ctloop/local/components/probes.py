"""Is it ready: one question per kind of server, asked on the wire, without its client library.

Each returns when it is and raises an ``OSError`` when it is not (yet). The supervisor asks every few seconds, and would
hold 60 MB of client libraries otherwise.
"""

import http.client
import json
import socket
import struct
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 2.0
FIND_COORDINATOR, DESCRIBE_CLUSTER = 10, 60


class NotReady(OSError):
    """It answers, but does not work yet."""


def tcp(host: str, port: int) -> None:
    """Somebody listens."""
    socket.create_connection((host, port), TIMEOUT_SECONDS).close()


def http_answers(url: str, *, below: int = 400) -> None:
    """GET gives a status below ``below``.

    Raises:
        NotReady: with the status, when it is higher.
    """
    status, body = _get(url)
    if status >= below:
        raise NotReady(f"{url} answers {status}: {body.decode('utf-8', 'replace')[:200]}")


def service(url: str) -> None:
    """Its ``/readyz`` says yes, or lacks nothing but a model: serving has none before the first promotion.

    Raises:
        NotReady: with what is missing.
    """
    status, body = _get(f"{url}/readyz")
    if status == http.client.OK:
        return
    try:
        missing = json.loads(body).get("missing", {})
    except (ValueError, AttributeError):
        missing = {}
    if set(missing) != {"model"}:
        raise NotReady(f"{url}/readyz answers {status}: {body.decode('utf-8', 'replace')[:200]}")


def _get(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        return answer.status, answer.read(2000)
    except http.client.HTTPException as error:
        raise NotReady(f"{url}: {type(error).__name__}") from error
    finally:
        connection.close()


def postgres(host: str, port: int, user: str = "postgres", database: str = "postgres") -> None:
    """It asks for a password, as libpq's PQping does."""
    names = f"user\0{user}\0database\0{database}\0\0".encode()
    with socket.create_connection((host, port), TIMEOUT_SECONDS) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.sendall(struct.pack("!ii", len(names) + 8, 196608) + names)
        answer = connection.recv(1024)
    if not answer or (answer[:1] == b"E" and b"57P03" in answer):
        raise NotReady("PostgreSQL is starting up")


def kafka(bootstrap: str, *, group: str | None = None) -> None:
    """It knows a broker that is not fenced and, if asked, who coordinates a group.

    The second question makes the broker create its topic of offsets, which the first consumer would wait for.
    """
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_SECONDS) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        cluster = _ask(connection, DESCRIBE_CLUSTER, 0, b"\0\0")
        if struct.unpack_from("!h", cluster, 4)[0] != 0 or _brokers(cluster) < 1:
            raise NotReady("Kafka's broker is not in its cluster yet")
        if group is not None:
            name = group.encode()
            found = _ask(connection, FIND_COORDINATOR, 4, b"\0\2" + bytes([len(name) + 1]) + name + b"\0")
            # throttle, array length, key (as asked), node id, host, port, error code
            host_at = 4 + 1 + 1 + len(name) + 4
            error_at = host_at + found[host_at] + 4
            if struct.unpack_from("!h", found, error_at)[0] != 0:
                raise NotReady("Kafka has no coordinator of groups yet")


def _ask(connection: socket.socket, key: int, version: int, body: bytes) -> bytes:
    """One request with the flexible header; the answer behind its header."""
    request = struct.pack("!hhih", key, version, 7, 6) + b"ctloop" + b"\0" + body
    connection.sendall(struct.pack("!i", len(request)) + request)
    size = struct.unpack("!i", _exactly(connection, 4))[0]
    return _exactly(connection, size)[5:]


def _exactly(connection: socket.socket, size: int) -> bytes:
    body = b""
    while len(body) < size:
        part = connection.recv(size - len(body))
        if not part:
            raise NotReady("Kafka closed the connection")
        body += part
    return body


def _brokers(answer: bytes) -> int:
    """How many brokers a DescribeCluster answer lists: behind throttle, error, message, cluster id, controller."""
    at = 6
    for _ in ("message", "cluster id"):
        at += max(answer[at], 1)  # compact string: length + 1, 0 for null
    return answer[at + 4] - 1
