-- The argument that names an item: a text, for ids of any type. Implicit casts accept columns and arguments of these
-- types, and the input function accepts literals, and strings and numbers of JSON, without an overload.

CREATE TYPE @extschema@.inventory_key;

CREATE FUNCTION @extschema@.inventory_key_in(pg_catalog.cstring) RETURNS @extschema@.inventory_key
LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textin';

CREATE FUNCTION @extschema@.inventory_key_out(@extschema@.inventory_key) RETURNS pg_catalog.cstring
LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textout';

CREATE FUNCTION @extschema@.inventory_key_recv(pg_catalog.internal) RETURNS @extschema@.inventory_key
LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textrecv';

CREATE FUNCTION @extschema@.inventory_key_send(@extschema@.inventory_key) RETURNS pg_catalog.bytea
LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textsend';

REVOKE ALL ON FUNCTION @extschema@.inventory_key_in(pg_catalog.cstring) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.inventory_key_out(@extschema@.inventory_key) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.inventory_key_recv(pg_catalog.internal) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.inventory_key_send(@extschema@.inventory_key) FROM PUBLIC;

CREATE TYPE @extschema@.inventory_key (
    INPUT = @extschema@.inventory_key_in,
    OUTPUT = @extschema@.inventory_key_out,
    RECEIVE = @extschema@.inventory_key_recv,
    SEND = @extschema@.inventory_key_send,
    INTERNALLENGTH = VARIABLE,
    STORAGE = extended
);

COMMENT ON TYPE @extschema@.inventory_key IS
    'The id of an item, of type uuid, bigint, integer, text or varchar, as an argument.';

CREATE CAST (pg_catalog.uuid AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.int8 AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.int4 AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.int2 AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.text AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.varchar AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
COMMENT ON FUNCTION @extschema@.inventory_key_in(pg_catalog.cstring) IS 'Reads an inventory_key.';
COMMENT ON FUNCTION @extschema@.inventory_key_out(@extschema@.inventory_key) IS 'Prints an inventory_key.';
COMMENT ON FUNCTION @extschema@.inventory_key_recv(pg_catalog.internal) IS 'Reads an inventory_key in binary format.';
COMMENT ON FUNCTION @extschema@.inventory_key_send(@extschema@.inventory_key) IS
    'Writes an inventory_key in binary format.';
COMMENT ON CAST (pg_catalog.uuid AS @extschema@.inventory_key) IS 'An id of type uuid as an argument.';
COMMENT ON CAST (pg_catalog.int8 AS @extschema@.inventory_key) IS 'An id of type bigint as an argument.';
COMMENT ON CAST (pg_catalog.int4 AS @extschema@.inventory_key) IS 'An id of type integer as an argument.';
COMMENT ON CAST (pg_catalog.int2 AS @extschema@.inventory_key) IS 'An id of type smallint as an argument.';
COMMENT ON CAST (pg_catalog.text AS @extschema@.inventory_key) IS 'An id of type text as an argument.';
COMMENT ON CAST (pg_catalog.varchar AS @extschema@.inventory_key) IS 'An id of type varchar as an argument.';
