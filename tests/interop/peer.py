"""A small Matrix homeserver: it publishes its keys, signs its requests and knocks for its users.

May not: import anything of Vestibule's, or leave loopback. It is the judge, so it computes every
hash, id and signature from the Matrix specification alone (see `pdu.py`).
"""

from __future__ import annotations

import copy
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from signedjson.key import generate_signing_key, get_verify_key
from signedjson.sign import sign_json
from unpaddedbase64 import encode_base64

import pdu
from authority import CertificateAuthority
from pdu import Json
from raw_http import Answer, RawConnection

FEDERATION = "/_matrix/federation"
DAY_MS = 24 * 60 * 60 * 1000

NOTHING: Any = object()
"""Stands for "no body", which a signed request tells apart from every JSON value."""


class Destination(Protocol):
    """The server under test, as far as a peer knows it. Its port may change when it restarts."""

    server_name: str
    ca_file: Path

    @property
    def federation_address(self) -> tuple[str, int]: ...


@dataclass(frozen=True)
class XMatrix:
    """The parameters of an `Authorization: X-Matrix` header, before they are written out."""

    origin: str
    destination: str
    key: str
    sig: str

    def header(self) -> str:
        """The form that the specification asks senders to use."""
        return (f'X-Matrix origin="{self.origin}",destination="{self.destination}",'
                f'key="{self.key}",sig="{self.sig}"')


@dataclass(frozen=True)
class SignedEvent:
    """An event that is hashed and signed, with the id that its hash gives it."""

    event: Json
    event_id: str
    version: str


class Peer:
    """One homeserver with its own name and keys, listening on a loopback address.

    Without a `name` the peer is named by its address and port, and needs no discovery. With one,
    the server under test must be told the address (`federation.server_addresses`).
    """

    def __init__(self, authority: CertificateAuthority, name: str | None = None,
                 address: str = "127.0.0.1") -> None:
        self._listener = _Listener((address, 0), self)
        self.address: str = address
        self.port: int = self._listener.server_address[1]
        self.name: str = name if name is not None else f"{address}:{self.port}"
        certificate = authority.issue(_host_of(self.name))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate.certificate, certificate.private_key)

        self.signing_key = generate_signing_key("1")
        # Retired keys by key id: (signing key, milliseconds at which it expired).
        self.old_keys: dict[str, tuple[Any, int]] = {}
        self.valid_for_ms = DAY_MS
        # A hostile answer to key requests: (status, body). None: the honest one.
        self.key_reply: Callable[[Peer], tuple[int, bytes]] | None = None

        # Everything that reached this peer, as (method, path), and how many asked for keys.
        self.received: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self._connections: dict[tuple[str, int], RawConnection] = {}
        threading.Thread(target=self._listener.serve_forever, daemon=True,
                         name=f"peer {self.name}").start()

    # --- being a server -----------------------------------------------------------------------

    @property
    def key_requests(self) -> int:
        with self.lock:
            return sum(path.startswith("/_matrix/key/") for _, path in self.received)

    @property
    def listens_at(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def key_id(self) -> str:
        return _key_id(self.signing_key)

    def user(self, localpart: str) -> str:
        return f"@{localpart}:{self.name}"

    def retire_key(self, expired_ms: int) -> Any:
        """Replace the signing key by a new one and publish the old one as expired at that time."""
        retired = self.signing_key
        self.old_keys[_key_id(retired)] = (retired, expired_ms)
        self.signing_key = generate_signing_key(str(len(self.old_keys) + 1))
        return retired

    def key_document(self, **changes: Any) -> Json:
        """The signed answer to `GET /_matrix/key/v2/server`; `changes` are made before signing."""
        document = {
            "server_name": self.name,
            "verify_keys": {self.key_id: {"key": public_key(self.signing_key)}},
            "old_verify_keys": {
                key_id: {"key": public_key(key), "expired_ts": expired_ms}
                for key_id, (key, expired_ms) in self.old_keys.items()
            },
            "valid_until_ts": now_ms() + self.valid_for_ms,
            **changes,
        }
        return sign_json(document, document["server_name"], self.signing_key)

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        for connection in self._connections.values():
            connection.close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """What this peer says to a request that reached it."""
        with self.lock:
            self.received.append((method, path))
        if method == "GET" and path.startswith("/_matrix/key/v2/server"):
            if self.key_reply is not None:
                return self.key_reply(self)
            return 200, json.dumps(self.key_document()).encode()
        if method == "PUT" and path.startswith("/_matrix/federation/v2/invite/"):
            invite = json.loads(body)
            signed = pdu.with_signature(invite["event"], invite["room_version"], self.name,
                                        self.signing_key)
            return 200, json.dumps({"event": signed}).encode()
        if method == "PUT" and path.startswith("/_matrix/federation/v1/send/"):
            return 200, b'{"pdus":{}}'
        return 404, b'{"errcode":"M_UNRECOGNIZED","error":"this small peer knows no such path"}'

    # --- signed requests ----------------------------------------------------------------------

    def sign_request(self, to: Destination, method: str, target: str, content: Any = NOTHING, *,
                     key: Any = None, destination: str | None = None) -> XMatrix:
        """The parameters that authorize this request."""
        destination = to.server_name if destination is None else destination
        signed: Json = {"method": method, "uri": target, "origin": self.name,
                        "destination": destination}
        if content is not NOTHING:
            signed["content"] = content
        key = self.signing_key if key is None else key
        key_id = _key_id(key)
        sign_json(signed, self.name, key)
        return XMatrix(self.name, destination, key_id, signed["signatures"][self.name][key_id])

    def request(self, to: Destination, method: str, target: str, content: Any = NOTHING, *,
                body: bytes | None = None, authorization: Iterable[str | bytes] | None = None,
                chunked: bool = False, connection: RawConnection | None = None) -> Answer:
        """Send a request, signed in the ordinary way unless `authorization` gives other headers.

        `content` is what is signed; `body`, if given, is what is sent in its place.
        """
        if authorization is None:
            authorization = [self.sign_request(to, method, target, content).header()]
        if body is None and content is not NOTHING:
            body = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
        headers = [(b"Host", to.server_name.encode()), (b"User-Agent", b"interop-peer")]
        headers += [(b"Authorization", _as_bytes(value)) for value in authorization]
        if body is not None:
            headers.append((b"Content-Type", b"application/json"))
        if connection is None:
            connection = self._connection(to)
        return connection.ask(method, target.encode(), headers, body, chunked=chunked)

    def open_connection(self, to: Destination) -> RawConnection:
        """A connection of its own, for callers that send from several threads."""
        address, port = to.federation_address
        return RawConnection(address, port, _host_of(to.server_name), to.ca_file)

    def _connection(self, to: Destination) -> RawConnection:
        address = to.federation_address
        if address not in self._connections:
            self._connections[address] = self.open_connection(to)
        return self._connections[address]

    # --- knocking and leaving -----------------------------------------------------------------

    def make_knock(self, to: Destination, room_id: str, user_id: str,
                   versions: Iterable[str] = tuple(pdu.ROOM_VERSIONS)) -> Answer:
        return self.request(to, "GET", make_knock_target(room_id, user_id, versions))

    def make_leave(self, to: Destination, room_id: str, user_id: str) -> Answer:
        return self.request(to, "GET", membership_target("v1/make_leave", room_id, user_id))

    def send_knock(self, to: Destination, room_id: str, signed: SignedEvent,
                   connection: RawConnection | None = None) -> Answer:
        target = membership_target("v1/send_knock", room_id, signed.event_id)
        return self.request(to, "PUT", target, signed.event, connection=connection)

    def send_leave(self, to: Destination, room_id: str, signed: SignedEvent) -> Answer:
        target = membership_target("v2/send_leave", room_id, signed.event_id)
        return self.request(to, "PUT", target, signed.event)

    def from_template(self, template: Json, **content: Any) -> Json:
        """A membership event of our own making: only what we cannot know comes from the template."""
        event = {key: copy.deepcopy(template[key])
                 for key in ("room_id", "type", "sender", "state_key", "auth_events",
                             "prev_events", "depth")}
        event["content"] = {"membership": template["content"]["membership"], **content}
        event["origin"] = self.name
        event["origin_server_ts"] = now_ms()
        return event

    def sign_event(self, event: Json, version: str, key: Any = None) -> SignedEvent:
        key = self.signing_key if key is None else key
        return identified(pdu.hashed_and_signed(event, version, self.name, key), version)

    def knock(self, to: Destination, room_id: str, user_id: str,
              **content: Any) -> tuple[SignedEvent | None, Answer]:
        """Both steps of a knock. The event is None if the first was refused."""
        made = self.make_knock(to, room_id, user_id)
        if made.status != 200:
            return None, made
        template = made.json
        event = self.from_template(template["event"], **content)
        signed = self.sign_event(event, template["room_version"])
        return signed, self.send_knock(to, room_id, signed)

    def leave(self, to: Destination, room_id: str, user_id: str) -> tuple[SignedEvent | None, Answer]:
        """Take a knock back. The event is None if the template was refused."""
        made = self.make_leave(to, room_id, user_id)
        if made.status != 200:
            return None, made
        template = made.json
        signed = self.sign_event(self.from_template(template["event"]), template["room_version"])
        return signed, self.send_leave(to, room_id, signed)


def identified(event: Json, version: str) -> SignedEvent:
    """The event as it is, with the id that follows from it."""
    return SignedEvent(event, pdu.event_id(event, version), version)


def make_knock_target(room_id: str, user_id: str, versions: Iterable[str]) -> str:
    query = "&".join(f"ver={quote(version, safe='')}" for version in versions)
    path = membership_target("v1/make_knock", room_id, user_id)
    return f"{path}?{query}" if query else path


def membership_target(endpoint: str, room_id: str, last: str) -> str:
    return f"{FEDERATION}/{endpoint}/{quote(room_id, safe='')}/{quote(last, safe='')}"


def public_key(signing_key: Any) -> str:
    return encode_base64(get_verify_key(signing_key).encode())


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class _Listener(http.server.ThreadingHTTPServer):
    """Accepts TLS in the thread of the connection, so that a bad handshake holds up nobody."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], peer: Peer) -> None:
        super().__init__(address, _RequestHandler)
        self.peer = peer

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.peer._tls.wrap_socket(request, server_side=True) as secured:
            self.RequestHandlerClass(secured, client_address, self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is the other side's affair."""


class _RequestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, reply = self.server.peer.answer(self.command, self.path, body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_PUT = do_POST = do_DELETE = _reply

    def log_message(self, format: str, *args: Any) -> None:
        """The peer counts what reaches it; it prints nothing."""


def _key_id(signing_key: Any) -> str:
    return f"{signing_key.alg}:{signing_key.version}"


def _host_of(server_name: str) -> str:
    if server_name.startswith("["):
        return server_name[1:].partition("]")[0]
    return server_name.partition(":")[0]


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8")
