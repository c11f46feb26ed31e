-- The twin's ledger written the other way: one trigger at the end of the statement, which reads the transition
-- tables. For updates only; in place of the row trigger of twin_ledger.sql, to compare the two.
DROP TRIGGER record ON inventory;

CREATE FUNCTION twin_record_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.inventory_movement
        (inventory_id, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
    SELECT before.id, coalesce(nullif(current_setting('twin.kind', true), ''), 'external'),
           before.quantity, after.quantity,
           nullif(current_setting('twin.reference', true), ''),
           nullif(current_setting('twin.idempotency_key', true), ''),
           coalesce(nullif(current_setting('twin.actor', true), ''),
                    nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', session_user)
      FROM before JOIN after USING (id) WHERE before.quantity <> after.quantity;
    RETURN NULL;
END;
$$;

CREATE TRIGGER record AFTER UPDATE ON inventory REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION twin_record_statement();
