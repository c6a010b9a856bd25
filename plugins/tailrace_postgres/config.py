"""The keys of ``source=postgres``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from tailrace.config import Names, PluginConfig
from tailrace.patterns import Patterns

NAME = r"^[a-z0-9_]{1,63}$"


class PostgresConfig(PluginConfig):
    """Where the database is and what is read of it."""

    dsn: SecretStr = Field(
        description="The database: postgresql://user:password@host/db, or libpq's key=value form"
    )
    tables: Names = Field(
        ("*.*",),
        description="schema.table patterns with *, comma-separated; ! before one excludes",
        json_schema_extra={"default_text": "all"},
    )
    slot: str | None = Field(
        None,
        pattern=NAME,
        description="Replication slot; made if it is missing, and used if it is there",
        json_schema_extra={"default_text": "after the pipeline"},
    )
    publication: str | None = Field(
        None,
        min_length=1,
        max_length=63,
        description="Publication; made if it is missing",
        json_schema_extra={"default_text": "after the pipeline"},
    )
    create: bool = Field(
        True, description="Make and change publication and slot; false: they are made by hand"
    )
    partitions: Literal["leaf", "root"] | None = Field(
        None,
        description="A partitioned table's changes are those of its partitions (leaf) or its own",
        json_schema_extra={"default_text": "as the publication says; leaf"},
    )
    messages: bool = Field(
        False, description="Deliver what pg_logical_emit_message writes, as op m"
    )
    failover: bool = Field(
        False, description="Have standbys keep a copy of the slot (PostgreSQL 17)"
    )
    temporary: bool = Field(
        False, description="Use a slot that goes away with the connection: nothing is kept"
    )

    @field_validator("tables")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("names no table; leave it out to capture all")
        Patterns(value)
        return value

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.failover and self.temporary:
            raise ValueError("source.failover: a temporary slot cannot be kept by standbys")
        return self
