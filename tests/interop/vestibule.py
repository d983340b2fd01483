"""Vestibule as a process: started on a data directory of its own, stopped, killed, started again.

May not: know anything about the server but its outside contract: command line, configuration keys,
the `ready:` line, `admin_token`, and HTTP.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from authority import CertificateAuthority
from raw_http import Answer

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 15.0
READY_LISTENER = re.compile(r"(\S+):(\d+) \(([^)]*)\)")


def binary() -> Path:
    """`VESTIBULE_BIN`, else the release build, else the debug build."""
    named = os.environ.get("VESTIBULE_BIN")
    candidates = [Path(named)] if named else [
        REPOSITORY / "target" / build / "vestibule" for build in ("release", "debug")
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise SystemExit(f"no server to test: {' or '.join(map(str, candidates))} does not exist")


def environment() -> dict[str, str]:
    """Ours without `VESTIBULE_…`: the server would read `VESTIBULE_BIN` as a configuration key."""
    return {k: v for k, v in os.environ.items() if not k.startswith("VESTIBULE_")}


def free_port(address: str) -> int:
    """A port that nobody listens on. Connections to loopback start from 127.0.0.1, so on any other
    loopback address it stays free until somebody binds it on purpose."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def loopback_name(address: str) -> str:
    """A server name that needs no discovery: the address itself, with a port that is free."""
    return f"{address}:{free_port(address)}"


class Vestibule:
    """One server. `settings` are `--set` values beside those that loopback needs."""

    def __init__(self, directory: Path, authority: CertificateAuthority,
                 server_addresses: dict[str, str] | None = None,
                 settings: dict[str, str] | None = None,
                 server_name: str = "vestibule.test") -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data_dir = directory / "data"
        self.server_name = server_name
        self.ca_file = authority.ca_file
        self.log_file = directory / "vestibule.log"
        certificate = authority.issue(server_name)
        addresses = ", ".join(f'"{k}" = "{v}"' for k, v in (server_addresses or {}).items())
        self._settings = {
            "server_name": text_value(server_name),
            "data_dir": text_value(self.data_dir),
            "listener.0.address": text_value("127.0.0.1:0"),
            "listener.1.address": text_value("127.0.0.1:0"),
            "listener.2.address": text_value("127.0.0.1:0"),
            "listener.1.tls_certificate": text_value(certificate.certificate),
            "listener.1.tls_private_key": text_value(certificate.private_key),
            "registration.open": "true",
            "federation.allowed_ip_ranges": '["127.0.0.0/8"]',
            "federation.trusted_ca_files": f"[{text_value(authority.ca_file)}]",
            "federation.server_addresses": "{ " + addresses + " }",
            **(settings or {}),
        }
        self._process: subprocess.Popen[str] | None = None
        self._listeners: dict[str, tuple[str, int]] = {}

    @classmethod
    def at(cls, address: str, directory: Path, authority: CertificateAuthority,
           settings: dict[str, str] | None = None) -> Vestibule:
        """A server that is named by where it listens, so that every peer can find it."""
        server_name = loopback_name(address)
        certificate = authority.issue(address)
        return cls(directory, authority, server_name=server_name, settings={
            "listener.1.address": text_value(server_name),
            "listener.1.tls_certificate": text_value(certificate.certificate),
            "listener.1.tls_private_key": text_value(certificate.private_key),
            **(settings or {}),
        })

    @contextmanager
    def restarted_with(self, settings: dict[str, str]) -> Iterator[None]:
        """Stopped, and started on the same data with further settings; afterwards without them."""
        before = self._settings
        self.stop()
        self._settings = {**before, **settings}
        try:
            self.start()
            yield
        finally:
            self._settings = before
            if self.is_running():
                self.stop()
            self.start()

    def command_line(self) -> list[str]:
        command = [str(binary())]
        for key, value in self._settings.items():
            command += ["--set", f"{key}={value}"]
        return command

    def start(self) -> None:
        """Start and wait for the `ready:` line. The working directory holds no config file."""
        self._process = subprocess.Popen(
            self.command_line(), cwd=self.directory, env=environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        )
        ready: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read_log, args=(self._process, ready), daemon=True).start()
        try:
            line = ready.get(timeout=START_SECONDS)
        except queue.Empty:
            self.kill()
            raise SystemExit(f"Vestibule was not ready within {START_SECONDS:.0f} s") from None
        if line is None:
            status = self._process.wait()
            tail = self.log_file.read_text()[-2000:]
            raise SystemExit(f"Vestibule ended with status {status} before it was ready:\n{tail}")
        self._listeners = {
            role.strip(): (address, int(port))
            for address, port, roles in READY_LISTENER.findall(line)
            for role in roles.split(",")
            # The plain listener for clients comes first; the TLS one serves clients too.
            if role.strip() != "client" or "tls" not in roles
        }
        for role in ("client", "federation", "admin"):
            if role not in self._listeners:
                raise SystemExit(f"no {role} listener in: {line}")

    def _read_log(self, process: subprocess.Popen[str], ready: queue.Queue[str | None]) -> None:
        assert process.stderr is not None
        with self.log_file.open("a") as log:
            for line in process.stderr:
                log.write(line)
                log.flush()
                if line.startswith("ready:"):
                    ready.put(line.strip())
        ready.put(None)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit(f"Vestibule did not stop within {STOP_SECONDS:.0f} s") from None

    def kill(self) -> None:
        """SIGKILL: what a power cut leaves of a process."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def federation_address(self) -> tuple[str, int]:
        return self._listeners["federation"]

    @property
    def client_url(self) -> str:
        return "http://{}:{}".format(*self._listeners["client"])

    @property
    def admin_url(self) -> str:
        return "http://{}:{}".format(*self._listeners["admin"])

    def client(self) -> Client:
        return Client(self)

    def admin(self, method: str, path: str) -> Answer:
        """A call of the admin listener with the token that the server made at its first start."""
        token = (self.data_dir / "admin_token").read_text().strip()
        return http_call(method, f"{self.admin_url}{path}", token=token)

    def actor(self, room_id: str) -> dict[str, Any]:
        """The actor stats of one room."""
        answer = self.admin("GET", f"/_vestibule/admin/v1/rooms/{quote(room_id, safe='')}/actor")
        if answer.status != 200:
            raise RuntimeError(f"actor stats of {room_id}: {answer}")
        return answer.json

    def totals(self) -> dict[str, Any]:
        answer = self.admin("GET", "/_vestibule/admin/v1/actors?limit=1")
        if answer.status != 200:
            raise RuntimeError(f"actor stats: {answer}")
        return answer.json["totals"]


class Client:
    """One user of Vestibule, with the ordinary client calls."""

    def __init__(self, server: Vestibule) -> None:
        self.server = server
        self.token: str | None = None
        self.user_id = ""

    def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None,
             **query: Any) -> Answer:
        """`path` follows `/_matrix/client`. A body of None sends none."""
        url = f"{self.server.client_url}/_matrix/client{path}"
        if query:
            url += "?" + urlencode(query, doseq=True)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        return http_call(method, url, data, token=self.token)

    def must(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The JSON of an answer that has to be 200."""
        answer = self.call(method, path, body, **query)
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer}")
        return answer.json

    def register(self, localpart: str, password: str = "correct horse battery") -> Client:
        """Register through the dummy stage, as any client does."""
        body = {"username": localpart, "password": password}
        first = self.call("POST", "/v3/register", body)
        if first.status == 401:
            auth = {"type": "m.login.dummy", "session": first.json["session"]}
            registered = self.must("POST", "/v3/register", {**body, "auth": auth})
        elif first.status == 200:
            registered = first.json
        else:
            raise RuntimeError(f"register {localpart}: {first}")
        self.token, self.user_id = registered["access_token"], registered["user_id"]
        return self

    def login(self, localpart: str, password: str = "correct horse battery") -> Client:
        logged_in = self.must("POST", "/v3/login", {
            "type": "m.login.password", "password": password,
            "identifier": {"type": "m.id.user", "user": localpart},
        })
        self.token, self.user_id = logged_in["access_token"], logged_in["user_id"]
        return self

    def create_room(self, version: str, join_rule: str | dict[str, Any] = "knock",
                    *further: dict[str, Any], **body: Any) -> str:
        """A room with this join rule (a name or whole content) and `further` initial state."""
        content = {"join_rule": join_rule} if isinstance(join_rule, str) else join_rule
        state = [{"type": "m.room.join_rules", "state_key": "", "content": content}, *further]
        return self.must("POST", "/v3/createRoom", {
            "room_version": version, "preset": "private_chat", "initial_state": state, **body,
        })["room_id"]

    def sync(self, since: str | None = None, timeout_ms: int = 0,
             **query: Any) -> dict[str, Any]:
        query |= {"timeout": timeout_ms} | ({"since": since} if since else {})
        return self.must("GET", "/v3/sync", **query)

    def sync_until_knock(self, room_id: str, user_id: str, since: str | None,
                         within_seconds: float = 20.0) -> tuple[dict[str, Any] | None, str]:
        """Long-poll until that user's membership shows; its event and the next sync token."""
        deadline = time.monotonic() + within_seconds
        token = since or ""
        while True:
            batch = self.sync(token or None, timeout_ms=5000 if token else 0)
            token = batch["next_batch"]
            room = batch.get("rooms", {}).get("join", {}).get(room_id, {})
            for section in ("timeline", "state"):
                for event in room.get(section, {}).get("events", []):
                    if event["type"] == "m.room.member" and event.get("state_key") == user_id:
                        return event, token
            if time.monotonic() > deadline:
                return None, token

    def state(self, room_id: str) -> list[dict[str, Any]]:
        return self.must("GET", f"/v3/rooms/{quoted(room_id)}/state")

    def state_content(self, room_id: str, kind: str, key: str = "") -> Answer:
        return self.call("GET", f"/v3/rooms/{quoted(room_id)}/state/{quoted(kind)}/{quoted(key)}")

    def set_state(self, room_id: str, kind: str, content: dict[str, Any], key: str = "") -> str:
        path = f"/v3/rooms/{quoted(room_id)}/state/{quoted(kind)}/{quoted(key)}"
        return self.must("PUT", path, content)["event_id"]

    def members(self, room_id: str, **query: str) -> list[dict[str, Any]]:
        return self.must("GET", f"/v3/rooms/{quoted(room_id)}/members", **query)["chunk"]

    def membership(self, room_id: str, user_id: str) -> str | None:
        """The membership in the current state, None if the room has no event about the user."""
        answer = self.state_content(room_id, "m.room.member", user_id)
        return answer.json["membership"] if answer.status == 200 else None

    def messages(self, room_id: str, **query: Any) -> dict[str, Any]:
        return self.must("GET", f"/v3/rooms/{quoted(room_id)}/messages", **query)

    def in_room(self, room_id: str, action: str, body: dict[str, Any] | None = None) -> Answer:
        """`invite`, `kick`, `ban`, `unban`, `leave`, `join` or `forget`."""
        return self.call("POST", f"/v3/rooms/{quoted(room_id)}/{action}", body or {})

    def about(self, room_id: str, action: str, user_id: str, **body: Any) -> None:
        """As `in_room`, aimed at a user; it has to succeed."""
        answer = self.in_room(room_id, action, {"user_id": user_id, **body})
        if answer.status != 200:
            raise RuntimeError(f"{action} {user_id}: {answer}")

    def send_message(self, room_id: str, transaction: str, text: str) -> Answer:
        path = f"/v3/rooms/{quoted(room_id)}/send/m.room.message/{quoted(transaction)}"
        return self.call("PUT", path, {"msgtype": "m.text", "body": text})

    def knock(self, room: str, via: Iterable[str] = (), **body: Any) -> Answer:
        """`room` is an id or an alias."""
        return self.call("POST", f"/v3/knock/{quoted(room)}", body, **_through(via))

    def join(self, room: str, via: Iterable[str] = ()) -> Answer:
        """`room` is an id or an alias."""
        return self.call("POST", f"/v3/join/{quoted(room)}", {}, **_through(via))


def http_call(method: str, url: str, data: bytes | None = None, *,
              token: str | None = None) -> Answer:
    """One plain HTTP request. An answer of any status is an answer."""
    headers = {"Content-Type": "application/json"} if data is not None else {}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return Answer(response.status, response.read(), tuple(response.headers.items()))
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code, refused.read(), tuple(refused.headers.items()))


def quoted(text: str) -> str:
    return quote(text, safe="")


def _through(via: Iterable[str]) -> dict[str, list[str]]:
    servers = list(via)
    return {"via": servers} if servers else {}


def text_value(value: object) -> str:
    return json.dumps(str(value))
