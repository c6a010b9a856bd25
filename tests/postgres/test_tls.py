"""TLS as libpq names it (S02), against Debian's server with certificates of ours."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from pipelines import delivered_once, sql
from postgres.opening import opened, opens, refused
from postgres.secured import AUTHORITY, CERTS, KEY_PASSWORD, PASSWORD, Secured, private, verified

USED = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE {}"
OURS = USED.format("application_name = 'cdc test'")


def encrypted(dsn: str, **parameters: str) -> bool:
    """Whether a connection of the source is encrypted."""

    async def asked() -> bool:
        async with opened(make_conninfo(dsn, **parameters)):
            [(used,)] = sql(dsn, OURS)
            return bool(used)

    return asyncio.run(asked())


def test_every_mode_does_what_libpq_says(shop: str) -> None:
    assert not encrypted(shop, sslmode="disable")
    assert not encrypted(shop, sslmode="allow")
    for mode in ("prefer", "require"):
        assert encrypted(shop, sslmode=mode)
    for mode in ("verify-ca", "verify-full"):
        assert encrypted(shop, sslmode=mode, sslrootcert=str(AUTHORITY))


@pytest.mark.parametrize(
    ("certificate", "parameters", "words", "mend"),
    [
        ("expired", {}, "certificate verify failed", "has expired"),
        ("elsewhere", {}, "does not match host name", "name the host"),
        ("self-signed", {}, "certificate verify failed", "an authority that sslrootcert"),
        ("revoked", {"sslcrl": CERTS / "crl.pem"}, "certificate verify failed", "is revoked"),
        ("server", {"sslrootcert": CERTS / "self-signed.pem"}, "verify failed", "sslrootcert"),
        ("server", {"sslrootcert": CERTS / "none.pem"}, "does not exist", "sslrootcert=system"),
        ("server", {"sslmode": "require", "sslrootcert": "system"}, "weak sslmode", "sslrootcert"),
        ("server", {"sslmode": "very"}, "invalid sslmode", "check what source.dsn says"),
        ("", {}, "does not support SSL", "ALTER SYSTEM SET ssl = on"),
        ("", {"sslmode": "require", "sslrootcert": ""}, "does not support SSL", "ssl = on"),
    ],
)
def test_s02_refused(
    secured: Secured, certificate: str, parameters: dict[str, object], words: str, mend: str
) -> None:
    secured.start()
    secured.present(certificate)
    said = refused(verified(secured.dsn, **parameters))
    assert "source.dsn: connecting to PostgreSQL: " in said
    assert words in said
    assert mend in said.partition("->")[2]


def test_a_name_that_is_not_compared(secured: Secured) -> None:
    secured.start()
    secured.present("elsewhere")
    sql(secured.dsn, "CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY)")
    assert opens(verified(secured.dsn, sslmode="verify-ca"))


def outward() -> str:
    """An address of this machine that others can reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine is in no network")
        return str(probe.getsockname()[0])


def test_a_way_that_is_open_to_others_is_said(
    secured: Secured, shop: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = outward()
    secured.settings["listen_addresses"] = f"127.0.0.1,{address}"
    secured.allow(f"host all app {address}/32 scram-sha-256")
    secured.restart()
    dsn = make_conninfo(shop, user="app", password=PASSWORD)
    far = make_conninfo(dsn, host=address)

    def warned(dsn: str, **parameters: str) -> str:
        caplog.clear()
        assert opens(make_conninfo(dsn, **parameters))
        return caplog.text

    assert f"the connection to {address} is not encrypted" in warned(far, sslmode="disable")
    assert f"the certificate of {address} is not checked" in warned(far, sslmode="require")
    assert "is not checked" in warned(far)
    for mode in ("verify-ca", "require"):
        assert not warned(far, sslmode=mode, sslrootcert=str(AUTHORITY))
    assert not warned(dsn, sslmode="disable")


def test_a_client_certificate(shop: str, tmp_path: Path) -> None:
    dsn = verified(shop, user="client", sslcert=CERTS / "client.pem")
    plain = private("client.key", tmp_path)
    assert len(delivered_once(make_conninfo(dsn, sslkey=plain))) == 1
    locked = make_conninfo(dsn, sslkey=private("client-locked.key", tmp_path))
    assert opens(make_conninfo(locked, sslpassword=KEY_PASSWORD))
    said = refused(make_conninfo(locked, sslpassword="wr0ng-canary"))
    assert "could not load private key file" in said
    assert "sslpassword" in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "requires a valid client certificate"),
        ({"sslcert": CERTS / "none.pem"}, "requires a valid client certificate"),
        ({"sslcert": CERTS / "server.pem", "sslkey": "server.key"}, "authentication failed"),
        ({"sslcert": CERTS / "client.pem", "sslkey": "server.key"}, "key values mismatch"),
    ],
)
def test_a_client_certificate_that_will_not_do(
    shop: str, tmp_path: Path, parameters: dict[str, object], words: str
) -> None:
    if "sslkey" in parameters:
        parameters = {**parameters, "sslkey": private(str(parameters["sslkey"]), tmp_path)}
    said = refused(verified(shop, user="client", **parameters))
    assert words in said
    assert "sslcert" in said.partition("->")[2]


def test_a_client_without_tls_where_the_server_wants_it(shop: str) -> None:
    said = refused(make_conninfo(shop, user="client", sslmode="disable"))
    assert "no encryption" in said
    assert "sslmode=verify-full" in said


@pytest.fixture
def no_certificates_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither SSL_CERT_FILE nor SSL_CERT_DIR is set, whatever the test does to them."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def system_trusts(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    paths = ssl.DefaultVerifyPaths(str(file), "", "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)


@pytest.mark.usefixtures("no_certificates_named")
@pytest.mark.parametrize("way", ["dsn", "environment"])
def test_the_systems_certificates_are_found_and_used(
    shop: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The wheel's OpenSSL would look for them in a folder that is not there."""
    system_trusts(monkeypatch, AUTHORITY)
    if way == "environment":
        monkeypatch.setenv("PGSSLROOTCERT", "system")
        assert opens(make_conninfo(shop, sslmode="verify-full"))
    else:
        assert opens(verified(shop, sslrootcert="system"))


@pytest.mark.usefixtures("no_certificates_named")
def test_a_certificate_that_the_system_does_not_trust(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_trusts(monkeypatch, CERTS / "self-signed.pem")
    assert "certificate verify failed" in refused(verified(shop, sslrootcert="system"))


@pytest.mark.usefixtures("no_certificates_named")
def test_certificates_that_the_user_names_are_left_alone(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_trusts(monkeypatch, CERTS / "self-signed.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(AUTHORITY))
    assert opens(verified(shop, sslrootcert="system"))
    assert os.environ["SSL_CERT_FILE"] == str(AUTHORITY)
    assert "SSL_CERT_DIR" not in os.environ


@pytest.mark.usefixtures("no_certificates_named")
def test_the_environment_stays_as_it_is_unless_it_is_needed(shop: str) -> None:
    assert opens(verified(shop))
    assert not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys()
