//! Measures the rate at which memory can be read. The speed of products of few rows is compared with it.

use crate::kernel::{Pointwise, dispatch};
use crate::{Cx, Tensor};
use std::hint::black_box;
use std::time::Instant;

/// About the largest number of bytes per task.
const PIECE: usize = 256 << 10;

/// A cache line.
type Line = [u8; 64];

/// Reads a piece from `S` places at a time, and prefetches lines.
struct Read<'a, const S: usize>(&'a [Line]);

impl<const S: usize> Pointwise for Read<'_, S> {
    type Out = Line;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> Line {
        let each = self.0.len() / S;
        let parts: [&[Line]; S] = std::array::from_fn(|s| &self.0[s * each..][..each]);
        let mut sums = [[0; 64]; S];
        for i in 0..each {
            for s in 0..S {
                crate::gemm::fetch(parts[s].as_ptr().wrapping_add(i + 16).cast(), 1);
                let line = &parts[s][i];
                for b in 0..64 {
                    sums[s][b] ^= line[b];
                }
            }
        }
        sums.into_iter().fold([0; 64], |a, b| std::array::from_fn(|i| a[i] ^ b[i]))
    }
}

/// Seconds that all threads together need to read memory. Each thread reads 1, 2, 4 or 8 sequences of addresses. The
/// memory should be larger than the caches, and not recently read.
///
/// # Panics
///
/// If the number of sequences is not one of these.
pub fn read_seconds(cx: &Cx, memory: &[u8], sequences: usize) -> f64 {
    let (lines, _) = memory.as_chunks::<64>();
    let lines: &[Line] = lines;
    let tasks = memory.len().div_ceil(PIECE).next_multiple_of(cx.threads().count());
    let each = lines.len() / tasks;
    let start = Instant::now();
    cx.threads().each(tasks, |i| {
        let part = &lines[i * each..][..each];
        black_box(match sequences {
            1 => dispatch(cx.isa(), Read::<1>(part)),
            2 => dispatch(cx.isa(), Read::<2>(part)),
            4 => dispatch(cx.isa(), Read::<4>(part)),
            8 => dispatch(cx.isa(), Read::<8>(part)),
            other => panic!("read_seconds: {other} sequences"),
        });
    });
    start.elapsed().as_secs_f64()
}

/// Most bytes that are read to find the rate.
const ENOUGH: usize = 1 << 29;

/// Bytes per second at which all threads together read these tensors, or the first half gigabyte of them: the best of 1,
/// 2, 4 and 8 sequences of addresses per thread, each measured `rounds` times.
pub fn read_rate(cx: &Cx, memory: &[&Tensor], rounds: usize) -> f64 {
    let parts = first(memory.iter().map(|tensor| tensor.as_bytes()), ENOUGH);
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let runs = (0..rounds).flat_map(|_| [1, 2, 4, 8]);
    let seconds = |sequences| parts.iter().map(|part| read_seconds(cx, part, sequences)).sum::<f64>();
    let best = runs.map(seconds).fold(f64::INFINITY, f64::min);
    bytes as f64 / best
}

/// The first `most` bytes of some arrays, without empty parts.
fn first<'a>(arrays: impl Iterator<Item = &'a [u8]>, most: usize) -> Vec<&'a [u8]> {
    let mut left = most;
    let parts = arrays.map(|bytes| {
        let part = &bytes[..bytes.len().min(left)];
        left -= part.len();
        part
    });
    parts.filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn a_rate_is_found_for_tensors_of_any_size() {
        let arrays = [&[1u8; 100][..], &[], &[2; 100], &[3; 7]];
        let lengths = |most| first(arrays.into_iter(), most).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!((lengths(100), lengths(150), lengths(1000)), (vec![100], vec![100, 50], vec![100, 100, 7]));
        let cx = Cx::cpu(2, DType::F32);
        let [some, empty] = [3000, 0].map(|n| cx.zeros(&[n], DType::F32));
        let rate = read_rate(&cx, &[&empty, &some, &empty], 1);
        assert!(rate.is_finite() && rate > 0.0, "{rate}");
    }
}
