"""Synapse as a process: the reference homeserver from PyPI, unmodified, on a directory of its own.

Its configuration says only what a run on loopback has to say: names, ports, certificates, secrets,
and wider limits and shorter pauses than out there, so that a test does not wait for them. It also
counts (`enable_metrics`), because some of what it thinks of its peers it tells nowhere else.

May not: reach into Synapse's code or database; everything is seen through its interfaces.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from authority import CertificateAuthority
from raw_http import Answer
from vestibule import Client, environment, free_port, http_call, loopback_name

# Its first start makes a database of some hundred tables, on a busy machine in half a minute.
START_SECONDS = 120.0
STOP_SECONDS = 30.0
# So many that no test meets them.
UNLIMITED = {"per_second": 1000, "burst_count": 1000}
PASSWORD = "correct horse battery"


class Synapse:
    """One Synapse. Its name is its address and port, so that every peer can find it."""

    def __init__(self, directory: Path, authority: CertificateAuthority,
                 address: str = "127.0.1.2", settings: dict[str, Any] | None = None) -> None:
        """`settings` are keys of its configuration, beside and above those that loopback needs."""
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.server_name = loopback_name(address)
        self.ca_file = authority.ca_file
        self.log_file = directory / "homeserver.log"
        self.federation_address = (address, int(self.server_name.rpartition(":")[2]))
        self._client_address = (address, free_port(address))
        self._shared_secret = secrets.token_hex(32)
        self._process: subprocess.Popen[bytes] | None = None
        self._config_file = directory / "homeserver.yaml"
        self._write_config(authority, settings or {})

    def _write_config(self, authority: CertificateAuthority, settings: dict[str, Any]) -> None:
        certificate = authority.issue(self.federation_address[0])
        log_config = self.directory / "log.yaml"
        config = {
            "server_name": self.server_name,
            "signing_key_path": str(self.directory / "signing.key"),
            "pid_file": str(self.directory / "homeserver.pid"),
            "media_store_path": str(self.directory / "media"),
            "log_config": str(log_config),
            "database": {"name": "sqlite3",
                         "args": {"database": str(self.directory / "homeserver.db")}},
            "listeners": [
                self._listener(self._client_address, False, ["client", "metrics"]),
                self._listener(self.federation_address, True, ["federation"]),
            ],
            "tls_certificate_path": str(certificate.certificate),
            "tls_private_key_path": str(certificate.private_key),
            "federation_custom_ca_list": [str(authority.ca_file)],
            "trusted_key_servers": [],
            "registration_shared_secret": self._shared_secret,
            "macaroon_secret_key": secrets.token_hex(32),
            "form_secret": secrets.token_hex(32),
            "report_stats": False,
            "enable_metrics": True,
            # Loopback is all there is here.
            "ip_range_blacklist": [],
            # A peer that was killed and is back is asked again at once: a pause longer than its
            # restart would answer for it. Bare numbers are ms.
            "federation": {"client_timeout": "30s", "max_short_retries": 1, "max_long_retries": 2,
                           "destination_min_retry_interval": 1,
                           "destination_max_retry_interval": 1},
            "rc_message": UNLIMITED,
            "rc_registration": UNLIMITED,
            "rc_login": {"address": UNLIMITED, "account": UNLIMITED,
                         "failed_attempts": UNLIMITED},
            "rc_joins": {"local": UNLIMITED, "remote": UNLIMITED},
            "rc_joins_per_room": UNLIMITED,
            "rc_invites": {"per_room": UNLIMITED, "per_user": UNLIMITED, "per_issuer": UNLIMITED},
            "rc_room_creation": UNLIMITED,
            "rc_federation": {"window_size": 1000, "sleep_limit": 1000, "sleep_delay": 1,
                              "reject_limit": 1000, "concurrent": 100},
            **settings,
        }
        # JSON is YAML.
        self._config_file.write_text(json.dumps(config, indent=1))
        log_config.write_text(json.dumps({
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
            "handlers": {"file": {"class": "logging.FileHandler", "formatter": "line",
                                  "filename": str(self.log_file)}},
            "root": {"level": "INFO", "handlers": ["file"]},
        }))

    @staticmethod
    def _listener(address: tuple[str, int], tls: bool, names: list[str]) -> dict[str, Any]:
        return {"type": "http", "bind_addresses": [address[0]], "port": address[1], "tls": tls,
                "resources": [{"names": names, "compress": False}]}

    def _command_line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "synapse.app.homeserver", "-c", str(self._config_file),
                *arguments]

    def start(self) -> None:
        """Start and wait until it says that it is ready, in the way that it tells systemd."""
        if not (self.directory / "signing.key").exists():
            made = subprocess.run(self._command_line("--generate-keys"), cwd=self.directory,
                                  env=environment(), capture_output=True, text=True, check=False)
            if made.returncode != 0:
                raise SystemExit(f"Synapse does not take its configuration:\n{made.stderr[-2000:]}")
        told = self.directory / "notify.sock"
        told.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(told))
            with (self.directory / "output.log").open("ab") as output:
                self._process = subprocess.Popen(
                    self._command_line(), cwd=self.directory, stdin=subprocess.DEVNULL,
                    stdout=output, stderr=subprocess.STDOUT,
                    env=environment() | {"NOTIFY_SOCKET": str(told)},
                )
            self._wait_until_ready(ready)
        versions = self.client().call("GET", "/versions")
        if versions.status != 200:
            raise SystemExit(f"Synapse says that it is ready, but its clients get {versions}")

    def _wait_until_ready(self, ready: socket.socket) -> None:
        assert self._process is not None
        ready.settimeout(0.5)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if ready.recv(4096).startswith(b"READY=1"):
                    return
            except TimeoutError:
                status = self._process.poll()
                if status is not None:
                    tail = (self.directory / "output.log").read_text(errors="replace")[-2000:]
                    raise SystemExit(f"Synapse ended with status {status} before it was ready:\n"
                                     f"{tail}") from None
        self.kill()
        raise SystemExit(f"Synapse was not ready within {START_SECONDS:.0f} s")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit(f"Synapse did not stop within {STOP_SECONDS:.0f} s") from None

    def kill(self) -> None:
        """SIGKILL: what a power cut leaves of a process."""
        if self.is_running():
            self._process.kill()
            self._process.wait()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def client_url(self) -> str:
        return "http://{}:{}".format(*self._client_address)

    def client(self) -> Client:
        # A Client asks its server for `client_url` and nothing else.
        return Client(self)  # type: ignore[arg-type]

    def register(self, localpart: str, displayname: str | None = None) -> Client:
        """A new user, made with the shared secret, and logged in."""
        nonce = self._shared_secret_registration("GET").json["nonce"]
        proof = hmac.new(self._shared_secret.encode(), digestmod=hashlib.sha1)
        proof.update("\0".join((nonce, localpart, PASSWORD, "notadmin")).encode())
        body = {"nonce": nonce, "username": localpart, "password": PASSWORD, "admin": False,
                "mac": proof.hexdigest()}
        if displayname is not None:
            body["displayname"] = displayname
        registered = self._shared_secret_registration("POST", body)
        if registered.status != 200:
            raise RuntimeError(f"register {localpart} at Synapse: {registered}")
        client = self.client()
        client.token = registered.json["access_token"]
        client.user_id = registered.json["user_id"]
        return client

    def _shared_secret_registration(self, method: str, body: Any = None) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        return http_call(method, f"{self.client_url}/_synapse/admin/v1/register", data)

    def metric(self, name: str) -> float:
        """The sum of a counter over its labels. It must exist, even if nothing was counted yet."""
        page = http_call("GET", f"{self.client_url}/_synapse/metrics")
        text = page.body.decode()
        if page.status != 200 or f"# TYPE {name} counter\n" not in text:
            raise RuntimeError(f"Synapse does not count {name}: {page.status}")
        line = re.compile(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", re.MULTILINE)
        return sum(float(value) for value in line.findall(text))
