"""A PostgreSQL 15 with TLS, on which roles prove who they are; certificates are in ``certs``."""

from __future__ import annotations

import shutil
from pathlib import Path

from psycopg.conninfo import make_conninfo

from pipelines import sql
from servers.postgres15 import Postgres15

CERTS = Path(__file__).parent / "certs"
AUTHORITY = CERTS / "ca.pem"
PASSWORD = "s3cr3t-Pa55"
KEY_PASSWORD = "s3cr3t-key"

_HBA = """\
host all app 127.0.0.1/32 scram-sha-256
host all locked 127.0.0.1/32 reject
hostssl all client 127.0.0.1/32 cert
hostnossl all client 127.0.0.1/32 reject
"""


class Secured(Postgres15):
    """The role `app` has a password, `client` a certificate, `locked` is let in never."""

    certificate = ""

    def present(self, certificate: str) -> None:
        """Have TLS with this certificate; without TLS if it is empty."""
        if certificate != self.certificate:
            self.certificate = certificate
            self.settings["ssl"] = "on" if certificate else "off"
            if certificate:
                self._install(certificate)
            self.restart()

    def _install(self, certificate: str) -> None:
        assert self._data is not None
        for source, target in (
            (f"{certificate}.pem", "server.crt"),
            (f"{certificate}.key", "server.key"),
            ("ca.pem", "root.crt"),
        ):
            copy = self._data / target
            shutil.copyfile(CERTS / source, copy)
            copy.chmod(0o600)
            self._account.owns(copy)
        self.settings["ssl_ca_file"] = "root.crt"

    def make_roles(self) -> None:
        sql(
            self.dsn,
            f"CREATE ROLE app LOGIN REPLICATION PASSWORD '{PASSWORD}'",
            "CREATE ROLE client LOGIN SUPERUSER",
            "CREATE ROLE locked LOGIN",
        )
        self.allow(_HBA)

    def allow(self, lines: str) -> None:
        """Put `lines` before all others in pg_hba.conf."""
        [(path,)] = sql(self.dsn, "SHOW hba_file")
        hba = Path(path)
        hba.write_text(f"{lines}\n{hba.read_text()}")
        sql(self.dsn, "SELECT pg_reload_conf()")


def private(file: str, folder: Path) -> str:
    """A copy of a key that only we may read, as libpq wants it."""
    copy = folder / file
    shutil.copyfile(CERTS / file, copy)
    copy.chmod(0o600)
    return str(copy)


def verified(dsn: str, **parameters: object) -> str:
    """The dsn with the server's certificate checked against our authority."""
    checks = {"sslmode": "verify-full", "sslrootcert": AUTHORITY}
    return make_conninfo(dsn, **{key: str(v) for key, v in {**checks, **parameters}.items()})
