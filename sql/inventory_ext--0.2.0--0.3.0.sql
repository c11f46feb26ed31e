-- From 0.2.0 to 0.3.0: a ledger has one B-tree, its primary key (inventory_id, movement_id), and two BRIN indexes.
--
-- Ledgers that are there keep their indexes and are written as before; sql/rebuild_ledger.sql gives them the new ones.

-- A script shows no NOTICE.
DO LANGUAGE plpgsql $warning$
DECLARE
    ledgers pg_catalog.text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT pg_catalog.string_agg(a.movement_table::pg_catalog.regclass::pg_catalog.text, ', ') INTO ledgers
      FROM @extschema@.inventory_attachment AS a
      JOIN pg_catalog.pg_constraint AS k ON k.conrelid OPERATOR(pg_catalog.=) a.movement_table
     WHERE k.contype OPERATOR(pg_catalog.=) 'p' AND pg_catalog.cardinality(k.conkey) OPERATOR(pg_catalog.=) 1;
    IF ledgers IS NOT NULL THEN
        RAISE WARNING 'ledgers with the indexes of 0.2.0: %', ledgers USING
            HINT = 'They are written as before. "Indexes of earlier versions" in docs/ledger.md replaces them, '
                   'which makes writing faster.';
    END IF;
END
$warning$;
