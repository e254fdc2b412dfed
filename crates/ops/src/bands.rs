//! Weights that stream in: rows are read in bands by several threads, each into a buffer that stays in its cache.

use crate::gemm::LANES;
use crate::{Cx, DType, Tensor};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the rows that one task reads at a time.
const BAND: usize = 256 << 10;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the rows of `groups` matrices of `n` rows of `k`. `read` gives a band, from a row on that is counted over all
/// groups, as a tensor `[rows, k]` in the format `source`. `put(group, row, values)` takes it; `row` is a multiple of the
/// lanes of a panel. A band belongs to one task.
///
/// # Errors
/// The first error of `read` ends the loop and is returned.
pub(crate) fn read_bands<E: Send>(
    cx: &Cx,
    (groups, n, k): (usize, usize, usize),
    source: DType,
    read: &(dyn Fn(usize, &mut Tensor) -> Result<(), E> + Sync),
    put: impl Fn(usize, usize, &Tensor) + Sync,
) -> Result<(), E> {
    if groups * n * k == 0 {
        return Ok(());
    }
    let band = (BAND / (k * source.size())).next_multiple_of(LANES).clamp(LANES, n.next_multiple_of(LANES));
    let bands = n.div_ceil(band);
    let buffers = cx.threads().count().min(groups * bands);
    let buffers = Mutex::new((0..buffers).map(|_| cx.empty(&[band, k], source)).collect::<Vec<_>>());
    cx.threads().try_each(groups * bands, |task| {
        let (group, row) = (task / bands, task % bands * band);
        let mut values = lock(&buffers).pop().expect("a buffer for each thread");
        values.resize(&[band.min(n - row), k]);
        let done = read(group * n + row, &mut values);
        if done.is_ok() {
            put(group, row, &values);
        }
        lock(&buffers).push(values);
        done
    })
}
