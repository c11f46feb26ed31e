-- From 0.3.0 to 0.4.0: audit, reconciliation, seals, archive; adjust_inventory takes the moment of a count.
--
-- A function whose arguments change is created beside the old one, which is then dropped; its owner and its grants are
-- kept. An object that depends on the old function, such as a view, is reported, and then nothing is changed.

DO LANGUAGE plpgsql $dependents$
DECLARE
    dependents pg_catalog.text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT pg_catalog.string_agg(DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid), ', ')
      INTO dependents
      FROM pg_catalog.pg_depend AS d
      JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) d.refobjid
     WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
       AND d.deptype OPERATOR(pg_catalog.=) 'n'
       AND p.pronamespace OPERATOR(pg_catalog.=) '@extschema@'::pg_catalog.regnamespace::pg_catalog.oid
       AND p.probin OPERATOR(pg_catalog.=) 'MODULE_PATHNAME'
       AND p.proname OPERATOR(pg_catalog.=) 'adjust_inventory'::pg_catalog.name;
    -- An event trigger restores the grants. The setting came with PostgreSQL 17.
    IF pg_catalog.current_setting('event_triggers', true) OPERATOR(pg_catalog.=) 'off' THEN
        RAISE EXCEPTION 'event triggers are off' USING
            ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SET event_triggers = on, and update again.';
    END IF;
    IF dependents IS NOT NULL THEN
        RAISE EXCEPTION 'objects depend on functions whose arguments change' USING
            ERRCODE = 'dependent_objects_still_exist', DETAIL = dependents,
            HINT = 'Drop these objects, run ALTER EXTENSION inventory_ext UPDATE, and create them again.';
    END IF;
END
$dependents$;

CREATE FUNCTION @extschema@.adjust_inventory(
    p_inventory_id @extschema@.inventory_key,
    p_counted_quantity pg_catalog.numeric,
    p_expected_quantity pg_catalog.numeric DEFAULT NULL,
    p_reason pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL,
    p_counted_at pg_catalog.timestamptz DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'adjust_counted_item_wrapper';

REVOKE ALL ON FUNCTION @extschema@.adjust_inventory(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.numeric, pg_catalog.text, pg_catalog.text,
    pg_catalog.timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.adjust_inventory(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.numeric, pg_catalog.text, pg_catalog.text,
    pg_catalog.timestamptz) IS
$comment$Sets the stock of an item to a counted quantity.

A count that equals the stock changes nothing and leaves no movement.

p_inventory_id: the item. p_counted_quantity: the counted quantity, zero or more, with at most 28 digits and no more
decimals than the quantity column keeps. p_expected_quantity: if given and not equal to the stock, nothing changes and
IV005 has the stock in DETAIL. p_reason: the reference of the movement, at most 255 bytes. p_idempotency_key: identifies
the call when it is retried, at most 255 bytes. p_counted_at: if given, the moment of the count: the difference to the
stock of that moment, which the ledger has, is added to the stock of now, so that sales can go on while goods are
counted; p_expected_quantity is then compared with the stock of that moment.

Returns {"success": true, "inventory_id", "old_quantity", "new_quantity", "adjusted"}, where adjusted is new - old. For
a striped item the quantities are the sums of all stripes.

Errors: IV002 unknown item; IV003 the idempotency key was used before; IV005 the stock differs from p_expected_quantity;
IV001 more was sold since p_counted_at than was counted; IV007 something on the table changed the adjustment; 22004 an
argument is NULL; 22023 the quantity is not finite or is negative, or p_counted_at is in the future, or before the item
was there; 22003 the column cannot keep all digits; 22P02 a key is no id of the table; 55000 no stock table is attached,
or p_counted_at is given and it has no ledger.$comment$;

CREATE FUNCTION @extschema@.audit_inventory(
    p_item @extschema@.inventory_key DEFAULT NULL,
    p_full pg_catalog.bool DEFAULT false
) RETURNS TABLE (
    kind pg_catalog.text,
    inventory_id pg_catalog.text,
    stripe pg_catalog.int2,
    expected pg_catalog.numeric,
    actual pg_catalog.numeric,
    difference pg_catalog.numeric,
    after_movement pg_catalog.int8,
    before_movement pg_catalog.int8,
    since pg_catalog.timestamptz,
    until pg_catalog.timestamptz,
    detail pg_catalog.json
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'audit_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.audit_inventory(@extschema@.inventory_key, pg_catalog.bool) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.audit_inventory(@extschema@.inventory_key, pg_catalog.bool) IS
$comment$Compares the stock with the ledger, and the ledger with itself; seals the movements that it has verified.

Everything is read in one snapshot. No row is locked, and no sale waits. A run that may write is kept in <stock>_audit,
and the next one continues where the chain of each item was verified last. Only a member of the role that owns the stock
table may audit.

p_item: an item; NULL, all items. p_full: reads the whole ledger again and compares it with what was sealed.

Returns a row for each discrepancy, also one that was found before. kind is on_hand_drift, the stock differs from the
last movement; broken_chain, a movement does not begin where the one before ended; stripe_drift, a stripe differs from
its last movement; missing_item, an item of the ledger has no row; unknown_item, a row has no movement; and with p_full
altered_movement, missing_movement, inserted_movement and altered_seal, against what was sealed. expected: the quantity
that the ledger says. actual: the quantity in the stock, or where the movement begins. difference: actual - expected.
after_movement, before_movement: the movements between which it arose; NULL, before the first, or after the last.
since, until: when they were written; until is now after the last. detail: kind, reference, actor and xact_id of the
movement before which it arose, and "movement", the movement that was altered, removed or inserted.

Errors: 22004 p_full is NULL; 22P02 p_item is no id of the table; 42501 the caller is no member of the owner; 42P07 a
relation has the name of a table of the audit; 55000 no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.inventory_digest() RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_digest_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_digest() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_digest() IS
$comment$Returns the newest seal, to be kept outside of the database.

Whoever has it can prove later that nothing that was sealed has been altered since, not even by the owner.

Returns {"stock_table", "seal", "sealed_at", "movements", "hash"}: the number of the seal, when it was made, how many
movements are sealed, and a SHA-256 in hexadecimal digits.

Errors: 42501 the caller is no member of the owner; 55000 nothing is sealed yet, no stock table is attached, or it has
no ledger.$comment$;

CREATE FUNCTION @extschema@.verify_inventory(
    p_digest pg_catalog.json
) RETURNS TABLE (
    kind pg_catalog.text,
    movement_id pg_catalog.int8,
    inventory_id pg_catalog.text,
    detail pg_catalog.json
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.verify_inventory(pg_catalog.json) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.verify_inventory(pg_catalog.json) IS
$comment$Compares the ledger with a digest: whether anything that was sealed has been altered since.

Reads the whole ledger and everything that was sealed up to the digest.

p_digest: what inventory_digest returned, at most 65536 bytes.

Returns a row for each movement that was altered_movement, missing_movement or inserted_movement since it was sealed;
altered_seal with movement_id NULL where a seal, or what it keeps of the item, was altered. No row: all is intact.

Errors: 22004 the argument is NULL; 22023 it is no digest, or too long; 42501 the caller is no member of the owner;
55000 no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.movement_proof(
    p_movement_id pg_catalog.int8
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'movement_proof_wrapper';

REVOKE ALL ON FUNCTION @extschema@.movement_proof(pg_catalog.int8) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.movement_proof(pg_catalog.int8) IS
$comment$Returns the proof that a movement is in the newest seal, which can be checked without the database.

p_movement_id: the movement.

Returns {"movement", "steps_in_segment", "segment", "steps_in_seal", "seal", "later_seals", "hash"}: the fields of the
movement, and what is hashed with them up to the hash of the newest digest.

Errors: 22004 the argument is NULL; 22023 there is no such movement; 42501 the caller is no member of the owner; 55000
the movement is not sealed, or is not what was sealed, no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.inventory_at(
    p_item @extschema@.inventory_key,
    p_at pg_catalog.timestamptz
) RETURNS pg_catalog.numeric
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_at_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_at(@extschema@.inventory_key, pg_catalog.timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_at(@extschema@.inventory_key, pg_catalog.timestamptz) IS
$comment$Returns the stock of an item at a moment, as the ledger has it.

A movement counts from the moment when it was written, which is a little before its commit. Reads the movements of the
item, with the rights with which available_inventory reads its stock.

p_item: the item. p_at: the moment.

Returns the quantity; NULL if the item was not there.

Errors: IV002 the ledger does not know the item; 22004 an argument is NULL; 22P02 a key is no id of the table; 55000 no
stock table is attached, it has no ledger, or the movements of that moment were archived and the archive is not
there.$comment$;

CREATE FUNCTION @extschema@.inventory_changes(
    p_after pg_catalog.json DEFAULT NULL,
    p_limit pg_catalog.int4 DEFAULT 1000
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_changes_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_changes(pg_catalog.json, pg_catalog.int4) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_changes(pg_catalog.json, pg_catalog.int4) IS
$comment$Returns the movements after a position, for a reader that follows the ledger.

No movement is left out because it is committed late, and none is returned twice: movements are returned when every
transaction that can have an earlier one has ended. The caller needs SELECT on the ledger.

p_after: "next" of the result before; NULL, from the first movement on. p_limit: the most movements, 1 to 10000.

Returns {"changes": [{"movement_id", "inventory_id", "stripe", "kind", "old_quantity", "new_quantity", "delta",
"reference", "idempotency_key", "actor", "xact_id", "occurred_at"}], "next"}, in the order of movement_id. Without a
change, call again later with the new "next".

Errors: 22004 p_limit is NULL; 22023 p_after is no position, or p_limit is out of range; 42501 the caller may not read
the ledger, or not all of it; 55000 no stock table is attached, it has no ledger, or the ledger was restored from a
backup that is older than the position.$comment$;

CREATE FUNCTION @extschema@.audit_sales(
    p_sales pg_catalog.regclass,
    p_reference_column pg_catalog.name,
    p_item_column pg_catalog.name,
    p_quantity_column pg_catalog.name,
    p_since pg_catalog.timestamptz DEFAULT NULL
) RETURNS TABLE (
    kind pg_catalog.text,
    reference pg_catalog.text,
    inventory_id pg_catalog.text,
    sold pg_catalog.numeric,
    deducted pg_catalog.numeric,
    movements pg_catalog.int8[]
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'audit_sales_wrapper';

REVOKE ALL ON FUNCTION @extschema@.audit_sales(
    pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.audit_sales(
    pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.timestamptz) IS
$comment$Compares the ledger with the shop's own sales.

The quantities of all lines of a reference and an item are compared with what calls with that reference deducted of the
item. Lines without a reference or an item, and sales without a reference, are not compared. Only a member of the role
that owns the stock table may call it; the sales are read with the rights of the caller.

p_sales: the table or view of the sales. p_reference_column, p_item_column, p_quantity_column: its columns, of any types
that read as a reference, an id and a number. p_since: deductions that ended before are not returned.

Returns a row for each reference and item that differ. kind: not_deducted, nothing was deducted; not_sold, the sales do
not have what was deducted; deducted_twice, several transactions each deducted the quantity that was sold;
quantity_differs, another quantity was deducted. sold, deducted: the quantities. movements: the movements of the ledger.

Errors: 22004 an argument is NULL; 42703 the sales table has no such column; 42P01 there is no such table; 42501 the
caller is no member of the owner, or may not read the sales; 55000 no stock table is attached, or it has no
ledger.$comment$;

CREATE FUNCTION @extschema@.reconcile_inventory(
    p_item @extschema@.inventory_key,
    p_trust pg_catalog.text DEFAULT 'stock',
    p_apply pg_catalog.bool DEFAULT false,
    p_reason pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reconcile_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.reconcile_inventory(
    @extschema@.inventory_key, pg_catalog.text, pg_catalog.bool, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.reconcile_inventory(
    @extschema@.inventory_key, pg_catalog.text, pg_catalog.bool, pg_catalog.text) IS
$comment$Puts an item right that an audit has found wrong. History is never edited.

Shows what it would do; with p_apply it does it, under the lock of the item, if nothing has changed since the newest
audit of the item. Only a member of the role that owns the stock table may call it.

p_item: the item. p_trust: stock, the missing movement is recorded, of kind correction (opening or closing if the item
appeared or disappeared), so that the ledger says what the stock says; ledger, the row is written back to what the
ledger says, without a movement. A break between two movements is acknowledged: later audits do not report it. p_apply:
whether to do it. p_reason: the reference of the movement, at most 255 bytes.

Returns {"success": true, "inventory_id", "trust", "applied", "run", "steps": [{"step": record, write or acknowledge,
and its facts}]}; no step, nothing is wrong.

Errors: 0A000 p_trust is ledger, and there is no row to write, or the item is striped; 22004 an argument is NULL; 22023
p_trust has another value; 22P02 a key is no id of the table; 42501 the caller is no member of the owner; 55000 the item
was not audited, or has changed since, no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.archive_movements(
    p_before pg_catalog.timestamptz
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_movements_wrapper';

REVOKE ALL ON FUNCTION @extschema@.archive_movements(pg_catalog.timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.archive_movements(pg_catalog.timestamptz) IS
$comment$Moves closed history out of the ledger, while sales go on.

Audits first. Of each chain, the movements that were written before p_before and are sealed go to
<stock>_movement_archive; a movement of kind opening is left that has the number and the time of the last of them, and
the balance. Audits, inventory_at and verify_inventory go on; a full audit reads the archive, too, as long as it is
there. Only a member of the role that owns the stock table may archive.

p_before: a moment of the past.

Returns {"success": true, "archive", "movements", "chains", "run", "discrepancies"}: the table, how many movements of
how many chains went there, the run that is kept, and how many discrepancies the audit found; what is not verified
stays.

Errors: 22004 the argument is NULL; 22023 it is in the future; 42501 the caller is no member of the owner; 42P07 a
relation has the name of the archive; 55000 no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.schedule_inventory_audit(
    p_schedule pg_catalog.text DEFAULT '0 3 * * *'
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'schedule_inventory_audit_wrapper';

REVOKE ALL ON FUNCTION @extschema@.schedule_inventory_audit(pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.schedule_inventory_audit(pg_catalog.text) IS
$comment$Registers a daily audit with pg_cron, or says what to do without it.

What the caller registered for the table before is replaced. The job runs as the caller, who must be a member of the
role that owns the stock table.

p_schedule: when it runs, as in a crontab, at most 255 bytes.

Returns {"success": true, "scheduled": true, "job", "name", "command"} if pg_cron is installed in this database, else
{"success": true, "scheduled": false, "command", "crontab", "hint"} with the line of a crontab.

Errors: 22004 the argument is NULL; 22023 it is too long, or it or a name has control characters; 42501 the caller is no
member of the owner, or may not use pg_cron; 55000 no stock table is attached. An invalid schedule is rejected by
pg_cron.$comment$;

CREATE FUNCTION @extschema@.inventory_audit_report(
    p_run pg_catalog.int8 DEFAULT NULL
) RETURNS pg_catalog.text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_audit_report_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_audit_report(pg_catalog.int8) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_audit_report(pg_catalog.int8) IS
$comment$Returns a run of the audit as an HTML page that can be opened by itself.

The page says what was checked and what is wrong, with a chart of the stock of each wrong item and the break marked, for
at most 20 items, and the movements of each kind on each of the last 31 days. It needs nothing from elsewhere.

p_run: run_id in <stock>_audit; NULL, the newest run.

Errors: 22023 there is no such run; 42501 the caller is no member of the owner; 55000 no stock table is attached, or it
has no ledger.$comment$;

-- Default privileges of the updating role apply to what was created above; they are revoked. Then the owner and the
-- grants of the old function are given to the new one. Grants within a script would belong to the extension, and a dump
-- would not have them: an event trigger gives them at the end. An update from 0.1.0 has made one already, whose grants
-- name the old function.
DO LANGUAGE plpgsql $rights$
DECLARE
    statement pg_catalog.text;
    grants pg_catalog.text;
    waiting pg_catalog.text;
    extension_schema CONSTANT pg_catalog.oid := '@extschema@'::pg_catalog.regnamespace::pg_catalog.oid;
    old_adjust CONSTANT pg_catalog.regprocedure := '@extschema@.adjust_inventory(@extschema@.inventory_key,'
        'pg_catalog.numeric,pg_catalog.numeric,pg_catalog.text,pg_catalog.text)';
    new_adjust CONSTANT pg_catalog.regprocedure := '@extschema@.adjust_inventory(@extschema@.inventory_key,'
        'pg_catalog.numeric,pg_catalog.numeric,pg_catalog.text,pg_catalog.text,pg_catalog.timestamptz)';
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    FOR statement IN
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %s CASCADE',
                   p.oid::pg_catalog.regprocedure,
                   CASE WHEN acl.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)) END)
          FROM pg_catalog.pg_proc AS p
         CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS acl
         WHERE p.pronamespace OPERATOR(pg_catalog.=) extension_schema
           AND p.probin OPERATOR(pg_catalog.=) 'MODULE_PATHNAME'
           AND p.prosrc OPERATOR(pg_catalog.=) ANY ('{adjust_counted_item_wrapper, audit_inventory_wrapper,
               inventory_digest_wrapper, verify_inventory_wrapper, movement_proof_wrapper, inventory_at_wrapper,
               inventory_changes_wrapper, audit_sales_wrapper, reconcile_inventory_wrapper, archive_movements_wrapper,
               schedule_inventory_audit_wrapper, inventory_audit_report_wrapper}'::pg_catalog.text[])
           AND acl.grantee OPERATOR(pg_catalog.<>) p.proowner
    LOOP
        EXECUTE statement;
    END LOOP;

    SELECT pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', new_adjust, pg_catalog.pg_get_userbyid(p.proowner))
      INTO statement FROM pg_catalog.pg_proc AS p WHERE p.oid OPERATOR(pg_catalog.=) old_adjust;
    EXECUTE statement;

    -- Who granted what is kept: each grant is made by the role that made it, after the grant that allowed it to.
    WITH RECURSIVE given AS (
        SELECT p.proowner AS owner, acl.grantor, acl.grantee, acl.is_grantable
          FROM pg_catalog.pg_proc AS p
         CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS acl
         WHERE p.oid OPERATOR(pg_catalog.=) old_adjust AND acl.grantee OPERATOR(pg_catalog.<>) p.proowner
    ), placed AS (
        SELECT given.*, 1 AS step FROM given WHERE given.grantor OPERATOR(pg_catalog.=) given.owner
         UNION
        SELECT given.*, placed.step OPERATOR(pg_catalog.+) 1
          FROM given JOIN placed ON placed.grantee OPERATOR(pg_catalog.=) given.grantor
           AND placed.is_grantable AND given.grantor OPERATOR(pg_catalog.<>) given.owner
    ), ordered AS (
        SELECT grantor, grantee, is_grantable, pg_catalog.max(step) AS step
          FROM placed GROUP BY grantor, grantee, is_grantable
    )
    SELECT pg_catalog.string_agg(pg_catalog.format(
               -- The updating role may be unable to become that one, which may be unable to use the schema.
               'BEGIN SET LOCAL ROLE %1$I; %2$s; PERFORM pg_catalog.set_config(''role'', role, true);
                EXCEPTION WHEN insufficient_privilege THEN %2$s; END;',
               pg_catalog.pg_get_userbyid(grantor), pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s%s',
                   new_adjust,
                   CASE WHEN grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END,
                   CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)), ' ' ORDER BY step)
      INTO grants FROM ordered;
    grants := 'DECLARE role pg_catalog.text := pg_catalog.current_setting(''role''); BEGIN '
        OPERATOR(pg_catalog.||) grants OPERATOR(pg_catalog.||)
        ' DROP EVENT TRIGGER inventory_restore_grants; DROP FUNCTION @extschema@.inventory_restore_grants(); END';

    SELECT p.prosrc INTO waiting
      FROM pg_catalog.pg_event_trigger AS e
      JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) e.evtfoid
     WHERE e.evtname OPERATOR(pg_catalog.=) 'inventory_restore_grants'::pg_catalog.name
       AND p.pronamespace OPERATOR(pg_catalog.=) extension_schema;
    IF waiting IS NOT NULL THEN
        DROP EVENT TRIGGER inventory_restore_grants;
        DROP FUNCTION @extschema@.inventory_restore_grants();
        grants := pg_catalog.replace(waiting, old_adjust::pg_catalog.text, new_adjust::pg_catalog.text);
    END IF;
    IF grants IS NOT NULL THEN
        EXECUTE pg_catalog.format(
            'CREATE FUNCTION %s.inventory_restore_grants() RETURNS pg_catalog.event_trigger
             LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS %L', '@extschema@', grants);
        EXECUTE 'REVOKE ALL ON FUNCTION @extschema@.inventory_restore_grants() FROM PUBLIC';
        CREATE EVENT TRIGGER inventory_restore_grants ON ddl_command_end WHEN TAG IN ('ALTER EXTENSION')
            EXECUTE FUNCTION @extschema@.inventory_restore_grants();
        -- The next commands would fire it within the script.
        ALTER EVENT TRIGGER inventory_restore_grants DISABLE;
        ALTER EXTENSION inventory_ext DROP EVENT TRIGGER inventory_restore_grants;
        ALTER EXTENSION inventory_ext DROP FUNCTION @extschema@.inventory_restore_grants();
        ALTER EVENT TRIGGER inventory_restore_grants ENABLE ALWAYS;
    END IF;
END
$rights$;

DROP FUNCTION @extschema@.adjust_inventory(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.numeric, pg_catalog.text, pg_catalog.text);

-- A kind of movement is new.
DO LANGUAGE plpgsql $comments$
DECLARE
    ledger pg_catalog.regclass;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    FOR ledger IN
        SELECT a.movement_table FROM @extschema@.inventory_attachment AS a
          JOIN pg_catalog.pg_attribute AS t ON t.attrelid OPERATOR(pg_catalog.=) a.movement_table
         WHERE t.attname OPERATOR(pg_catalog.=) 'kind'::pg_catalog.name AND NOT t.attisdropped
           AND pg_catalog.col_description(t.attrelid, t.attnum) OPERATOR(pg_catalog.=)
               'sale, restock, adjustment, transfer, opening, closing or external.'
    LOOP
        EXECUTE pg_catalog.format('COMMENT ON COLUMN %s.kind IS %L', ledger,
            'sale, restock, adjustment, transfer, opening, closing, correction or external.');
    END LOOP;
END
$comments$;
