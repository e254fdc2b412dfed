//! The formats: sizes, codes, and where a code lies in its block.

use crate::gemm::LANES;

/// Inputs that share a scale.
pub(super) const GROUP: usize = 32;
/// Inputs of a block: two groups, so that their scales fill a line.
pub(super) const BLOCK: usize = 2 * GROUP;
/// Bytes of a line: a block's scales, or one step of codes plus 128.
pub(super) const LINE: usize = 64;
/// Inputs of a step.
pub(super) const STEP: usize = 4;
/// Steps of a group.
pub(super) const STEPS: usize = GROUP / STEP;
/// Bytes of a block whose codes are whole bytes.
pub(super) const WIDE: usize = LINE + BLOCK * LANES;
/// What is added to a code to make it an unsigned byte.
pub(super) const OFFSET: i32 = 128;

/// Values of Int4's codes. Fitted by Lloyd's iteration over groups of 32 with their best scales, three quarters of them
/// normal and one quarter Laplacian, then rounded. They lie closer around zero, where weights are dense. Zero is one of
/// them, so that padding is exact. The negative side reaches further: a scale may be negative, so the group's largest
/// weight decides which side is which.
pub(super) const BOOK: [i8; 16] = [-127, -97, -75, -58, -44, -31, -19, -9, 0, 10, 20, 32, 45, 60, 79, 104];
/// The code of zero.
pub(super) const ZERO: u8 = 8;
/// The same as unsigned bytes, as kernels look them up.
pub(super) const TABLE: [u8; 16] = {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (BOOK[i] as i32 + OFFSET) as u8;
        i += 1;
    }
    table
};

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantFormat {
    /// Whole numbers from -127 to 127, and a bf16 scale for 32 of a row: 8.5 bits per weight.
    Int8,
    /// Sixteen unevenly spaced values, and a bf16 scale for 32 of a row: 4.5 bits per weight.
    Int4,
}

impl QuantFormat {
    /// Bits per weight, scales included, where n is a multiple of 16 and k one of 64.
    pub const fn bits(self) -> f64 {
        (self.block_bytes() * 8) as f64 / (BLOCK * LANES) as f64
    }
    /// Bytes of a weight of `groups` matrices of `n` rows of `k`.
    pub const fn bytes(self, groups: usize, n: usize, k: usize) -> usize {
        groups * n.div_ceil(LANES) * k.div_ceil(BLOCK) * self.block_bytes()
    }
    /// Bytes of a block of a panel.
    pub(super) const fn block_bytes(self) -> usize {
        match self {
            Self::Int8 => WIDE,
            Self::Int4 => LINE + BLOCK * LANES / 2,
        }
    }

    /// The scale of a group (0 or 1) of a block for a lane.
    pub(super) fn scale(block: &[u8], group: usize, lane: usize) -> f32 {
        let at = 4 * lane + 2 * group;
        f32::from_bits(u32::from(u16::from_le_bytes([block[at], block[at + 1]])) << 16)
    }
    /// Code `i` of a block for a lane, without the 128.
    pub(super) fn code(self, block: &[u8], i: usize, lane: usize) -> i32 {
        let (step, byte) = (i / STEP, lane * STEP + i % STEP);
        match self {
            Self::Int8 => i32::from(block[LINE + step * LINE + byte]) - OFFSET,
            Self::Int4 => {
                let pair = block[LINE + step / 2 * LINE + byte];
                i32::from(BOOK[usize::from(if step.is_multiple_of(2) { pair & 15 } else { pair >> 4 })])
            }
        }
    }
}
