-- Gives a ledger that was made before version 0.3.0 the indexes of a new one, while sales go on.
--
--     psql -v ledger=inventory_movement -f rebuild_ledger.sql
--
-- Run it as the owner of the ledger. Statements that cannot run in a transaction do the work, so this is no function.
-- A run that was interrupted is continued by the next. The old primary key goes last, under a lock that sales wait for
-- during one statement; if others hold the ledger for longer than two seconds, the script gives up: run it again.
\set ON_ERROR_STOP on
\if :{?ledger}
\else
    \set ledger inventory_movement
\endif

-- What an interrupted run left
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %s', i.indexrelid::pg_catalog.regclass)
  FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
 WHERE i.indrelid = :'ledger'::pg_catalog.regclass AND NOT i.indisvalid
   AND c.relname ~ '^movement_by_(item|number|time)_[0-9]+$'
\gexec

-- The indexes, if there are none of the kind
SELECT pg_catalog.format('CREATE %s CONCURRENTLY %I ON %s %s', made.kind,
                         'movement_' || made.name || '_' || l.oid::pg_catalog.text,
                         l.oid::pg_catalog.regclass, made.definition)
  FROM pg_catalog.pg_class AS l
 CROSS JOIN (VALUES
           ('UNIQUE INDEX', 'by_item', '(inventory_id, movement_id)'),
           ('INDEX', 'by_number', 'USING brin (movement_id) WITH (autosummarize = on)'),
           ('INDEX', 'by_time', 'USING brin (occurred_at) WITH (autosummarize = on)')
       ) AS made (kind, name, definition)
 WHERE l.oid = :'ledger'::pg_catalog.regclass
   AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_index AS i
            WHERE i.indrelid = l.oid AND i.indisvalid AND (i.indisunique OR made.kind = 'INDEX')
              AND pg_catalog.pg_get_indexdef(i.indexrelid)
                  LIKE '%' || pg_catalog.regexp_replace(made.definition, ' WITH .*', '') || '%')
\gexec

-- The primary key
SET lock_timeout = '2s';
SET client_min_messages = warning;
SELECT pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I PRIMARY KEY USING INDEX %I',
                         l.oid::pg_catalog.regclass, k.conname, k.conname, made.relname)
  FROM pg_catalog.pg_class AS l
  JOIN pg_catalog.pg_constraint AS k ON k.conrelid = l.oid AND k.contype = 'p'
 CROSS JOIN LATERAL (
           SELECT c.relname FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
            WHERE i.indrelid = l.oid AND i.indisunique AND i.indisvalid
              AND pg_catalog.pg_get_indexdef(i.indexrelid) LIKE '% USING btree (inventory_id, movement_id)'
            ORDER BY i.indexrelid LIMIT 1
       ) AS made
 WHERE l.oid = :'ledger'::pg_catalog.regclass
   AND pg_catalog.pg_get_constraintdef(k.oid) = 'PRIMARY KEY (movement_id)'
\gexec
RESET lock_timeout;
RESET client_min_messages;

-- The old index for the history of an item, which the primary key now serves
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %s', i.indexrelid::pg_catalog.regclass)
  FROM pg_catalog.pg_index AS i
 WHERE i.indrelid = :'ledger'::pg_catalog.regclass AND NOT i.indisunique
   AND pg_catalog.pg_get_indexdef(i.indexrelid) LIKE '% USING btree (inventory_id, movement_id)'
\gexec
