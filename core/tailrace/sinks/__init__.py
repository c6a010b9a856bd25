"""The sinks of the core: to standard output and to a file, a line for each message."""
