-- The twin's ledger: the same table and indexes as inventory_ext makes, written by a row trigger, never changed
-- afterwards.
CREATE TABLE inventory_movement (
    movement_id bigint GENERATED ALWAYS AS IDENTITY,
    inventory_id uuid NOT NULL,
    stripe smallint,
    kind text NOT NULL,
    old_quantity numeric NOT NULL,
    new_quantity numeric NOT NULL,
    delta numeric NOT NULL GENERATED ALWAYS AS (new_quantity - old_quantity) STORED,
    reference text,
    idempotency_key text,
    actor text NOT NULL,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (inventory_id, movement_id)
);

CREATE INDEX ON inventory_movement USING brin (movement_id) WITH (autosummarize = on);
CREATE INDEX ON inventory_movement USING brin (occurred_at) WITH (autosummarize = on);

INSERT INTO inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor)
SELECT id, 'opening', 0, quantity, current_user FROM inventory ORDER BY id;

CREATE FUNCTION twin_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.quantity = OLD.quantity AND NEW.id = OLD.id THEN
            RETURN NULL;
        END IF;
        INSERT INTO public.inventory_movement
            (inventory_id, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
        VALUES (NEW.id,
                CASE WHEN pg_trigger_depth() = 1
                     THEN coalesce(nullif(current_setting('twin.kind', true), ''), 'external')
                     ELSE 'external' END,
                OLD.quantity, NEW.quantity,
                nullif(current_setting('twin.reference', true), ''),
                nullif(current_setting('twin.idempotency_key', true), ''),
                coalesce(nullif(current_setting('twin.actor', true), ''),
                         nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', session_user));
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO public.inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor)
        VALUES (NEW.id, 'opening', 0, NEW.quantity, session_user);
    ELSE
        INSERT INTO public.inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor)
        VALUES (OLD.id, 'closing', OLD.quantity, 0, session_user);
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON inventory FOR EACH ROW EXECUTE FUNCTION twin_record();

CREATE FUNCTION twin_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'the ledger is only added to';
END;
$$;

CREATE TRIGGER guard BEFORE UPDATE OR DELETE OR TRUNCATE ON inventory_movement
    FOR EACH STATEMENT EXECUTE FUNCTION twin_guard();

-- Within a sale the change is a sale; whoever else writes is external. The setting goes with the function's end.
ALTER FUNCTION twin_decrement SET twin.kind = 'sale';
ALTER FUNCTION twin_batch SET twin.kind = 'sale';
