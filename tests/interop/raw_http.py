"""HTTP/1.1 over TLS, written out by hand, so that a test can send exactly the bytes it means.

May not: normalise, encode or check anything that it is asked to send.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Longer than the server may take for any answer: key fetching has 8 s, a held request 5 s.
TIMEOUT_SECONDS = 40.0


@dataclass(frozen=True)
class Answer:
    """What came back. Status 0 means that no HTTP answer came; `body` then says what happened."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def errcode(self) -> str | None:
        parsed = self.json
        errcode = parsed.get("errcode") if isinstance(parsed, dict) else None
        return errcode if isinstance(errcode, str) else None

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def __str__(self) -> str:
        return f"{self.status} {self.body[:400].decode('utf-8', 'replace')}"


class RawConnection:
    """One kept-alive TLS connection; opened again when the server has closed it between requests."""

    def __init__(self, address: str, port: int, tls_name: str, ca_file: Path) -> None:
        self._to = (address, port)
        self._tls_name = tls_name
        self._context = ssl.create_default_context(cafile=str(ca_file))
        self._socket: ssl.SSLSocket | None = None

    def ask(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]],
            body: bytes | None = None, *, chunked: bool = False) -> Answer:
        """Send one request and read the whole answer. Only a connection that sat idle is retried."""
        request = _request_bytes(method, target, headers, body, chunked)
        was_idle = self._socket is not None
        try:
            return self._exchange(method, request)
        except (OSError, http.client.HTTPException) as fault:
            self.close()
            if not was_idle:
                return Answer(0, f"no answer: {fault!r}".encode())
        try:
            return self._exchange(method, request)
        except (OSError, http.client.HTTPException) as fault:
            self.close()
            return Answer(0, f"no answer: {fault!r}".encode())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, method: str, request: bytes) -> Answer:
        if self._socket is None:
            plain = socket.create_connection(self._to, timeout=TIMEOUT_SECONDS)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = self._context.wrap_socket(plain, server_hostname=self._tls_name)
        try:
            self._socket.sendall(request)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            # A server may refuse a body before it has read all of it; its answer then waits for us.
            pass
        response = http.client.HTTPResponse(self._socket, method=method)
        response.begin()
        body = response.read()
        if response.will_close:
            self.close()
        return Answer(response.status, body, tuple(response.getheaders()))


def _request_bytes(method: str, target: bytes, headers: list[tuple[bytes, bytes]],
                   body: bytes | None, chunked: bool) -> bytes:
    lines = [method.encode("ascii") + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in headers]
    payload = b""
    if body is not None and chunked:
        lines.append(b"Transfer-Encoding: chunked")
        pieces = [body[i:i + 16384] for i in range(0, len(body), 16384)]
        payload = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body is not None:
        lines.append(b"Content-Length: %d" % len(body))
        payload = body
    return b"\r\n".join(lines) + b"\r\n\r\n" + payload
