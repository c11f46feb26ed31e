-- Written and compared by golden.rs.

-- schedule::database
SELECT pg_catalog.current_database()::pg_catalog.text AS database;

-- schedule::has_cron
SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname OPERATOR(pg_catalog.=) 'pg_cron';

-- schedule::register: $1 Text, $2 Text, $3 Text
SELECT cron.schedule($1, $2, $3)::pg_catalog.int8 AS job;
