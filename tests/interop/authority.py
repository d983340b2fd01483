"""A certificate authority that lives as long as one test run.

May not: be trusted by anything but the processes that the test itself starts.
"""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Certificates outlive the longest run, and nothing else.
VALID_DAYS = 7

CA_CONFIG = """\
[req]
distinguished_name = dn
prompt = no
x509_extensions = ca
[dn]
CN = Vestibule interop authority
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
"""

LEAF_CONFIG = """\
[req]
distinguished_name = dn
prompt = no
[dn]
CN = vestibule interop
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    private_key: Path


class CertificateAuthority:
    """Makes itself in `directory` and issues certificates for the names it is asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca_file = directory / "ca.pem"
        self._key = directory / "ca.key"
        self._issued = 0
        config = directory / "ca.cnf"
        config.write_text(CA_CONFIG)
        self._openssl(
            "req", "-x509", "-config", config, *self._new_key(self._key),
            "-out", self.ca_file, "-days", VALID_DAYS, "-sha256",
        )

    def issue(self, *hosts: str) -> Certificate:
        """One certificate for all `hosts`, each a DNS name or an IP address."""
        self._issued += 1
        stem = self.directory / f"leaf{self._issued}"
        config, request = stem.with_suffix(".cnf"), stem.with_suffix(".csr")
        issued = Certificate(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        config.write_text(LEAF_CONFIG.format(names=",".join(map(_alternative_name, hosts))))
        self._openssl(
            "req", "-new", "-config", config, *self._new_key(issued.private_key), "-out", request,
        )
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.ca_file, "-CAkey", self._key,
            "-set_serial", self._issued, "-extfile", config, "-extensions", "leaf",
            "-days", VALID_DAYS, "-sha256", "-out", issued.certificate,
        )
        return issued

    @staticmethod
    def _new_key(path: Path) -> tuple[object, ...]:
        return (
            "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", path,
        )

    @staticmethod
    def _openssl(*arguments: object) -> None:
        done = subprocess.run(
            ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")


def _alternative_name(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
