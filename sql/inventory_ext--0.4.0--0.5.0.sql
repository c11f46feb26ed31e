-- From 0.4.0 to 0.5.0: statistics of calls: counters, hot items, who waits for which item; advice.
--
-- What follows is the text of sql/statistics.sql, of which an installation has the same.

-- Statistics of calls. The functions read shared memory; the views show what is of this database. Members of
-- pg_read_all_stats may read all of it.

CREATE FUNCTION @extschema@.inventory_stats_calls() RETURNS TABLE (
    stock_table pg_catalog.text,
    function pg_catalog.text,
    calls pg_catalog.int8,
    successes pg_catalog.int8,
    failures pg_catalog.int8,
    refusals pg_catalog.json,
    replays pg_catalog.int8,
    movements pg_catalog.int8,
    total_time pg_catalog.float8,
    max_time pg_catalog.float8,
    lock_waits pg_catalog.int8,
    lock_time pg_catalog.float8
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_stats_calls_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_stats_calls() IS 'Returns the counters of inventory_stats.

Result: a row for each stock table and function; none without shared memory.

Errors: none of its own.';

CREATE FUNCTION @extschema@.inventory_stats_latency() RETURNS TABLE (
    stock_table pg_catalog.text,
    function pg_catalog.text,
    measure pg_catalog.text,
    calls pg_catalog.int8,
    mean_time pg_catalog.float8,
    p50 pg_catalog.float8,
    p95 pg_catalog.float8,
    p99 pg_catalog.float8,
    max_time pg_catalog.float8,
    histogram pg_catalog.int8[]
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_stats_latency_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_stats_latency() IS 'Returns the durations of inventory_latency.

Result: a row for each stock table, function and measure; none without shared memory.

Errors: none of its own.';

CREATE FUNCTION @extschema@.inventory_stats_hot() RETURNS TABLE (
    stock_table pg_catalog.text,
    inventory_id pg_catalog.text,
    lock_waits pg_catalog.int8,
    lock_time pg_catalog.float8,
    refusals pg_catalog.int8
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_stats_hot_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_stats_hot() IS 'Returns the items of inventory_hot_items.

Result: a row for each item of either list, the one that calls waited for longest first; none without shared memory.

Errors: none of its own.';

CREATE FUNCTION @extschema@.inventory_stats_locking() RETURNS TABLE (
    stock_table pg_catalog.text,
    inventory_id pg_catalog.text,
    stripe pg_catalog.int2,
    pid pg_catalog.int4,
    reference pg_catalog.text,
    lock_time pg_catalog.float8
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_stats_locking_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_stats_locking() IS 'Returns the backends that take the lock of an item now.

Result: a row for each; none without shared memory. inventory_lock_queue shows those that wait.

Errors: none of its own.';

CREATE FUNCTION @extschema@.inventory_stats_state() RETURNS TABLE (
    available pg_catalog.bool,
    reason pg_catalog.text,
    stats_reset pg_catalog.timestamptz,
    entries pg_catalog.int4,
    entries_max pg_catalog.int4,
    not_counted pg_catalog.int8
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_stats_state_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_stats_state() IS 'Returns whether calls are counted, and if not, why.

Result: one row.

Errors: none of its own.';

CREATE FUNCTION @extschema@.inventory_stats_audits() RETURNS TABLE (
    stock_table pg_catalog.text,
    last_audit pg_catalog.timestamptz,
    discrepancies pg_catalog.int8
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_stats_audits_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_stats_audits() IS
'Returns the newest audit of every attached table that has a ledger.

Result: a row for each; last_audit is NULL where there was none, or it cannot be read.

Errors: none of its own.';

CREATE FUNCTION @extschema@.inventory_advice() RETURNS TABLE (
    kind pg_catalog.text,
    stock_table pg_catalog.text,
    inventory_id pg_catalog.text,
    advice pg_catalog.text,
    detail pg_catalog.json
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_advice_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_advice() IS 'Returns advice for the stock tables of this database.

Result: a row for each piece of advice. kind: stripe, unstripe, index, fillfactor, deferrable_trigger, archive,
missing_brin, purge, write_path, unusable.

Errors: none of its own.';

CREATE FUNCTION @extschema@.reset_inventory_stats() RETURNS pg_catalog.void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reset_inventory_stats_wrapper';

COMMENT ON FUNCTION @extschema@.reset_inventory_stats() IS 'Sets the statistics of this database to zero.

Result: none. Calls that end meanwhile may be counted in part.

Errors: none of its own.';

CREATE VIEW @extschema@.inventory_stats AS
SELECT s.stock_table, s.function, s.calls, s.successes, s.failures, s.refusals::pg_catalog.jsonb AS refusals,
       s.replays, s.movements, s.total_time,
       s.total_time OPERATOR(pg_catalog./) s.calls::pg_catalog.float8 AS mean_time,
       s.max_time, s.lock_waits, s.lock_time
  FROM @extschema@.inventory_stats_calls() AS s;

COMMENT ON VIEW @extschema@.inventory_stats IS
    'Calls of each function for each stock table since stats_reset. Times are milliseconds.';

CREATE VIEW @extschema@.inventory_latency AS
SELECT s.stock_table, s.function, s.measure, s.calls, s.mean_time, s.p50, s.p95, s.p99, s.max_time, s.histogram
  FROM @extschema@.inventory_stats_latency() AS s;

COMMENT ON VIEW @extschema@.inventory_latency IS
    'How long calls took (measure call), and how long they waited for locks of items (lock). Times are milliseconds.';

CREATE VIEW @extschema@.inventory_hot_items AS
SELECT s.stock_table, s.inventory_id, s.lock_waits, s.lock_time, s.refusals
  FROM @extschema@.inventory_stats_hot() AS s
 ORDER BY s.lock_time DESC, s.refusals DESC;

COMMENT ON VIEW @extschema@.inventory_hot_items IS
    'The items that calls waited for longest, and those that were refused most. Times are milliseconds.';

CREATE VIEW @extschema@.inventory_lock_queue AS
SELECT s.stock_table, s.inventory_id, s.stripe,
       pg_catalog.row_number() OVER (PARTITION BY s.stock_table, s.inventory_id, s.stripe
           ORDER BY l.locktype OPERATOR(pg_catalog.=) 'tuple', l.waitstart, s.lock_time DESC)::pg_catalog.int4 AS place,
       s.pid, pg_catalog.pg_blocking_pids(s.pid) AS blocked_by,
       pg_catalog.make_interval(secs => s.lock_time OPERATOR(pg_catalog./) 1000) AS waiting, s.reference
  FROM @extschema@.inventory_stats_locking() AS s
  JOIN pg_catalog.pg_locks AS l
    ON l.pid OPERATOR(pg_catalog.=) s.pid AND NOT l.granted
   AND l.locktype OPERATOR(pg_catalog.=) ANY (CASE WHEN s.stripe IS NULL THEN '{transactionid, tuple}'
                                                   ELSE '{advisory}' END::pg_catalog.text[])
 ORDER BY s.stock_table, s.inventory_id, s.stripe, place;

COMMENT ON VIEW @extschema@.inventory_lock_queue IS
    'The calls that wait for the lock of an item now, in the order in which they will get it.';

CREATE VIEW @extschema@.inventory_stats_info AS
SELECT s.available, s.reason, s.stats_reset, s.entries, s.entries_max, s.not_counted
  FROM @extschema@.inventory_stats_state() AS s;

COMMENT ON VIEW @extschema@.inventory_stats_info IS
    'Whether calls are counted, why not, and since when.';

CREATE VIEW @extschema@.inventory_audits AS
SELECT s.stock_table, s.last_audit, s.discrepancies
  FROM @extschema@.inventory_stats_audits() AS s;

COMMENT ON VIEW @extschema@.inventory_audits IS
    'When each attached table that has a ledger was audited last, and how many discrepancies were found.';

-- Default privileges of the installing role apply to what was created above. This block revokes them.
DO LANGUAGE plpgsql $rights$
DECLARE
    revocation pg_catalog.text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    FOR revocation IN
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s FROM %s CASCADE', object.name,
                   CASE WHEN acl.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)) END)
          FROM (SELECT 'FUNCTION ' OPERATOR(pg_catalog.||) p.oid::pg_catalog.regprocedure::pg_catalog.text,
                       COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner
                  FROM pg_catalog.pg_proc AS p
                 WHERE p.pronamespace OPERATOR(pg_catalog.=)
                       '@extschema@'::pg_catalog.regnamespace::pg_catalog.oid
                   AND p.probin OPERATOR(pg_catalog.=) 'MODULE_PATHNAME'
                   AND p.prosrc OPERATOR(pg_catalog.=) ANY ('{inventory_stats_calls_wrapper,
                       inventory_stats_latency_wrapper, inventory_stats_hot_wrapper, inventory_stats_locking_wrapper,
                       inventory_stats_state_wrapper, inventory_stats_audits_wrapper, inventory_advice_wrapper,
                       reset_inventory_stats_wrapper}'::pg_catalog.text[])
                UNION ALL
                SELECT 'TABLE ' OPERATOR(pg_catalog.||) c.oid::pg_catalog.regclass::pg_catalog.text,
                       c.relacl, c.relowner
                  FROM pg_catalog.pg_class AS c
                 WHERE c.oid OPERATOR(pg_catalog.=) ANY (ARRAY['@extschema@.inventory_stats',
                       '@extschema@.inventory_latency', '@extschema@.inventory_hot_items',
                       '@extschema@.inventory_lock_queue', '@extschema@.inventory_stats_info',
                       '@extschema@.inventory_audits']::pg_catalog.regclass[]::pg_catalog.oid[])
               ) AS object (name, acl, owner)
         CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS acl
         WHERE acl.grantee OPERATOR(pg_catalog.<>) object.owner
    LOOP
        EXECUTE revocation;
    END LOOP;
    GRANT SELECT ON TABLE @extschema@.inventory_stats, @extschema@.inventory_latency,
        @extschema@.inventory_hot_items, @extschema@.inventory_lock_queue, @extschema@.inventory_stats_info,
        @extschema@.inventory_audits
        TO pg_read_all_stats;
    GRANT EXECUTE ON FUNCTION @extschema@.inventory_stats_calls(), @extschema@.inventory_stats_latency(),
        @extschema@.inventory_stats_hot(), @extschema@.inventory_stats_locking(), @extschema@.inventory_stats_state(),
        @extschema@.inventory_stats_audits(), @extschema@.inventory_advice()
        TO pg_read_all_stats;
END
$rights$;
