//! The statements of the advice: what the catalogs and PostgreSQL's own statistics say of a stock table.

use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// Facts about a stock table, $1, its ledger, $2, and its table of keys, $3: one row. $4 is the name of the quantity
/// column.
pub fn facts() -> Sql {
    let text = "SELECT pg_catalog.pg_stat_get_tuples_updated(c.oid) AS updated,
       pg_catalog.pg_stat_get_tuples_hot_updated(c.oid) AS hot_updated,
       (SELECT o.option_value::pg_catalog.int4 FROM pg_catalog.pg_options_to_table(c.reloptions) AS o
         WHERE o.option_name OPERATOR(pg_catalog.=) 'fillfactor') AS fillfactor,
       ARRAY(SELECT x.relname::pg_catalog.text
               FROM pg_catalog.pg_index AS i
               JOIN pg_catalog.pg_class AS x ON x.oid OPERATOR(pg_catalog.=) i.indexrelid
               JOIN pg_catalog.pg_am AS m ON m.oid OPERATOR(pg_catalog.=) x.relam
              WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND m.amname OPERATOR(pg_catalog.<>) 'brin'
                AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                             JOIN pg_catalog.pg_attribute AS a
                               ON a.attrelid OPERATOR(pg_catalog.=) c.oid
                              AND a.attnum::pg_catalog.int4 OPERATOR(pg_catalog.=) d.refobjsubid
                            WHERE d.classid OPERATOR(pg_catalog.=)
                                  'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
                              AND d.objid OPERATOR(pg_catalog.=) i.indexrelid
                              AND d.refobjid OPERATOR(pg_catalog.=) c.oid
                              AND a.attname::pg_catalog.text OPERATOR(pg_catalog.=) $4)
              ORDER BY 1) AS indexes,
       ARRAY(SELECT t.tgname::pg_catalog.text FROM pg_catalog.pg_trigger AS t
              WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid AND t.tgdeferrable AND NOT t.tgisinternal
              ORDER BY 1) AS deferrable,
       (SELECT l.reltuples::pg_catalog.int8 FROM pg_catalog.pg_class AS l
         WHERE l.oid OPERATOR(pg_catalog.=) $2) AS movements,
       pg_catalog.pg_total_relation_size($2) AS ledger_bytes,
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid OPERATOR(pg_catalog.=) $2
                AND a.attname::pg_catalog.text OPERATOR(pg_catalog.=) ANY ('{movement_id, occurred_at}')
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i
                                  JOIN pg_catalog.pg_class AS x ON x.oid OPERATOR(pg_catalog.=) i.indexrelid
                                  JOIN pg_catalog.pg_am AS m ON m.oid OPERATOR(pg_catalog.=) x.relam
                                 WHERE i.indrelid OPERATOR(pg_catalog.=) $2 AND i.indisvalid
                                   AND m.amname OPERATOR(pg_catalog.=) 'brin'
                                   AND i.indkey[0] OPERATOR(pg_catalog.=) a.attnum)
              ORDER BY 1) AS without_brin,
       (SELECT k.reltuples::pg_catalog.int8 FROM pg_catalog.pg_class AS k
         WHERE k.oid OPERATOR(pg_catalog.=) $3) AS keys
  FROM pg_catalog.pg_class AS c
 WHERE c.oid OPERATOR(pg_catalog.=) $1";
    Sql::new(text, &[SqlType::Oid, SqlType::Oid, SqlType::Oid, SqlType::Text])
}
