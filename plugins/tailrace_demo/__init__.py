"""The demo and the embedded servers, PostgreSQL and NATS, that it and the tests run on."""
