"""Real servers for the tests, and a proxy that spoils the way to them."""
