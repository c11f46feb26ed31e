"""A database on a server of the tests, and the lines of a server's log that fail a test."""

import re
from dataclasses import dataclass

import psycopg

import id_types
from dev.server import Server

# PostgreSQL writes these when a backend dies, or when code that it called did not clean up behind itself.
BAD_SIGNS = re.compile(r"terminated by signal|PANIC|TRAP:|panicked|leak|was not closed|left non-empty SPI stack")


@dataclass
class Database:
    server: Server
    name: str
    names: id_types.Names | None = None  # of items whose ids are no uuids

    def dsn(self, user="postgres"):
        return self.server.dsn(self.name, user)

    def connect(self, user="postgres", autocommit=True, **kwargs):
        if self.names:
            return id_types.connect(self.names, self.dsn(user), autocommit=autocommit, **kwargs)
        return psycopg.connect(self.dsn(user), autocommit=autocommit, **kwargs)
