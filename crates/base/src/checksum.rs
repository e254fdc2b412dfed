//! A checksum of bytes, to find damage. It does not protect against someone who wants to hide a change.

use crate::mix;

/// Bytes of a block.
const BLOCK: usize = 64;
/// An odd number, so that multiplying by it loses nothing.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The checksum of some bytes. A change of a single word always changes it. Other changes remain unnoticed with a
/// probability of about 2^-64. It never changes between versions of the program.
pub fn checksum(bytes: &[u8]) -> u64 {
    // Eight sums that do not wait for each other.
    let mut sums: [u64; BLOCK / 8] = std::array::from_fn(|i| mix(i as u64 + 1));
    let mut add = |block: &[u8; BLOCK]| {
        for (sum, word) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
            *sum = (*sum ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
        }
    };
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    blocks.iter().for_each(&mut add);
    let mut last = [0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    add(&last);
    sums.iter().fold(mix(bytes.len() as u64), |all, sum| mix(all ^ sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_the_length_count() {
        let bytes: Vec<u8> = (0..200).map(|i| i as u8).collect();
        let whole = checksum(&bytes);
        // This is the checksum in the files of earlier versions.
        assert_eq!(whole, 0xa34f_3256_83f7_cc5f, "{whole:#x}");
        for i in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[i / 8] ^= 1 << (i % 8);
            assert_ne!(checksum(&changed), whole, "bit {i}");
        }
        let all: std::collections::HashSet<u64> = (0..=bytes.len()).map(|n| checksum(&bytes[..n])).collect();
        assert_eq!(all.len(), bytes.len() + 1);
        assert_ne!(checksum(&[0; 3]), checksum(&[0; 4]));
        let mut swapped = bytes.clone();
        swapped.swap(0, 64);
        assert_ne!(checksum(&swapped), whole);
    }
}
