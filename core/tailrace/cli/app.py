"""The grammar of ``cdc``: verbs, options, help. What a verb does is imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tailrace.cli import completion
from tailrace.cli.options import Given, Options, as_json, configured, shared

pass_options = click.make_pass_decorator(Options)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: cdc demo, or cdc run source=postgres sink=stdout source.dsn=postgresql://…",
)
@click.version_option(package_name="tailrace", prog_name="cdc", message="%(prog)s %(version)s")
@shared
def cdc() -> None:
    """Stream committed database changes to the places that act on them.

    Settings are KEY=VALUE on the command line, CDC__KEY in the environment, or cdc.toml.
    """


@cdc.command()
@configured
@click.option("--once", is_flag=True, help="Stop when what was committed before is delivered.")
@shared
@pass_options
def run(
    options: Options,
    arguments: tuple[str, ...],
    config: Path | None,
    pipelines: tuple[str, ...],
    once: bool,
) -> int:
    """Deliver changes until stopped.

    Runs one pipeline, or every pipeline of cdc.toml.

    Without a file, name source and sink here. SIGTERM and Ctrl-C deliver what was read, save
    the position and exit 0; a second one leaves at once.

    \b
    cdc run source=postgres sink=nats \\
        source.dsn=postgresql://user@host/db sink.url=nats://127.0.0.1:4222
    cdc run --config cdc.toml --pipeline orders
    """
    from tailrace.cli import running

    return running.run(Given(arguments, config, pipelines), options, once=once)


@cdc.command()
@configured
@as_json
@shared
@pass_options
def tail(
    options: Options,
    arguments: tuple[str, ...],
    config: Path | None,
    pipelines: tuple[str, ...],
    as_json: bool,
) -> int:
    """Show changes as they are committed.

    Begins now. Needs no sink, keeps no position, and leaves no slot behind.

    \b
    cdc tail source=postgres source.dsn=postgresql://user@host/db source.tables=public.*
    """
    from tailrace.cli import tailing

    return tailing.tail(Given(arguments, config, pipelines), options, as_json=as_json)


@cdc.command()
@click.argument("table")
@configured
@click.option("--where", metavar="CONDITION", help="Only these rows; the database's own SQL.")
@click.option("--wait", is_flag=True, help="Show the progress, and return when all are delivered.")
@shared
@pass_options
def backfill(
    options: Options,
    table: str,
    arguments: tuple[str, ...],
    config: Path | None,
    pipelines: tuple[str, ...],
    where: str | None,
    wait: bool,
) -> int:
    """Deliver the rows of a table again.

    The pipeline need not be stopped: it takes the request from where its checkpoint is kept, and
    reads TABLE (schema.table) while the stream goes on. Settings are those of cdc run.

    \b
    cdc backfill public.orders --config cdc.toml
    cdc backfill public.orders --where "placed >= '2026-01-01'" source=postgres …
    """
    from tailrace.cli import backfilling

    given = Given(arguments, config, pipelines)
    return backfilling.backfill(given, options, table=table, where=where, wait=wait)


@cdc.command()
@configured
@as_json
@shared
@pass_options
def check(
    options: Options,
    arguments: tuple[str, ...],
    config: Path | None,
    pipelines: tuple[str, ...],
    as_json: bool,
) -> int:
    """Find what will bite, and say how to mend it.

    Looks at the source, the sink and the checkpoint of every pipeline, and changes nothing. Takes
    what cdc run takes. Exits 2 if something keeps a pipeline from running.

    \b
    cdc check source=postgres sink=nats \\
        source.dsn=postgresql://user@host/db sink.url=nats://127.0.0.1:4222
    cdc check --config cdc.toml --json
    """
    from tailrace.cli import checking

    return checking.check(Given(arguments, config, pipelines), options, as_json=as_json)


@cdc.command()
@as_json
@shared
def plugins(as_json: bool) -> None:
    """List the installed plugins.

    \b
    cdc plugins
    """
    from tailrace.cli import describing

    describing.plugins(as_json=as_json)


@cdc.command()
@click.argument("plugin", shell_complete=completion.plugins)
@as_json
@shared
def describe(plugin: str, as_json: bool) -> None:
    """Show the keys of a plugin.

    Each with its type and default, and whether it is a secret.

    \b
    cdc describe postgres
    """
    from tailrace.cli import describing

    describing.describe(plugin, as_json=as_json)


@cdc.group()
@shared
def checkpoint() -> None:
    """Look at the positions that pipelines have saved, and change them."""


@checkpoint.command("show")
@configured
@as_json
@shared
def checkpoint_show(
    arguments: tuple[str, ...],
    config: Path | None,
    pipelines: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show a pipeline's position, epoch, source and backfill progress.

    With a checkpoint alone, shows every pipeline in it.

    \b
    cdc checkpoint show name=orders
    cdc checkpoint show checkpoint=sqlite:/var/lib/cdc/cdc.db
    """
    from tailrace.cli import checkpoints

    checkpoints.show(Given(arguments, config, pipelines), as_json=as_json)


@checkpoint.command("set")
@click.argument("position")
@configured
@shared
def checkpoint_set(
    position: str,
    arguments: tuple[str, ...],
    config: Path | None,
    pipelines: tuple[str, ...],
) -> None:
    """Have a pipeline go on from another position.

    What lies between the two is skipped, or delivered again if the database still has it. With
    the settings of cdc run, the source looks whether it can read POSITION. An instance that is
    running stops.

    \b
    cdc checkpoint set 0/16B3748 name=orders checkpoint=sqlite:/var/lib/cdc/cdc.db
    cdc checkpoint set 0/16B3748 --pipeline orders
    """
    from tailrace.cli import checkpoints

    checkpoints.move(Given(arguments, config, pipelines), position)


@checkpoint.command("delete")
@configured
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared
def checkpoint_delete(
    arguments: tuple[str, ...],
    config: Path | None,
    pipelines: tuple[str, ...],
    yes: bool,
) -> None:
    """Forget where a pipeline is, also if its checkpoint cannot be read.

    The next start is then a first one. What the pipeline has made in the database, its
    replication slot for one, stays there. An instance that is running stops.

    \b
    cdc checkpoint delete name=orders checkpoint=sqlite:/var/lib/cdc/cdc.db
    """
    from tailrace.cli import checkpoints

    checkpoints.delete(Given(arguments, config, pipelines), yes=yes)


@cdc.group("config")
@shared
def config_() -> None:
    """Look at settings."""


@config_.command("show")
@configured
@as_json
@shared
def config_show(
    arguments: tuple[str, ...],
    config: Path | None,
    pipelines: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show every key's value and where it comes from; secrets are masked.

    \b
    cdc config show --config cdc.toml
    """
    from tailrace.cli import showing

    showing.show(Given(arguments, config, pipelines), as_json=as_json)


@cdc.command("completion")
@click.argument("shell", type=click.Choice(completion.SHELLS))
@shared
def completion_(shell: str) -> None:
    """Print what makes a shell complete cdc: verbs, keys, plugins, values.

    \b
    eval "$(cdc completion bash)"                   in ~/.bashrc
    eval "$(cdc completion zsh)"                    in ~/.zshrc, after compinit
    cdc completion fish > ~/.config/fish/completions/cdc.fish
    """
    click.echo(completion.script(shell, cdc), nl=False)


@cdc.command()
@shared
def demo() -> int:
    """See it work on servers of its own.

    Starts a PostgreSQL, a NATS server and a pipeline, and removes all of them at the end.

    \b
    pip install 'tailrace[demo]' && cdc demo
    """
    from tailrace.cli import demonstrating

    return demonstrating.demo()


def execute(arguments: Sequence[str] | None) -> int:
    """Run the command line; every way to end goes through here. Returns the exit status."""
    options = Options()
    try:
        status = cdc.main(arguments, "cdc", standalone_mode=False, obj=options)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 1
    except BaseException as error:
        from tailrace.cli import reporting

        return reporting.report(error, options)
    return status if isinstance(status, int) else 0
