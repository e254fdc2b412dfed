//! Panels of E4M3 codes with scales, as panels of the bf16 numbers that they stand for.
//!
//! A weight is `bf16(code * scale)`: the product is rounded to f32 and then to bf16, both to nearest even. These are
//! the bits of a checkpoint's weight that is dequantised when it is read.

use super::codec::{Codec, FourThree};
use super::grid::{has_tables, look_up};
use crate::Isa;
use crate::gemm::{LANES, SCALED};
use crate::kernel::{Pointwise, dispatch};
use crate::math::bf16_bits;

/// Codes of a step.
const STEP: usize = 2 * LANES;

/// Widens panels. The lanes of a panel nearly always share a scale. Then the weights of all codes are computed once,
/// and looked up.
pub(crate) struct Widener {
    isa: Isa,
    /// The scale of the table. NaN before the first one.
    scale: f32,
    table: Table,
}

/// The two bytes of the weight of each code without its sign.
pub(super) struct Table {
    pub(super) low: [u8; 128],
    pub(super) high: [u8; 128],
}

impl Widener {
    pub(crate) fn new(isa: Isa) -> Self {
        Self { isa, scale: f32::NAN, table: Table { low: [0; 128], high: [0; 128] } }
    }

    /// Widens steps of a panel, at most the 128 elements of the contraction that share scales. There is one scale for
    /// each lane.
    ///
    /// # Safety
    /// Codes and result must be valid for the steps, the scales for the lanes.
    pub(crate) unsafe fn panel(&mut self, codes: *const u8, steps: usize, scales: *const f32, to: *mut u16) {
        debug_assert!(steps <= SCALED);
        // SAFETY: the caller's promise.
        let scales = unsafe { &*scales.cast::<[f32; LANES]>() };
        let one = scales.iter().all(|s| s.to_bits() == scales[0].to_bits());
        if one && has_tables(self.isa) {
            if self.scale.to_bits() != scales[0].to_bits() {
                self.scale = scales[0];
                dispatch(self.isa, Fill { scale: self.scale, table: &mut self.table });
            }
            // SAFETY: the caller's promise.
            unsafe { look_up(&self.table, codes, steps * STEP, to) };
            return;
        }
        // SAFETY: the caller's promise.
        let (codes, to) = unsafe {
            (std::slice::from_raw_parts(codes, steps * STEP), std::slice::from_raw_parts_mut(to, steps * STEP))
        };
        dispatch(self.isa, Multiply { codes, scales, to });
    }
}

/// The weights of all codes.
struct Fill<'a> {
    scale: f32,
    table: &'a mut Table,
}

impl Pointwise for Fill<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Table { low, high } = self.table;
        for code in 0..128 {
            let bits = bf16_bits(FourThree::value(code as u32) * self.scale);
            (low[code], high[code]) = (bits as u8, (bits >> 8) as u8);
        }
    }
}

/// Weights of lanes with scales of their own.
struct Multiply<'a> {
    codes: &'a [u8],
    scales: &'a [f32; LANES],
    to: &'a mut [u16],
}

impl Pointwise for Multiply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let pairs: [f32; STEP] = std::array::from_fn(|i| self.scales[i / 2]);
        for (codes, to) in self.codes.as_chunks::<STEP>().0.iter().zip(self.to.as_chunks_mut::<STEP>().0) {
            for i in 0..STEP {
                to[i] = bf16_bits(FourThree::value(u32::from(codes[i])) * pairs[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::E4M3;
    use super::*;
    use half::bf16;

    /// Every code with scales from end to end of f32, shared by the lanes or not, is the definition's weight.
    #[test]
    fn every_code_and_scale_is_the_definition() {
        let codes: Vec<u8> = (0..8 * STEP).map(|i| i as u8).collect();
        let scales = [1.0, 0.3, 1.0 / 448.0, 3e-5, f32::MIN_POSITIVE, 1e-41, 7.5e35, 2e38, f32::INFINITY];
        for isa in Isa::available() {
            let mut widener = Widener::new(isa);
            for (first, second) in scales.iter().flat_map(|a| [(*a, *a), (*a, 0.7)]) {
                let lanes: [f32; LANES] = std::array::from_fn(|lane| if lane < 5 { first } else { second });
                let mut to = vec![0; codes.len()];
                // SAFETY: eight steps and sixteen scales.
                unsafe { widener.panel(codes.as_ptr(), 8, lanes.as_ptr(), to.as_mut_ptr()) };
                for (i, (code, got)) in codes.iter().zip(to).enumerate() {
                    let want = bf16::from_f32(E4M3.decode(u16::from(*code)) * lanes[i % STEP / 2]);
                    let got = bf16::from_bits(got);
                    let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    assert!(same, "{isa:?}: code {code:#x}, scales {first} and {second}: {got}, not {want}");
                }
            }
        }
    }
}
