//! Facts on which it depends whether a table can be written without the executor, from PostgreSQL's caches.

use crate::core::obstacle::Obstacle;
use crate::pg::encoding;
use pgrx::pg_sys::{self, NodeTag, Oid};
use std::ffi::CStr;

/// The functions of PostgreSQL's foreign keys.
const FOREIGN_KEY_TRIGGERS: std::ops::RangeInclusive<u32> =
    pg_sys::F_RI_FKEY_CHECK_INS..=pg_sys::F_RI_FKEY_NOACTION_UPD;

/// The expressions of the ledger's columns: the functions that they call, and the columns that they are given.
const LEDGER_EXPRESSIONS: [(&str, u32, &[&str]); 3] = [
    ("delta", pg_sys::F_NUMERIC_SUB, &["new_quantity", "old_quantity"]),
    ("xact_id", pg_sys::F_PG_CURRENT_XACT_ID, &[]),
    ("occurred_at", pg_sys::F_CLOCK_TIMESTAMP, &[]),
];

/// The columns of the ledger that may be NULL.
const LEDGER_NULLABLE: [&str; 3] = ["stripe", "reference", "idempotency_key"];

/// The columns of a stock table that matter.
pub struct StockColumns<'a> {
    /// The number of the id column.
    pub id: i16,
    /// The number of the quantity column.
    pub quantity: i16,
    /// The CHECK of ours, which names both.
    pub check: &'a str,
}

/// What a change of a row must heed.
pub struct RowFacts {
    /// The table has foreign keys to others.
    pub references: bool,
}

/// Reads a stock table that is locked; `is_ours` knows our triggers by name and function.
pub fn of_stock(
    table: Oid,
    columns: &StockColumns<'_>,
    is_ours: impl Fn(&str, Oid, i16) -> bool,
) -> Result<RowFacts, Obstacle> {
    with_open(table, |relation| {
        // SAFETY: the relation is open, and what it points to with it.
        unsafe {
            require_plain(relation)?;
            require_triggers(relation, is_ours)?;
            require_checks(relation, columns)?;
            let references = foreign_keys(relation, columns.quantity)?;
            require_indexes(relation, columns.quantity)?;
            require_valid_not_null(relation)?;
            Ok(RowFacts { references })
        }
    })
}

/// Reads the table of stripes, whose CHECKs are ours; the quantity column has this number.
pub fn of_stripes(table: Oid, quantity: i16, is_ours: impl Fn(&str, Oid, i16) -> bool) -> Result<(), Obstacle> {
    with_open(table, |relation| {
        // SAFETY: as above.
        unsafe {
            require_plain(relation)?;
            require_triggers(relation, is_ours)?;
            require_checks(relation, &StockColumns { id: 0, quantity, check: "" })?;
            require_valid_not_null(relation)?;
            require_indexes(relation, quantity)?;
            if foreign_keys(relation, quantity)? { Err(Obstacle::ForeignKey) } else { Ok(()) }
        }
    })
}

/// Reads the ledger: no trigger but ours, no CHECK, no foreign key, and the columns and expressions that it was made
/// with.
pub fn of_ledger(table: Oid, columns: usize, is_ours: impl Fn(&str, Oid, i16) -> bool) -> Result<(), Obstacle> {
    with_open(table, |relation| {
        // SAFETY: as above.
        unsafe {
            require_plain_of_any(relation)?;
            require_triggers(relation, is_ours)?;
            require_indexes(relation, 0)?;
            let descriptor = pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att);
            let live = descriptor.iter().filter(|column| !column.attisdropped).count();
            let nullable = |column: &pg_sys::FormData_pg_attribute| {
                let name = encoding::from_c(CStr::from_ptr(column.attname.data.as_ptr()));
                LEDGER_NULLABLE.contains(&name.as_str())
            };
            if descriptor.iter().any(|column| column.attnotnull && nullable(column)) {
                return Err(Obstacle::Ledger);
            }
            if live != columns || !pg_sys::RelationGetFKeyList(relation).is_null() {
                return Err(Obstacle::Ledger);
            }
            let constraints = (*(*relation).rd_att).constr;
            if constraints.is_null() {
                return Err(Obstacle::Ledger);
            }
            let expressions = slice((*constraints).defval, (*constraints).num_defval.into());
            let name_of = |number: i16| {
                let column = usize::try_from(number - 1).ok().and_then(|place| descriptor.get(place));
                column.map(|column| encoding::from_c(CStr::from_ptr(column.attname.data.as_ptr())))
            };
            let known = |expression: &pg_sys::AttrDefault| {
                let (function, operands) = call(parsed(expression.adbin));
                let operands: Option<Vec<_>> = operands.into_iter().map(name_of).collect();
                name_of(expression.adnum).zip(operands).is_some_and(|(name, operands)| {
                    LEDGER_EXPRESSIONS.contains(&(
                        name.as_str(),
                        function,
                        &operands.iter().map(String::as_str).collect::<Vec<_>>(),
                    ))
                })
            };
            let plain = (*constraints).num_check == 0
                && expressions.len() == LEDGER_EXPRESSIONS.len()
                && expressions.iter().all(known);
            if plain { Ok(()) } else { Err(Obstacle::Ledger) }
        }
    })
}

fn with_open<T>(table: Oid, read: impl FnOnce(pg_sys::Relation) -> Result<T, Obstacle>) -> Result<T, Obstacle> {
    let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    // SAFETY: the table is locked by the caller, so it is there; it is closed again.
    unsafe {
        let relation = pg_sys::table_open(table, no_lock);
        let result = read(relation);
        pg_sys::relation_close(relation, no_lock);
        result
    }
}

unsafe fn slice<'a, T>(first: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller names an array of so many elements that outlives the result.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(first, count) } }
}

unsafe fn elements<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    // SAFETY: a list of pointers, or none.
    unsafe {
        let count = if list.is_null() { 0 } else { (*list).length };
        (0..count).map(|place| pg_sys::list_nth(list, place).cast()).collect()
    }
}

unsafe fn require_plain_of_any(relation: pg_sys::Relation) -> Result<(), Obstacle> {
    // SAFETY: the relation is open.
    unsafe {
        let class = &*(*relation).rd_rel;
        if class.relkind as u8 != pg_sys::RELKIND_RELATION
            || class.relispartition
            || pg_sys::has_superclass((*relation).rd_id)
        {
            return Err(Obstacle::Partitioned);
        }
        if class.relam != pg_sys::HEAP_TABLE_AM_OID {
            return Err(Obstacle::NoHeap);
        }
        if !(*relation).rd_rules.is_null() { Err(Obstacle::Rule) } else { Ok(()) }
    }
}

unsafe fn require_plain(relation: pg_sys::Relation) -> Result<(), Obstacle> {
    // SAFETY: the relation is open.
    unsafe {
        require_plain_of_any(relation)?;
        let constraints = (*(*relation).rd_att).constr;
        let mut generated = !constraints.is_null() && (*constraints).has_generated_stored;
        #[cfg(feature = "pg18")]
        {
            // A constraint may name it, and hold for the quantity so.
            generated |= !constraints.is_null() && (*constraints).has_generated_virtual;
        }
        if generated { Err(Obstacle::Generated) } else { Ok(()) }
    }
}

/// Triggers of foreign keys look at the key alone, but where the row is new: see `Heap::is_new`.
unsafe fn require_triggers(
    relation: pg_sys::Relation,
    is_ours: impl Fn(&str, Oid, i16) -> bool,
) -> Result<(), Obstacle> {
    // SAFETY: the relation is open; its list of triggers has as many as it says. It is copied before anything is looked
    // up: that may read messages, on which PostgreSQL builds the list anew.
    let triggers: Vec<_> = unsafe {
        let list = (*relation).trigdesc;
        if list.is_null() {
            return Ok(());
        }
        let copy = |trigger: &pg_sys::Trigger| {
            let of_foreign_key = trigger.tgisinternal && FOREIGN_KEY_TRIGGERS.contains(&trigger.tgfoid.to_u32());
            let is_plain = trigger.tgqual.is_null() && trigger.tgnattr == 0;
            let name = encoding::from_c(CStr::from_ptr(trigger.tgname));
            (of_foreign_key, is_plain, name, trigger.tgfoid, trigger.tgtype)
        };
        slice((*list).triggers, (*list).numtriggers as usize).iter().map(copy).collect()
    };
    let is_harmless = |(of_foreign_key, is_plain, name, function, bits): &(bool, bool, String, Oid, i16)| {
        *of_foreign_key || (*is_plain && is_ours(name, *function, *bits))
    };
    if triggers.iter().all(is_harmless) { Ok(()) } else { Err(Obstacle::Trigger) }
}

/// A CHECK of other columns holds for the row as it is, and goes on to hold.
unsafe fn require_checks(relation: pg_sys::Relation, columns: &StockColumns<'_>) -> Result<(), Obstacle> {
    // SAFETY: the relation is open; its constraints are as many as it says, and their expressions are parsed into the
    // current memory context.
    unsafe {
        let constraints = (*(*relation).rd_att).constr;
        if constraints.is_null() {
            return Err(Obstacle::Check);
        }
        let mut has_ours = false;
        for check in slice((*constraints).check, (*constraints).num_check.into()) {
            let expression = parsed(check.ccbin);
            let named = columns.check.is_empty() || encoding::from_c(CStr::from_ptr(check.ccname)) == columns.check;
            if named && is_our_check(expression, columns) {
                has_ours = true;
                continue;
            }
            let mut named = std::ptr::null_mut();
            pg_sys::pull_varattnos(expression, 1, &raw mut named);
            let names = |column: i32| pg_sys::bms_is_member(column - pg_sys::FirstLowInvalidHeapAttributeNumber, named);
            let touches = names(columns.quantity.into()) || names(0);
            let runs_code = names_objects_of_users(&CStr::from_ptr(check.ccbin).to_string_lossy());
            if touches || !check.ccvalid || runs_code || pg_sys::contain_mutable_functions(expression) {
                return Err(Obstacle::Check);
            }
        }
        if has_ours { Ok(()) } else { Err(Obstacle::Check) }
    }
}

/// Whether the stored form of an expression names a function, an operator or a type that is not PostgreSQL's own, or
/// casts to a domain, which has conditions of its own.
fn names_objects_of_users(expression: &str) -> bool {
    let fields = expression.split(':').skip(1).filter_map(|field| field.split_once(' '));
    let is_object = |(name, rest): (&str, &str)| {
        let number = rest.split([' ', ')', '}']).next().and_then(|number| number.parse::<u32>().ok());
        let names =
            name.ends_with("type") || name.ends_with("typeid") || ["funcid", "opfuncid", "opno"].contains(&name);
        names && number.is_some_and(|number| number >= pg_sys::FirstNormalObjectId)
    };
    expression.contains("{COERCETODOMAIN") || fields.into_iter().any(is_object)
}

unsafe fn parsed(text: *const std::ffi::c_char) -> *mut pg_sys::Node {
    // SAFETY: the text is of the catalog.
    unsafe { pg_sys::stringToNode(text).cast() }
}

unsafe fn tag(node: *mut pg_sys::Node) -> NodeTag {
    // SAFETY: every node begins with its tag.
    unsafe { (*node).type_ }
}

/// Whether an expression is `id IS NOT NULL AND quantity >= 0`, with `AND quantity < 'Infinity'` for numeric; without
/// the id, where it has no number.
unsafe fn is_our_check(expression: *mut pg_sys::Node, columns: &StockColumns<'_>) -> bool {
    // SAFETY: a node is read as the type that its tag names.
    unsafe {
        if tag(expression) != NodeTag::T_BoolExpr {
            return false;
        }
        let all = &*expression.cast::<pg_sys::BoolExpr>();
        let parts = elements::<pg_sys::Node>(all.args);
        let bounds = match parts.as_slice() {
            [present, bounds @ ..] if columns.id > 0 && is_not_null(*present, columns.id) => bounds,
            bounds if columns.id == 0 => bounds,
            _ => return false,
        };
        let [least, rest @ ..] = bounds else { return false };
        all.boolop == pg_sys::BoolExprType::AND_EXPR
            && compares(*least, columns.quantity, &LEAST, "0")
            && match rest {
                [] => !compares(*least, columns.quantity, &[pg_sys::F_NUMERIC_GE], "0"),
                [most] => compares(*most, columns.quantity, &[pg_sys::F_NUMERIC_LT], "Infinity"),
                _ => false,
            }
    }
}

/// `>=` of the types that a quantity has; the constant of a whole number is an integer.
const LEAST: [u32; 4] = [pg_sys::F_INT24GE, pg_sys::F_INT4GE, pg_sys::F_INT84GE, pg_sys::F_NUMERIC_GE];

unsafe fn is_not_null(node: *mut pg_sys::Node, column: i16) -> bool {
    // SAFETY: as above.
    unsafe {
        if tag(node) != NodeTag::T_NullTest {
            return false;
        }
        let test = &*node.cast::<pg_sys::NullTest>();
        test.nulltesttype == pg_sys::NullTestType::IS_NOT_NULL && is_column(test.arg.cast(), column)
    }
}

unsafe fn is_column(node: *mut pg_sys::Node, column: i16) -> bool {
    // SAFETY: as above.
    unsafe { tag(node) == NodeTag::T_Var && (*node.cast::<pg_sys::Var>()).varattno == column }
}

unsafe fn compares(node: *mut pg_sys::Node, column: i16, functions: &[u32], constant: &str) -> bool {
    // SAFETY: as above.
    unsafe {
        if tag(node) != NodeTag::T_OpExpr {
            return false;
        }
        let operation = &*node.cast::<pg_sys::OpExpr>();
        // The catalog has the operator; its function is looked up.
        let function = pg_sys::get_opcode(operation.opno).to_u32();
        let arguments = elements::<pg_sys::Node>(operation.args);
        let [left, right] = arguments.as_slice() else { return false };
        functions.contains(&function) && is_column(*left, column) && is_constant(*right, constant)
    }
}

/// A constant, also one that a dump has written as a cast of a whole number.
unsafe fn is_constant(node: *mut pg_sys::Node, text: &str) -> bool {
    // SAFETY: as above; a numeric is printed into the current memory context.
    unsafe {
        match tag(node) {
            NodeTag::T_Const => {
                let constant = &*node.cast::<pg_sys::Const>();
                match constant.consttype {
                    _ if constant.constisnull => false,
                    pg_sys::INT4OID => (constant.constvalue.value() as i32).to_string() == text,
                    pg_sys::NUMERICOID => {
                        let printed =
                            pg_sys::OidOutputFunctionCall(Oid::from(pg_sys::F_NUMERIC_OUT), constant.constvalue);
                        CStr::from_ptr(printed).to_bytes() == text.as_bytes()
                    }
                    _ => false,
                }
            }
            NodeTag::T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                let arguments = elements::<pg_sys::Node>(call.args);
                call.funcid.to_u32() == pg_sys::F_NUMERIC_INT4
                    && matches!(arguments.as_slice(), [argument] if is_constant(*argument, text))
            }
            _ => false,
        }
    }
}

/// The function that an expression calls, or whose operator it is, and the numbers of the columns that it is given; 0
/// stands for any other expression.
unsafe fn call(node: *mut pg_sys::Node) -> (u32, Vec<i16>) {
    // SAFETY: as above.
    unsafe {
        let (function, arguments) = match tag(node) {
            NodeTag::T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                (call.funcid, call.args)
            }
            NodeTag::T_OpExpr => {
                let operation = &*node.cast::<pg_sys::OpExpr>();
                (pg_sys::get_opcode(operation.opno), operation.args)
            }
            _ => return (0, Vec::new()),
        };
        let column = |node: *mut pg_sys::Node| match tag(node) {
            NodeTag::T_Var => (*node.cast::<pg_sys::Var>()).varattno,
            _ => 0,
        };
        (function.to_u32(), elements(arguments).into_iter().map(column).collect())
    }
}

/// Whether the table refers to others; one that does so by the quantity is refused.
unsafe fn foreign_keys(relation: pg_sys::Relation, quantity: i16) -> Result<bool, Obstacle> {
    // SAFETY: the relation is open; the list is of its cache, and copied before anything is looked up.
    let keys: Vec<(Oid, Vec<i16>)> = unsafe {
        let keys = elements::<pg_sys::ForeignKeyCacheInfo>(pg_sys::RelationGetFKeyList(relation));
        let copy = |key: *mut pg_sys::ForeignKeyCacheInfo| {
            ((*key).conoid, (*key).conkey.iter().take((*key).nkeys as usize).copied().collect())
        };
        keys.into_iter().map(copy).collect()
    };
    // A row that refers in part is refused by MATCH FULL at every update.
    let is_obstacle =
        |(key, columns): &(Oid, Vec<i16>)| columns.contains(&quantity) || (columns.len() > 1 && is_match_full(*key));
    if keys.iter().any(is_obstacle) { Err(Obstacle::ForeignKey) } else { Ok(!keys.is_empty()) }
}

fn is_match_full(constraint: Oid) -> bool {
    let cache = pg_sys::SysCacheIdentifier::CONSTROID as i32;
    // SAFETY: looks a constraint up, reads its row and releases it.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, constraint.into());
        if row.is_null() {
            return true;
        }
        let form = &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_constraint>(row);
        let found = form.confmatchtype as u8 == pg_sys::FKCONSTR_MATCH_FULL;
        pg_sys::ReleaseSysCache(row);
        found
    }
}

/// Also indexes that are being built: they are to be written from a moment on that no message announces before.
///
/// Read from the catalog's row: what PostgreSQL builds from it calls functions of the owner, to simplify a predicate.
unsafe fn require_indexes(relation: pg_sys::Relation, quantity: i16) -> Result<(), Obstacle> {
    // SAFETY: the relation is open; its indexes are opened and closed with a weak lock, and the row of the catalog is
    // kept with an open index.
    unsafe {
        let list = pg_sys::RelationGetIndexList(relation);
        let count = if list.is_null() { 0 } else { (*list).length };
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let plain = |place| {
            let index = pg_sys::index_open(pg_sys::list_nth_oid(list, place), mode);
            let row = (*index).rd_indextuple;
            let is_null = |column: u32| pg_sys::heap_attisnull(row, column as i32, std::ptr::null_mut());
            let form = &*(*index).rd_index;
            // Included columns, too.
            let columns = slice(form.indkey.values.as_ptr(), form.indnatts as usize);
            let plain = is_null(pg_sys::Anum_pg_index_indexprs)
                && is_null(pg_sys::Anum_pg_index_indpred)
                && !form.indisexclusion
                && (!form.indisunique || form.indimmediate)
                && columns.iter().all(|column| *column > 0 && *column != quantity)
                && runs_own_code_alone(relation, index);
            pg_sys::index_close(index, mode);
            plain
        };
        let all = (0..count).all(plain);
        pg_sys::list_free(list);
        if all { Ok(()) } else { Err(Obstacle::Index) }
    }
}

/// Whether an index calls nothing but PostgreSQL's own code: its access method, its operator families, and what they
/// call for the types of its columns. A range type of a user, say, has functions of the user.
unsafe fn runs_own_code_alone(relation: pg_sys::Relation, index: pg_sys::Relation) -> bool {
    let is_own = |oid: Oid| oid.to_u32() < pg_sys::FirstNormalObjectId;
    // SAFETY: both are open; an index has a family for each key, and its columns are columns of the table.
    unsafe {
        let form = &*(*index).rd_index;
        let keys = form.indnkeyatts as usize;
        let columns = slice(form.indkey.values.as_ptr(), keys);
        let descriptor = pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att);
        let is_own_type = |column: &i16| {
            let column = usize::try_from(*column - 1).ok().and_then(|place| descriptor.get(place));
            column.is_some_and(|column| {
                let base = pg_sys::getBaseType(column.atttypid);
                is_own(base) || pg_sys::type_is_enum(base)
            })
        };
        is_own((*(*index).rd_rel).relam)
            && slice((*index).rd_opfamily, keys).iter().copied().all(is_own)
            && columns.iter().all(is_own_type)
    }
}

/// Old rows may hold NULL where a column is declared NOT NULL but has not been validated: PostgreSQL 18 has that.
unsafe fn require_valid_not_null(relation: pg_sys::Relation) -> Result<(), Obstacle> {
    #[cfg(feature = "pg18")]
    // SAFETY: the relation is open, and its descriptor has so many columns.
    unsafe {
        let descriptor = (*relation).rd_att;
        let columns = slice((*descriptor).compact_attrs.as_ptr(), (*descriptor).natts as usize);
        if columns.iter().any(|column| column.attnullability as u8 == pg_sys::ATTNULLABLE_INVALID) {
            return Err(Obstacle::Check);
        }
    }
    let _ = relation;
    Ok(())
}

/// The sequence of an identity column.
pub fn identity_sequence(table: Oid, column: i16) -> Option<Oid> {
    // SAFETY: looks a dependency up; the table is locked.
    let sequence = unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        let sequence = pg_sys::getIdentitySequence(table, column, true);
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        let sequence = {
            let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
            let relation = pg_sys::table_open(table, no_lock);
            let sequence = pg_sys::getIdentitySequence(relation, column, true);
            pg_sys::relation_close(relation, no_lock);
            sequence
        };
        sequence
    };
    (sequence != pg_sys::InvalidOid).then_some(sequence)
}
