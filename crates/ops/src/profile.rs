//! Measures where the time goes: a fixed table of named scopes, used only if a context asks for it. Measuring allocates
//! nothing.
//!
//! Operations open a scope when they are called. A scope inside another has its own row under the outer scope's name.
//! The outer row counts only the time outside its inner scopes, so all rows add up to the total.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rows of the table. Further scopes are not recorded.
const ROWS: usize = 128;
/// Largest number of nested open scopes. Deeper ones count for the scope around them.
const DEPTH: usize = 4;

/// The totals of one scope.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProfileRow {
    /// Name of the scope around it. Empty if there is none.
    pub outer: &'static str,
    /// Name of the scope.
    pub name: &'static str,
    /// Times it was entered.
    pub calls: u64,
    /// Time inside, without inner scopes.
    pub time: Duration,
    /// Floating-point operations of its matrix products, if known.
    pub flops: u64,
    /// Bytes of its operands, read and written once each, if known.
    pub bytes: u64,
}

#[derive(Default)]
struct Table {
    rows: Vec<ProfileRow>,
    /// Open scopes: the name, and the time of their inner scopes.
    open: [(&'static str, Duration); DEPTH],
    depth: usize,
}

/// The table, shared by clones of a context.
#[derive(Clone, Default)]
pub(crate) struct Profile(Arc<Mutex<Table>>);

impl Profile {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Table { rows: Vec::with_capacity(ROWS), ..Table::default() })))
    }
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn enter(&self, name: &'static str, flops: u64, bytes: u64) -> Scope<'_> {
        let mut table = self.table();
        let depth = table.depth;
        table.depth += 1;
        if let Some(open) = table.open.get_mut(depth) {
            *open = (name, Duration::ZERO);
        }
        Scope { profile: self, name, flops, bytes, start: Instant::now() }
    }
    pub(crate) fn clear(&self) {
        self.table().rows.clear();
    }
    pub(crate) fn rows(&self) -> Vec<ProfileRow> {
        self.table().rows.clone()
    }
}

/// An open scope. It ends when it is dropped. The thread that calls the operations opens scopes, not its workers.
pub struct Scope<'a> {
    profile: &'a Profile,
    name: &'static str,
    flops: u64,
    bytes: u64,
    start: Instant,
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let whole = self.start.elapsed();
        let mut table = self.profile.table();
        table.depth -= 1;
        let depth = table.depth;
        if depth >= DEPTH {
            return;
        }
        let own = whole.saturating_sub(table.open[depth].1);
        let outer = depth.checked_sub(1).map_or("", |d| {
            table.open[d].1 += whole;
            table.open[d].0
        });
        let at = table.rows.iter().position(|r| r.name == self.name && r.outer == outer).unwrap_or(table.rows.len());
        if at == table.rows.len() {
            if at == ROWS {
                return;
            }
            table.rows.push(ProfileRow { outer, name: self.name, ..ProfileRow::default() });
        }
        let row = &mut table.rows[at];
        row.calls += 1;
        row.time += own;
        row.flops += self.flops;
        row.bytes += self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use crate::{Cx, DType};

    #[test]
    fn rows_add_up_and_nothing_is_recorded_unless_asked() {
        let cx = Cx::cpu(1, DType::F32);
        assert!(cx.scope("off", 1, 1).is_none() && cx.profile().is_empty());
        let cx = cx.with_profile();
        for _ in 0..3 {
            let _outer = cx.scope("outer", 5, 7);
            let _inner = cx.scope("inner", 2, 3);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let rows = cx.profile();
        let row = |name: &str| *rows.iter().find(|r| r.name == name).unwrap();
        let (outer, inner) = (row("outer"), row("inner"));
        assert_eq!((outer.calls, outer.flops, outer.bytes, outer.outer), (3, 15, 21, ""));
        assert_eq!((inner.calls, inner.flops, inner.bytes, inner.outer), (3, 6, 9, "outer"));
        assert!(inner.time.as_millis() >= 6 && outer.time < inner.time);
        cx.clear_profile();
        assert!(cx.profile().is_empty());
    }
}
