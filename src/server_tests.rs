//! Tests that run inside a server, by `cargo pgrx test`. Everything a client can see is tested in tests/.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[pgrx::pg_schema]
mod tests {
    use crate::pg::role::{act_as, current_role};
    use crate::table::attachment::Intent;
    use crate::table::cache;
    use pgrx::prelude::*;

    const ITEM: &str = "11111111-1111-4111-8111-111111111111";

    fn attach(quantity: &str) {
        let sql = format!(
            "CREATE TABLE shop (id uuid PRIMARY KEY, quantity numeric(12,2));
             INSERT INTO shop VALUES ('{ITEM}', {quantity});
             SELECT attach_inventory('shop')"
        );
        Spi::run(&sql).expect("attached");
    }

    fn text(sql: &str) -> Option<String> {
        Spi::get_one(sql).expect("one text")
    }

    /// Runs a statement in a subtransaction; returns the SQLSTATE it failed with, or 00000.
    fn sqlstate(sql: &str) -> String {
        Spi::run(
            "CREATE OR REPLACE FUNCTION tried(what text) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN EXECUTE what; RETURN '00000'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$",
        )
        .expect("defined");
        text(&format!("SELECT tried($try${sql}$try$)")).expect("a SQLSTATE")
    }

    #[pg_test]
    fn the_answer_has_every_digit() {
        attach("11.52");
        let answer = text(&format!("SELECT decrement_inventory('{ITEM}', 1)::text"));
        let rest = r#""deducted": 1}"#;
        let expected = format!(
            r#"{{"success": true, "inventory_id": "{ITEM}", "old_quantity": 11.52, "new_quantity": 10.52, {rest}"#
        );
        assert_eq!(answer.as_deref(), Some(expected.as_str()));
    }

    #[pg_test]
    fn the_cached_attachment_is_one_until_the_table_changes() {
        attach("1");
        let (first, second) = (cache::current().unwrap(), cache::current().unwrap());
        assert!(std::rc::Rc::ptr_eq(&first, &second));
        Spi::run("ALTER TABLE shop RENAME COLUMN quantity TO on_hand").expect("renamed");
        let renamed = cache::current().unwrap();
        assert!(!std::rc::Rc::ptr_eq(&first, &renamed));
        assert_eq!((first.names.quantity.as_str(), renamed.names.quantity.as_str()), ("quantity", "on_hand"));
    }

    #[pg_test]
    fn a_new_foreign_key_is_noticed() {
        attach("1");
        assert!(!cache::current().unwrap().referenced);
        Spi::run("CREATE TABLE order_line (item uuid REFERENCES shop)").expect("created");
        assert!(cache::current().unwrap().referenced);
        Spi::run("DROP TABLE order_line").expect("dropped");
        assert!(!cache::current().unwrap().referenced);
    }

    #[pg_test]
    fn the_path_is_pinned_whatever_the_table_has() {
        attach("1");
        assert_eq!(cache::current().unwrap().search_path.as_c_str(), c"public, pg_temp");
        Spi::run("SET search_path = pg_catalog").expect("set");
        {
            let stock = cache::current().unwrap();
            let acting = stock.act(Intent::Change);
            assert!(acting.is_ok());
            assert_eq!(text("SHOW search_path").as_deref(), Some("public, pg_temp"));
        }
        assert_eq!(text("SHOW search_path").as_deref(), Some("pg_catalog"));
    }

    #[pg_test]
    fn role_and_path_come_back_after_success_and_after_an_error() {
        Spi::run("CREATE ROLE keeper; SET search_path = public, pg_catalog").expect("made");
        let keeper: pg_sys::Oid = Spi::get_one("SELECT 'keeper'::regrole::oid").expect("an oid").unwrap();
        let before = current_role();
        {
            let _acting = act_as(keeper, c"pg_catalog, pg_temp");
            assert_eq!(current_role(), keeper);
            assert_eq!(text("SHOW search_path").as_deref(), Some("pg_catalog, pg_temp"));
        }
        assert_eq!(current_role(), before);
        attach("1");
        assert_eq!(sqlstate(&format!("SELECT decrement_inventory('{ITEM}', 5)")), "IV001");
        assert_eq!(current_role(), before);
        assert_eq!(text("SHOW search_path").as_deref(), Some("public, pg_catalog"));
    }

    #[pg_test]
    fn refused_calls_keep_no_memory() {
        attach("1");
        let refuse = |calls: i32| {
            Spi::run(&format!(
                "DO $$ BEGIN FOR i IN 1..{calls} LOOP BEGIN PERFORM decrement_inventory('{ITEM}', 5);
                 EXCEPTION WHEN SQLSTATE 'IV001' THEN NULL; END; END LOOP; END $$"
            ))
            .expect("refused");
            // SAFETY: reads the counters of every context of the backend.
            unsafe { pg_sys::MemoryContextMemAllocated(pg_sys::TopMemoryContext, true) }
        };
        // The first calls fill caches, whose memory grows by a megabyte at a time.
        let before = refuse(10_000);
        let grown = refuse(10_000).saturating_sub(before);
        assert!(grown < 1 << 20, "{grown} bytes for 10,000 refused calls");
    }
}
