-- Default privileges of the installing role apply to the objects created above. This block revokes them. PUBLIC keeps
-- EXECUTE on the trigger functions and nothing else.
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
                       p.proacl, p.proowner,
                       p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.trigger'::pg_catalog.regtype::pg_catalog.oid
                  FROM pg_catalog.pg_proc AS p
                 WHERE p.pronamespace OPERATOR(pg_catalog.=)
                       '@extschema@'::pg_catalog.regnamespace::pg_catalog.oid
                   AND (p.probin OPERATOR(pg_catalog.=) 'MODULE_PATHNAME'
                        OR p.proname OPERATOR(pg_catalog.=) ANY ('{inventory_key_in, inventory_key_out,
                            inventory_key_recv, inventory_key_send}'::pg_catalog.name[]))
                UNION ALL
                SELECT 'TABLE ' OPERATOR(pg_catalog.||) c.oid::pg_catalog.regclass::pg_catalog.text,
                       c.relacl, c.relowner, false
                  FROM pg_catalog.pg_class AS c
                 WHERE c.oid OPERATOR(pg_catalog.=) ANY (ARRAY['@extschema@.inventory_attachment',
                       '@extschema@.inventory_sharing']::pg_catalog.regclass[]::pg_catalog.oid[])
               ) AS object (name, acl, owner, is_trigger)
         CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS acl
         WHERE acl.grantee OPERATOR(pg_catalog.<>) object.owner
           AND NOT (object.is_trigger AND acl.grantee OPERATOR(pg_catalog.=) 0)
    LOOP
        EXECUTE revocation;
    END LOOP;
    -- PUBLIC may have no EXECUTE by default.
    GRANT EXECUTE ON FUNCTION @extschema@.inventory_movement_begin(), @extschema@.inventory_movement_record(),
        @extschema@.inventory_movement_flush(), @extschema@.inventory_movement_guard(),
        @extschema@.inventory_truncate_guard(), @extschema@.inventory_request_guard(),
        @extschema@.inventory_stripe_guard() TO PUBLIC;
    -- The owner of the database can then dump it. PostgreSQL 14 and later have this role.
    GRANT SELECT ON TABLE @extschema@.inventory_attachment, @extschema@.inventory_sharing TO pg_database_owner;
END
$rights$;
