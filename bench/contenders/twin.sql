-- The twin: what inventory_ext promises, written as well as PL/pgSQL allows. It checks its arguments, decides a
-- shortage on committed truth without a lock, verifies what was written, replays idempotency keys, pins its
-- search_path. twin_ledger.sql adds the ledger.
ALTER TABLE inventory ADD CONSTRAINT quantity_non_negative
    CHECK (quantity >= '0'::numeric AND quantity < 'Infinity'::numeric);

CREATE TABLE inventory_request (
    idempotency_key text PRIMARY KEY,
    function_name text NOT NULL,
    arguments_hash bytea NOT NULL,
    answer json,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION twin_check(p_inventory_id uuid, p_quantity numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_inventory_id IS NULL OR p_quantity IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'an argument is null',
            DETAIL = '{"reason": "null_argument"}';
    ELSIF p_quantity <= 0 OR p_quantity >= 'Infinity' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'p_quantity must be finite and greater than zero',
            DETAIL = json_build_object('reason', 'not_positive', 'value', p_quantity::text);
    ELSIF scale(p_quantity) > 2 AND scale(trim_scale(p_quantity)) > 2 THEN
        RAISE EXCEPTION USING ERRCODE = '22003', MESSAGE = 'p_quantity has more digits than can be kept',
            DETAIL = json_build_object('reason', 'too_many_decimals', 'value', p_quantity);
    END IF;
END;
$$;

CREATE FUNCTION twin_decrement(p_inventory_id uuid, p_quantity numeric) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_key text := nullif(current_setting('twin.idempotency_key', true), '');
    v_request inventory_request;
    v_hash bytea;
    v_old numeric;
    v_new numeric;
    v_answer json;
BEGIN
    IF p_inventory_id IS NULL OR p_quantity IS NULL OR p_quantity <= 0 OR p_quantity >= 'Infinity'
        OR scale(p_quantity) > 2 THEN
        PERFORM twin_check(p_inventory_id, p_quantity);
    END IF;
    IF v_key IS NOT NULL THEN
        v_hash := sha256(convert_to(json_build_array(p_inventory_id, trim_scale(p_quantity))::text, 'UTF8'));
        INSERT INTO inventory_request (idempotency_key, function_name, arguments_hash)
        VALUES (v_key, 'twin_decrement', v_hash) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT * INTO v_request FROM inventory_request WHERE idempotency_key = v_key;
            IF (v_request.function_name, v_request.arguments_hash) IS DISTINCT FROM ('twin_decrement', v_hash) THEN
                RAISE EXCEPTION USING ERRCODE = 'IV003',
                    MESSAGE = 'Idempotency key was used before with other arguments';
            END IF;
            RETURN jsonb_set(v_request.answer::jsonb, '{replayed}', 'true');
        END IF;
    END IF;
    LOOP
        SELECT quantity INTO v_old FROM inventory WHERE id = p_inventory_id AND quantity >= p_quantity FOR UPDATE;
        EXIT WHEN FOUND;
        SELECT quantity INTO v_old FROM inventory WHERE id = p_inventory_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'IV002', MESSAGE = 'Inventory item not found',
                DETAIL = json_build_object('reason', 'unknown_item', 'inventory_id', p_inventory_id);
        ELSIF v_old < p_quantity THEN
            RAISE EXCEPTION USING ERRCODE = 'IV001',
                MESSAGE = format('Insufficient inventory. Available: %s, Requested: %s', v_old, p_quantity),
                DETAIL = json_build_object('reason', 'insufficient', 'inventory_id', p_inventory_id,
                                           'available', v_old, 'requested', p_quantity);
        END IF;
    END LOOP;
    UPDATE inventory SET quantity = quantity - p_quantity WHERE id = p_inventory_id RETURNING quantity INTO v_new;
    IF v_old - p_quantity IS DISTINCT FROM v_new THEN
        RAISE EXCEPTION USING ERRCODE = 'IV007', MESSAGE = 'Inventory verification failed';
    END IF;
    v_answer := json_build_object('success', true, 'inventory_id', p_inventory_id,
                                  'old_quantity', v_old, 'new_quantity', v_new, 'deducted', p_quantity);
    IF v_key IS NOT NULL THEN
        UPDATE inventory_request SET answer = v_answer WHERE idempotency_key = v_key;
    END IF;
    RETURN v_answer;
END;
$$;

-- A whole order: lines on one item are summed, items locked in order, written with one statement.
CREATE FUNCTION twin_batch(p_items jsonb) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_ids uuid[];
    v_wanted numeric[];
    v_held uuid[];
    v_old numeric[];
    v_short json;
    v_answer json;
    v_lines bigint;
    v_good boolean;
    v_unknown boolean;
BEGIN
    -- each element is looked at before any are summed: -1 and 2 are no sale of 1
    SELECT array_agg(line.id ORDER BY line.id), array_agg(line.quantity ORDER BY line.id), bool_and(line.good)
      INTO v_ids, v_wanted, v_good
      FROM (SELECT wanted.inventory_id AS id, sum(wanted.quantity) AS quantity,
                   wanted.inventory_id IS NOT NULL
                   AND coalesce(bool_and(wanted.quantity > 0 AND wanted.quantity < 'Infinity'
                       AND scale(wanted.quantity) <= 2) AND count(wanted.quantity) = count(*), false) AS good
              FROM jsonb_to_recordset(p_items) AS wanted (inventory_id uuid, quantity numeric) GROUP BY 1) AS line;
    IF v_ids IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'p_items has no lines', DETAIL = '{"reason": "no_lines"}';
    ELSIF NOT v_good THEN
        PERFORM twin_check(wanted.inventory_id, wanted.quantity)
           FROM jsonb_to_recordset(p_items) AS wanted (inventory_id uuid, quantity numeric);
    END IF;
    SELECT array_agg(held.id), array_agg(held.quantity) INTO v_held, v_old
      FROM (SELECT id, quantity FROM inventory WHERE id = ANY (v_ids) ORDER BY id FOR UPDATE) AS held;
    SELECT json_agg(json_build_object('inventory_id', wanted.id, 'available', held.quantity,
                                      'requested', wanted.quantity))
           , bool_and(held.quantity IS NULL) INTO v_short, v_unknown
      FROM unnest(v_ids, v_wanted) AS wanted (id, quantity)
           LEFT JOIN unnest(v_held, v_old) AS held (id, quantity) USING (id)
     WHERE held.quantity IS NULL OR held.quantity < wanted.quantity;
    IF v_short IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = CASE WHEN v_unknown THEN 'IV002' ELSE 'IV001' END,
            MESSAGE = 'Insufficient inventory',
            DETAIL = json_build_object('reason', 'short_lines', 'lines', v_short);
    END IF;
    WITH written AS (
        UPDATE inventory AS stock SET quantity = stock.quantity - wanted.quantity
          FROM unnest(v_ids, v_wanted, v_old) AS wanted (id, quantity, old_quantity)
         WHERE stock.id = wanted.id
        RETURNING stock.id, wanted.old_quantity, stock.quantity AS new_quantity, wanted.quantity AS deducted
    )
    SELECT json_build_object('success', true, 'lines', json_agg(json_build_object('inventory_id', written.id,
               'old_quantity', written.old_quantity, 'new_quantity', written.new_quantity,
               'deducted', written.deducted))),
           count(*) FILTER (WHERE written.old_quantity - written.deducted = written.new_quantity)
      INTO v_answer, v_lines FROM written;
    IF v_lines <> cardinality(v_ids) THEN
        RAISE EXCEPTION USING ERRCODE = 'IV007', MESSAGE = 'Inventory verification failed';
    END IF;
    RETURN v_answer;
END;
$$;
