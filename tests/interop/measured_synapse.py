"""Synapse for `cargo measure`: started, described in one line of JSON, and stopped when standard input ends.

Its limits are as good as off, it logs warnings only, and it trusts the authority of whoever measures it.

May not: measure anything.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from authority import CertificateAuthority
from synapse import Synapse

OFF = {"per_second": 1_000_000, "burst_count": 1_000_000}


def settings(peers_ca: Path, own_ca: Path) -> dict[str, object]:
    return {
        "federation_custom_ca_list": [str(own_ca), str(peers_ca)],
        "rc_message": OFF,
        "rc_registration": OFF,
        "rc_login": {"address": OFF, "account": OFF, "failed_attempts": OFF},
        "rc_joins": {"local": OFF, "remote": OFF},
        "rc_joins_per_room": OFF,
        "rc_invites": {"per_room": OFF, "per_user": OFF, "per_issuer": OFF},
        "rc_room_creation": OFF,
        "rc_federation": {"window_size": 1000, "sleep_limit": 1_000_000, "sleep_delay": 0,
                          "reject_limit": 1_000_000, "concurrent": 1000},
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("peers_ca", type=Path, help="the authority that its peers' certificates are of")
    peers_ca = arguments.parse_args().peers_ca
    with tempfile.TemporaryDirectory() as home:
        authority = CertificateAuthority(Path(home))
        synapse = Synapse(Path(home) / "synapse", authority, settings=settings(peers_ca, authority.ca_file))
        log_config = synapse.directory / "log.yaml"
        log_config.write_text(log_config.read_text().replace('"INFO"', '"WARNING"'))
        synapse.start()
        try:
            owner = synapse.register("owner")
            print(json.dumps({
                "about": f"Synapse {importlib.metadata.version('matrix-synapse')}, "
                         f"SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}",
                "pid": synapse.pid,
                "server_name": synapse.server_name,
                "federation": "{}:{}".format(*synapse.federation_address),
                "client": synapse.client_url.removeprefix("http://"),
                "trusted": str(synapse.ca_file),
                "token": owner.token,
            }), flush=True)
            sys.stdin.read()
        finally:
            synapse.stop()


if __name__ == "__main__":
    main()
