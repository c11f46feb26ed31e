"""The audit runs by itself: through pg_cron where it is installed, else by the line for a crontab."""

import re
import subprocess
import time
from contextlib import contextmanager

import psycopg
import pytest

from auditing import past_the_triggers
from databases import Database
from dev.server import Server
from servers import PG, assert_nothing_crashed, new_database
from shop import ONE, TWO, create_role, refused, shop

SCHEDULE = "0 3 * * *"
CRON_SECONDS = 90  # pg_cron begins a job at the first second of a minute
NAMES = {"what the shell obeys": 'it\'s "$(touch x)" `touch y` \\ & <b>; z', "what cron obeys": "100% done"}


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "20.00", TWO: "20.00"})
    return conn


def schedule(conn, *arguments):
    sql = f"SELECT schedule_inventory_audit({', '.join(['%s'] * len(arguments))})"
    return conn.execute(sql, arguments).fetchone()[0]


def runs(conn, stock="inventory"):
    """How many audits were kept."""
    kept = f'{stock[:-1]}_audit"' if stock.endswith('"') else f"{stock}_audit"
    if conn.execute("SELECT to_regclass(%s)", (kept,)).fetchone() == (None,):
        return 0
    return conn.execute(f"SELECT count(*) FROM {kept} WHERE kind = 'audit'").fetchone()[0]


def run_as_cron_does(server, line, schedule=SCHEDULE, folder=None):
    """What crontab(5) says: a % ends the command unless a backslash is before it, which is then left out."""
    assert "\n" not in line
    assert line.startswith(f"{schedule} "), line
    command = re.split(r"(?<!\\)%", line.removeprefix(schedule), maxsplit=1)[0].replace("\\%", "%")
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=server.env(), cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), (command, done)


def owned_shop(conn, db, table="inventory"):
    """A shop of an owner, with a member and a guest who may execute all that is needed."""
    owner, member, guest = (create_role(conn, db, name) for name in ("owner", "member", "guest"))
    conn.execute(f'GRANT "{owner}" TO "{member}"; GRANT CREATE ON SCHEMA public TO "{owner}"')
    conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{owner}", "{member}", "{guest}"')
    with db.connect(owner) as session:
        shop(session, {ONE: "20.00", TWO: "20.00"}, table)
    return owner, member, guest


def test_without_pg_cron_it_says_what_to_do(conn):
    answer = schedule(conn)
    assert (answer["success"], answer["scheduled"]) == (True, False)
    assert set(answer) == {"success", "scheduled", "command", "crontab", "hint"}
    assert answer["crontab"].startswith(f"{SCHEDULE} psql ")
    assert schedule(conn, "*/5 1-3 * * mon")["crontab"].startswith("*/5 1-3 * * mon psql ")
    assert runs(conn) == 0, "nothing was run yet"


def test_the_line_of_the_crontab_audits(db, conn):
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    line = schedule(conn)["crontab"]
    for expected in (1, 2):
        run_as_cron_does(db.server, line)
        assert runs(conn) == expected
    last = "SELECT is_full, discrepancies FROM inventory_audit ORDER BY run_id DESC LIMIT 1"
    assert conn.execute(last).fetchone() == (False, 1)


def test_the_command_audits_as_one_statement(db, conn):
    command = schedule(conn)["command"]
    with db.connect() as fresh:
        assert fresh.execute(command).fetchone() == (0,)
        assert not fresh.execute("SHOW inventory_ext.stock_table").fetchone()[0], "the setting is left as it was"
    assert runs(conn) == 1


def test_each_line_audits_its_own_table(db, conn):
    shop(conn, {ONE: "1"}, "other")
    for table, expected in (("other", (0, 1)), ("inventory", (1, 1))):
        conn.execute(f"SET inventory_ext.stock_table = '{table}'")
        run_as_cron_does(db.server, schedule(conn)["crontab"])
        assert (runs(conn), runs(conn, "other")) == expected


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("where", ["database", "schema", "table", "extension"])
def test_names_are_quoted_for_the_shell_and_for_cron(server, tmp_path, where, name):
    if where == "extension":
        name = re.sub(r"[\"$'\\]", "", name)  # PostgreSQL refuses these
    quoted = '"' + name.replace('"', '""') + '"'
    stock = {"schema": f"{quoted}.stock", "table": f"public.{quoted}"}.get(where, "public.stock")
    schema, extension = stock.rpartition(".")[0], quoted if where == "extension" else "public"
    with new_database(server, name=quoted if where == "database" else None) as found:
        dbname = name if where == "database" else found.name
        with psycopg.connect(server.dsn(), dbname=dbname, autocommit=True) as conn:
            conn.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE SCHEMA IF NOT EXISTS {extension}")
            conn.execute(f"CREATE EXTENSION inventory_ext SCHEMA {extension}")
            conn.execute(f"SET search_path = {extension}, public")
            conn.execute(f"CREATE TABLE {stock} (id bigint PRIMARY KEY, quantity integer NOT NULL)")
            conn.execute("SELECT attach_inventory(%s::regclass)", (stock,))
            run_as_cron_does(server, schedule(conn)["crontab"], folder=tmp_path)
            assert runs(conn, stock) == 1
    assert list(tmp_path.iterdir()) == [], "the shell obeyed a name"


def test_arguments_are_checked(conn):
    assert refused(conn, "SELECT schedule_inventory_audit(NULL)").sqlstate == "22004"
    assert refused(conn, "SELECT schedule_inventory_audit(%s)", ("0" * 256,)).sqlstate == "22023"
    assert refused(conn, "SELECT schedule_inventory_audit(%s)", ("é" * 128,)).sqlstate == "22023"
    assert schedule(conn, "0" * 255)["crontab"].startswith("0" * 255 + " psql")


def test_without_a_table_there_is_nothing_to_schedule(db):
    conn = db.connect()
    assert refused(conn, "SELECT schedule_inventory_audit()").sqlstate == "55000"


def test_only_members_of_the_owner_schedule(db):
    conn = db.connect()
    owner, member, guest = owned_shop(conn, db)
    stranger = create_role(conn, db, "stranger")
    for role in (owner, member):
        with db.connect(role) as session:
            assert schedule(session)["scheduled"] is False
    with db.connect(guest) as session:
        error = refused(session, "SELECT schedule_inventory_audit()")
        assert (error.sqlstate, error.reason) == ("42501", "not_owner")
    with db.connect(stranger) as session:
        assert refused(session, "SELECT schedule_inventory_audit()").sqlstate == "42501"


@contextmanager
def cron_server(**settings):
    """A server with pg_cron, in whose database `shop` it and the extension are installed."""
    settings = {"shared_preload_libraries": "pg_cron", "cron.database_name": "shop"} | settings
    with Server(pg=PG, settings=settings) as server, psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE shop")
        with psycopg.connect(server.dsn("shop"), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION pg_cron; CREATE EXTENSION inventory_ext")
        yield Database(server, "shop")
        assert_nothing_crashed(server)


@pytest.fixture
def cron():
    with cron_server() as found:
        yield found


def jobs(conn):
    sql = "SELECT jobid, jobname, schedule, command, database, username, active FROM cron.job ORDER BY jobid"
    return conn.execute(sql).fetchall()


class TestWithPgCron:
    __test__ = PG == "15"  # Debian's pg_cron, which the set-up unpacks, is built for that server

    @pytest.fixture
    def conn(self, cron):
        with cron.connect() as conn:
            yield conn

    def test_the_job_audits_at_the_next_minute(self):
        """Both ways in which pg_cron runs a job: by a connection of its own, and by a worker."""
        workers = {"cron.use_background_workers": "on"}
        with cron_server() as one, cron_server(**workers) as two:
            asked = {}
            for home in (one, two):
                conn = home.connect()
                _, member, _ = owned_shop(conn, home)
                conn.execute(f'GRANT USAGE ON SCHEMA cron TO "{member}"')
                past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
                with home.connect(member) as session:
                    asked[conn] = schedule(session, "* * * * *")["job"]
            give_up = time.monotonic() + CRON_SECONDS
            while not all(runs(conn) for conn in asked) and time.monotonic() < give_up:
                time.sleep(0.2)
            for conn, job in asked.items():
                ended = conn.execute("SELECT status, return_message FROM cron.job_run_details").fetchall()
                assert runs(conn) >= 1, ended
                kept = conn.execute("SELECT discrepancies FROM inventory_audit ORDER BY run_id LIMIT 1").fetchone()
                assert kept == (1,)
                conn.execute("SELECT cron.unschedule(%s)", (job,))
                conn.close()

    def test_it_is_registered_with_the_name_of_the_table(self, conn):
        shop(conn, {ONE: "1"})
        answer = schedule(conn)
        assert set(answer) == {"success", "scheduled", "job", "name", "command"}
        assert (answer["success"], answer["scheduled"]) == (True, True)
        job = (answer["job"], answer["name"], SCHEDULE, answer["command"], "shop", "postgres", True)
        assert jobs(conn) == [job]
        assert answer["name"] == "audit of public.inventory"

    def test_what_was_registered_before_is_replaced(self, conn):
        shop(conn, {ONE: "1"})
        first = schedule(conn)
        second = schedule(conn, "30 4 * * *")
        [job] = jobs(conn)
        assert job[:3] == (second["job"], first["name"], "30 4 * * *")

    def test_each_table_has_a_job(self, conn):
        shop(conn, {ONE: "1"})
        shop(conn, {ONE: "1"}, "other")
        names = set()
        for table in ("inventory", "other", "inventory"):
            conn.execute(f"SET inventory_ext.stock_table = '{table}'")
            names.add(schedule(conn)["name"])
        assert len(names) == 2
        assert {job[1] for job in jobs(conn)} == names
        assert len(jobs(conn)) == 2

    def test_tables_whose_long_names_begin_alike_have_two_jobs(self, conn):
        """A name of pg_cron's is cut off after 63 bytes."""
        schema = "s" * 60
        conn.execute(f"CREATE SCHEMA {schema}")
        for table in ("one", "two"):
            shop(conn, {ONE: "1"}, f"{schema}.{table}")
            conn.execute(f"SET inventory_ext.stock_table = '{schema}.{table}'")
            schedule(conn)
        found = [job[3] for job in jobs(conn)]
        assert ["one" in command for command in found] == [True, False]
        assert ["two" in command for command in found] == [False, True]

    def test_an_invalid_schedule_is_rejected(self, conn):
        shop(conn, {ONE: "1"})
        for wrong in ("now", "", "* * * *", "61 * * * *"):
            refused(conn, "SELECT schedule_inventory_audit(%s)", (wrong,))
        assert jobs(conn) == []

    def test_a_read_only_session_registers_nothing(self, cron, conn):
        shop(conn, {ONE: "1"})
        with cron.connect() as reader:
            reader.execute("SET default_transaction_read_only = on")
            assert refused(reader, "SELECT schedule_inventory_audit()").sqlstate == "25006"
        assert jobs(conn) == []

    def test_a_call_that_is_rolled_back_registers_nothing(self, cron, conn):
        shop(conn, {ONE: "1"})
        with cron.connect(autocommit=False) as session:
            assert schedule(session)["scheduled"]
            session.rollback()
        assert jobs(conn) == []

    def test_a_member_who_is_no_superuser_schedules_for_itself(self, cron, conn):
        owner, member, guest = owned_shop(conn, cron)
        conn.execute(f'GRANT USAGE ON SCHEMA cron TO "{member}", "{guest}"')
        with cron.connect(member) as session:
            answer = schedule(session)
            assert answer["scheduled"] is True
            assert schedule(session) == answer
        assert [(job[0], job[5]) for job in jobs(conn)] == [(answer["job"], member)]
        with cron.connect(guest) as session:
            error = refused(session, "SELECT schedule_inventory_audit()")
            assert (error.sqlstate, error.reason) == ("42501", "not_owner")
        with cron.connect(owner) as session:
            assert refused(session, "SELECT schedule_inventory_audit()").sqlstate == "42501", "it may not use pg_cron"
        assert len(jobs(conn)) == 1

    def test_pg_cron_in_another_database_is_not_used(self, cron, conn):
        with new_database(cron.server) as other, other.connect() as session:
            session.execute("CREATE EXTENSION inventory_ext")
            shop(session, {ONE: "1"})
            assert schedule(session)["scheduled"] is False
        assert jobs(conn) == []

    def test_the_command_of_the_job_is_what_it_says(self, cron, conn):
        shop(conn, {ONE: "1"})
        answer = schedule(conn)
        with cron.connect() as fresh:
            assert fresh.execute(answer["command"]).fetchone() == (0,)
        assert runs(conn) == 1
