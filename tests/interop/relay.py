"""A relay in front of one server: every request passes through unchanged, and the test chooses what
happens just before one is passed on, or just after it was answered.

What servers sign is the request, not the connection, so neither side notices. May not: change,
repeat or make up anything that it passes on; it can only hold it, or lose it.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from authority import CertificateAuthority
from raw_http import Answer, RawConnection

# These concern one connection, and there are two here.
OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Passed:
    """A request that went through. Status 0: no answer came."""

    method: str
    path: str
    status: int


class Relay:
    """Listens on `front` with a certificate for `name`, and passes on to `behind`, whose
    certificate has to be for `name` as well."""

    def __init__(self, authority: CertificateAuthority, name: str, front: tuple[str, int],
                 behind: tuple[str, int]) -> None:
        self._name = name
        self._behind = behind
        self._ca_file = authority.ca_file
        certificate = authority.issue(name)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate.certificate, certificate.private_key)
        self.passed: list[Passed] = []
        self._lock = threading.Lock()
        self._before: dict[str, Callable[[], object]] = {}
        self._after: dict[str, Callable[[], object]] = {}
        self._lost: set[str] = set()
        self._listener = _Listener(front, self)
        threading.Thread(target=self._listener.serve_forever, daemon=True,
                         name=f"relay of {name}").start()

    def before(self, word: str, act: Callable[[], object]) -> None:
        """Do this once, when the next request with `word` in its path has come and waits."""
        self._before[word] = act

    def after(self, word: str, act: Callable[[], object]) -> None:
        """Do this once, when such a request was answered and its answer waits."""
        self._after[word] = act

    def lose_answer(self, word: str) -> None:
        """Once, hang up in place of passing on the answer to such a request."""
        self._lost.add(word)

    def count(self, word: str, status: int = 200) -> int:
        """How many requests with `word` in their path were answered like this so far."""
        with self._lock:
            return sum(word in one.path and one.status == status for one in self.passed)

    def close(self) -> None:
        """Be gone, and with it every connection that either side would like to use again."""
        self._listener.shutdown()
        self._listener.server_close()
        self._listener.hang_up()

    def pass_on(self, method: str, target: str, headers: list[tuple[str, str]],
                body: bytes) -> Answer | None:
        """The answer, or None if there is none to be given."""
        path = unquote(target)
        self._act(self._before, path)
        kept = [(name.encode(), value.encode("latin-1")) for name, value in headers
                if name.lower() not in OF_ONE_CONNECTION]
        connection = RawConnection(*self._behind, self._name, self._ca_file)
        answer = connection.ask(method, target.encode("latin-1"), kept,
                                body if body or method != "GET" else None)
        connection.close()
        with self._lock:
            self.passed.append(Passed(method, path, answer.status))
        self._act(self._after, path)
        with self._lock:
            lost = {word for word in self._lost if word in path}
            self._lost -= lost
        return None if lost or answer.status == 0 else answer

    def _act(self, acts: dict[str, Callable[[], object]], path: str) -> None:
        with self._lock:
            due = [acts.pop(word) for word in list(acts) if word in path]
        for act in due:
            act()


class _Listener(http.server.ThreadingHTTPServer):
    """Accepts TLS in the thread of the connection, so that a bad handshake holds up nobody."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], relay: Relay) -> None:
        super().__init__(address, _RequestHandler)
        self.relay = relay
        self._open: set[ssl.SSLSocket] = set()
        self._lock = threading.Lock()

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.relay.tls.wrap_socket(request, server_side=True) as secured:
            with self._lock:
                self._open.add(secured)
            self.RequestHandlerClass(secured, client_address, self)
            with self._lock:
                self._open.discard(secured)

    def hang_up(self) -> None:
        with self._lock:
            for secured in self._open:
                # One that the other side has left, or that is just being left, is gone already.
                with contextlib.suppress(OSError):
                    secured.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is the other side's affair."""


class _RequestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.server.relay.pass_on(self.command, self.path, self.headers.items(), body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in OF_ONE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_DELETE = _relay

    def log_message(self, format: str, *args: Any) -> None:
        """The relay remembers what passed; it prints nothing."""
