"""Sessions that run one statement again and again, to load a server while a test looks at it."""

import threading

import psycopg


class Load:
    """During the block, each of `sessions` connections runs `sql`; an error of another SQLSTATE fails the test."""

    def __init__(self, db, sql, parameters=(), sessions=5, settings=None, expected=()):
        self.db, self.sql, self.parameters, self.sessions = db, sql, parameters, sessions
        self.settings, self.expected = settings or {}, expected
        self.calls, self.errors, self._over = 0, [], threading.Event()

    def __enter__(self):
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.sessions)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert self.errors == []

    def _run(self):
        try:
            with self.db.connect() as conn:
                for name, value in self.settings.items():
                    conn.execute("SELECT set_config(%s, %s, false)", (name, value))
                while not self._over.is_set():
                    self._call(conn)
        except Exception as error:
            self.errors.append(error)

    def _call(self, conn):
        try:
            conn.execute(self.sql, self.parameters)
        except psycopg.Error as error:
            if error.sqlstate not in self.expected:
                raise
        self.calls += 1
