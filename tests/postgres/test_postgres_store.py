"""Checkpoints in PostgreSQL: the contract, and what the database may do to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg
import pytest

from findings import said, the
from pipelines import sql
from postgres.checking import a_role, as_role
from servers.proxy import Proxy
from storecontract import FIRST, ORDERS, Opener, RecordContract, asked, claim_first, load, moved
from storecontract import run as run_
from tailrace.errors import CheckpointError, ConfigError, TransientError
from tailrace.registry import Registry
from tailrace.resolve import find_store
from tailrace_demo.servers import Postgres
from tailrace_postgres import store as postgres_store
from tailrace_postgres.captured import Captured
from tailrace_postgres.store import PostgresStore

MakeProxy = Callable[[int], Proxy]


def at(dsn: str, parameters: str = "") -> PostgresStore:
    return PostgresStore(dsn.partition(":")[2] + parameters)


def through(dsn: str, port: int) -> PostgresStore:
    host = urlsplit(dsn).netloc
    return at(dsn.replace(host, f"postgres@127.0.0.1:{port}"))


class TestPostgres(RecordContract):
    @pytest.fixture
    def opener(self, database: str) -> Opener:
        return lambda: at(database)


class TestInASchema(RecordContract):
    @pytest.fixture
    def opener(self, database: str) -> Opener:
        sql(database, 'CREATE SCHEMA IF NOT EXISTS "Pipe lines"')
        return lambda: at(database, "?application_name=x&schema=Pipe%20lines&connect_timeout=9")


@pytest.mark.parametrize("name", ["postgres", "postgresql"])
def test_both_beginnings_of_an_address_lead_to_it(name: str) -> None:
    offer, location = find_store(f"{name}://cdc@db/shop", Registry())
    assert offer.load() is PostgresStore
    assert location == "//cdc@db/shop"


def test_its_own_tables_are_not_captured() -> None:
    everything = Captured(("*.*",))
    assert everything.everything
    assert everything.matches("public.checkpoint")
    assert not everything.matches("public.tailrace_checkpoint")
    assert not everything.matches("a.b.tailrace_checkpoint_request")
    assert not Captured(("public.tailrace_checkpoint",)).matches("public.tailrace_checkpoint")


def test_the_tables_are_in_the_schema_that_was_named(database: str) -> None:
    sql(database, "CREATE SCHEMA pipelines")
    run_(claim_first(at(database, "?schema=pipelines")))
    query = (
        "SELECT schemaname, tablename FROM pg_tables WHERE tablename LIKE 'tailrace%' ORDER BY 2"
    )
    assert sql(database, query) == [
        ("pipelines", "tailrace_checkpoint"),
        ("pipelines", "tailrace_checkpoint_request"),
    ]


def test_commits_are_synchronous_whatever_the_database_says(database: str) -> None:
    name = urlsplit(database).path[1:]
    sql(database, f"ALTER DATABASE {name} SET synchronous_commit = off")
    sql(
        database,
        "CREATE TABLE seen (setting text)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO"
        " seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$",
    )

    async def main() -> None:
        async with at(database) as store:
            sql(
                database,
                "CREATE TRIGGER note BEFORE INSERT OR UPDATE ON tailrace_checkpoint"
                " FOR EACH ROW EXECUTE FUNCTION note()",
            )
            await store.save("orders", await store.claim("orders", FIRST))

    run_(main())
    assert sql(database, "SELECT DISTINCT setting FROM seen") == [("on",)]


@pytest.fixture
def role(database: str) -> str:
    """A role that may connect, and no more."""
    name = "r_" + urlsplit(database).path[3:]
    sql(database, f"CREATE ROLE {name} LOGIN", "REVOKE CREATE ON SCHEMA public FROM public")
    return name


def test_the_statements_that_a_role_lacks_are_said_and_help(database: str, role: str) -> None:
    with pytest.raises(ConfigError, match="the role may not make them") as caught:
        run_(load(at(as_role(database, role))))
    assert caught.value.mend
    statements = caught.value.mend.removeprefix("let somebody who may run: ")
    create, _, grant = statements.rpartition("; ")
    sql(database, create)
    with pytest.raises(ConfigError, match="may not read and write") as caught:
        run_(load(at(as_role(database, role))))
    assert caught.value.mend == f"let their owner run: {grant}"
    sql(database, grant)
    try:
        assert run_(claim_first(at(as_role(database, role)))).epoch == 1
        run_(asked(at(as_role(database, role))))
    finally:
        sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("parameters", ["?schema=nowhere", "?options=-csearch_path%3Dnowhere"])
def test_a_schema_that_is_missing_is_said(database: str, parameters: str) -> None:
    with pytest.raises(ConfigError, match=r"the tables are missing in postgres://.*schema"):
        run_(load(at(database, parameters)))


CANARY = "c4n4ry-Pa55"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "cdc.db",
        "host=127.0.0.1",
        f"//u:{CANARY}@127.0.0.1:1/db",
        f"//u:{CANARY}@127.0.0.1:1/db?schema=s",
        f"//u:p@{CANARY}@127.0.0.1:1/db",
        f"//u:{CANARY}/x@127.0.0.1:1/db",
        f"//u:{CANARY}@127.0.0.1:1/db?no=such",
        f"//127.0.0.1:1/db?user=u&password={CANARY}",
    ],
)
def test_s01_an_address_of_no_use_is_a_configuration_error(location: str) -> None:
    with pytest.raises(ConfigError, match=r"^checkpoint: ") as caught:
        run_(load(PostgresStore(location)))
    assert CANARY not in str(caught.value)


def test_c13_every_torn_record_is_refused_and_left_alone(database: str) -> None:
    mine = run_(claim_first(at(database)))
    [(payload,)] = sql(database, "SELECT payload FROM tailrace_checkpoint")

    async def main() -> None:
        async with at(database) as store:
            for length in range(0, len(payload), 7):
                torn = payload[:length]
                sql(database, "UPDATE tailrace_checkpoint SET payload = %s", values=[torn])
                for call in (store.load("orders"), store.claim("orders", mine)):
                    with pytest.raises(CheckpointError, match=r"postgres://.*checksum"):
                        await call
                assert sql(database, "SELECT payload FROM tailrace_checkpoint") == [(torn,)]

    run_(main())


def test_c13_an_altered_epoch_is_refused(database: str) -> None:
    run_(claim_first(at(database)))
    sql(database, "UPDATE tailrace_checkpoint SET epoch = 7")
    with pytest.raises(CheckpointError, match="the epochs stored for 'orders' differ"):
        run_(load(at(database)))


def test_c13_an_altered_request_is_refused(database: str) -> None:
    async def main() -> None:
        async with at(database) as store:
            await store.ask("orders", ORDERS)
            sql(database, "UPDATE tailrace_checkpoint_request SET payload = '[]'")
            with pytest.raises(CheckpointError, match=r"requests.*postgres://.*checksum"):
                await store.asked("orders")

    run_(main())


def test_c13_a_table_of_somebody_else_is_refused(database: str) -> None:
    sql(database, "CREATE TABLE tailrace_checkpoint (id int)")
    with pytest.raises(CheckpointError, match="does not hold checkpoints as Tailrace writes them"):
        run_(load(at(database)))


def test_a_table_removed_while_in_use_is_noticed(database: str) -> None:
    async def main() -> None:
        async with at(database) as store:
            mine = await store.claim("orders", FIRST)
            sql(database, "DROP TABLE tailrace_checkpoint")
            with pytest.raises(CheckpointError, match="was removed while"):
                await store.save("orders", mine)

    run_(main())


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON tailrace_checkpoint EXECUTE FUNCTION refuse()
"""
"""A full disk's SQLSTATE, said by the server; a disk of its own to fill it has not."""


@pytest.mark.parametrize(
    ("spoil", "heal", "message"),
    [
        (REFUSE, "DROP TRIGGER refuse ON tailrace_checkpoint", "could not extend file"),
        (
            "ALTER ROLE {} SET default_transaction_read_only = on",
            "ALTER ROLE {} RESET ALL",
            "read-only",
        ),
        (
            "REVOKE ALL ON tailrace_checkpoint FROM {}",
            "GRANT ALL ON tailrace_checkpoint TO {}",
            "permission denied",
        ),
    ],
)
def test_c14_a_save_that_is_refused_passes_and_the_old_checkpoint_stays(
    database: str, role: str, spoil: str, heal: str, message: str
) -> None:
    own = as_role(database, role)
    hang_up = (
        f"SELECT pg_terminate_backend(pid, 9000) FROM pg_stat_activity WHERE usename = '{role}'"
    )
    sql(database, f"GRANT CREATE ON SCHEMA public TO {role}")

    async def main() -> None:
        async with at(own) as store:
            mine = await store.claim("orders", FIRST)
            sql(database, spoil.format(role), hang_up)
            with pytest.raises(TransientError):  # the connection is gone
                await store.save("orders", moved(mine, "0/2"))
            for _ in range(2):
                with pytest.raises(TransientError, match=message) as caught:
                    await store.save("orders", moved(mine, "0/2"))
                assert caught.value.mend
            sql(database, heal.format(role), hang_up)
            with pytest.raises(TransientError):
                await store.load("orders")
            assert await store.load("orders") == mine
            await store.save("orders", moved(mine, "0/3"))

    try:
        run_(main())
    finally:
        sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_lost_connection_heals(database: str, postgres: Postgres, proxy: MakeProxy) -> None:
    way = proxy(postgres.port)

    async def main() -> None:
        async with through(database, way.port) as store:
            mine = await store.claim("orders", FIRST)
            for lose in (way.cut, way.reset):
                lose()
                with pytest.raises(TransientError, match="cannot be reached"):
                    await store.save("orders", moved(mine, "0/2"))
                await store.save("orders", moved(mine, "0/3"))
            way.refuse()
            way.cut()
            for _ in range(3):
                with pytest.raises(TransientError, match="cannot be reached"):
                    await store.asked("orders")
            way.accept()
            assert await store.load("orders") == moved(mine, "0/3")

    run_(main())


def test_a_server_that_does_not_answer_is_given_up(
    database: str, postgres: Postgres, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "PATIENCE", 0.2)
    way = proxy(postgres.port)

    async def main() -> None:
        async with through(database, way.port) as store:
            mine = await store.claim("orders", FIRST)
            way.freeze()
            with pytest.raises(TransientError, match="cannot be reached"):
                await store.save("orders", mine)
            monkeypatch.undo()
            way.thaw()
            await store.save("orders", mine)

    run_(asyncio.wait_for(main(), 60))


def test_a_row_that_somebody_locks_is_given_up(database: str) -> None:
    async def main() -> None:
        async with at(database, "?options=-clock_timeout%3D50ms") as store:
            mine = await store.claim("orders", FIRST)
            with psycopg.connect(database) as other:
                other.execute("SELECT 1 FROM tailrace_checkpoint FOR UPDATE")
                with pytest.raises(TransientError, match="lock timeout"):
                    await store.save("orders", mine)
            await store.save("orders", mine)

    run_(main())


def test_a_check_says_who_may_not_make_the_tables(database: str) -> None:
    with a_role(database, options="") as role:
        store = at(as_role(database, role))
        refused = the("error", "store", run_(store.check()))
        assert "the role may not make them" in refused.text
        assert "tailrace_checkpoint" in str(refused.mend)
        for statement in str(refused.mend).partition("run: ")[2].split("; "):
            sql(database, statement)
        assert said("store", run_(store.check())) == "can be read and written"
