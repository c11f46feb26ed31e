-- The usual cure, written by hand, as in the demo: lock the row, check, deduct.
CREATE FUNCTION sell_by_hand(p_inventory_id uuid, p_quantity numeric) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    v_old numeric;
    v_new numeric;
BEGIN
    SELECT quantity INTO v_old FROM inventory WHERE id = p_inventory_id FOR UPDATE;
    IF v_old < p_quantity THEN
        RAISE EXCEPTION 'Insufficient inventory. Available: %, Requested: %', v_old, p_quantity;
    END IF;
    v_new := v_old - p_quantity;
    UPDATE inventory SET quantity = v_new WHERE id = p_inventory_id;
    RETURN json_build_object('success', true, 'inventory_id', p_inventory_id,
                             'old_quantity', v_old, 'new_quantity', v_new, 'deducted', p_quantity);
END;
$$;
