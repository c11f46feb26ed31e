"""A database on a server of the tests, and the lines of a server's log that fail a test."""

import re
from dataclasses import dataclass

import psycopg

from dev.server import Server

# PostgreSQL writes these when a backend dies, or when code that it called did not clean up behind itself.
BAD_SIGNS = re.compile(r"terminated by signal|PANIC|TRAP:|panicked|leak|was not closed|left non-empty SPI stack")


@dataclass
class Database:
    server: Server
    name: str

    def dsn(self, user="postgres"):
        return self.server.dsn(self.name, user)

    def connect(self, user="postgres", autocommit=True, **kwargs):
        return psycopg.connect(self.dsn(user), autocommit=autocommit, **kwargs)
