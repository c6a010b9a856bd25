"""``cdc demo``: the plugin `tailrace_demo`, if what it needs is installed."""

from __future__ import annotations

from importlib import import_module

from tailrace.errors import ConfigError


def demo() -> int:
    """Run the demo. Raises ConfigError with the installation that it takes."""
    try:
        module = import_module("tailrace_demo.demo")
    except ImportError as error:
        text = f"the demo needs the module {error.name!r}, which is not installed"
        raise ConfigError(text, mend="pip install 'tailrace[demo]'") from error
    status = module.main()
    return status if isinstance(status, int) else 0
