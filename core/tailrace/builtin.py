"""What the core itself offers, through the same hook as any other plugin."""

from __future__ import annotations

from tailrace.hookspecs import hookimpl
from tailrace.registry import Register


@hookimpl
def tailrace_register(register: Register) -> None:
    register.sink(
        "stdout",
        connector="tailrace.sinks.stdout:StdoutSink",
        config="tailrace.sinks.stdout:StdoutConfig",
    )
    register.sink(
        "file",
        connector="tailrace.sinks.file:FileSink",
        config="tailrace.sinks.file:FileConfig",
    )
    register.format(
        "json",
        format="tailrace.formats.json:JsonFormat",
        config="tailrace.formats.json:JsonConfig",
    )
    register.format(
        "wal-listener",
        format="tailrace.formats.wal_listener:WalListenerFormat",
        config="tailrace.formats.wal_listener:WalListenerConfig",
    )
    register.store("sqlite", store="tailrace.stores.sqlite:SqliteStore")
    register.store("file", store="tailrace.stores.file:FileStore")
    register.store("memory", store="tailrace.stores.memory:MemoryStore")
