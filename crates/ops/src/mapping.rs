//! Files that are mapped into memory. Their pages are read-only and not copied, and several processes share them.
//!
//! Only files that appear whole and are not changed afterwards may be mapped. If such a file is cut short while it is
//! mapped, the system ends the process at the first missing page, as it does for a program's own file.

use crate::Threads;
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// The number of the layout of packed weights: panels, codes, scales, code books. It is stored with packed weights in
/// files. It must change when their bytes change. Then `layout_tests.rs` must change as well.
pub const LAYOUT: u32 = 1;

/// Bytes that one task brings into memory at a time.
const PIECE: usize = 32 << 20;
/// Bytes from one page that is asked about to the next.
#[cfg(target_os = "linux")]
const SAMPLED: usize = 1 << 20;

/// A file that is mapped into memory. Tensors may lie in it ([`crate::Tensor::mapped`]).
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps a whole file. Nothing is read yet.
    ///
    /// # Errors
    /// Those of the system.
    pub fn of(file: &File) -> io::Result<Arc<Self>> {
        // SAFETY: the mapping is private and read-only. Whoever maps a file promises that nobody changes it (see the
        // module's header). No value that is read from it is trusted: all bits are valid elements.
        Ok(Arc::new(Self(unsafe { Mmap::map(file)? })))
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether nearly all of the file is in the system's memory already, as far as a sample of its pages tells.
    pub fn is_resident(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            let there = |start: usize| {
                let mut page = 0u8;
                let at = self.0[start..].as_ptr().cast_mut().cast();
                // SAFETY: the address is that of a page of the mapping, and one byte tells about one page.
                unsafe { libc::mincore(at, 1, &raw mut page) == 0 && page & 1 == 1 }
            };
            let all = self.0.len().div_ceil(SAMPLED);
            let found = (0..all).filter(|i| there(i * SAMPLED)).count();
            found >= all - all / 100
        }
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Prepares the file for being read: the system begins to read what is not in memory yet. If all of it fits into
    /// memory, this waits until it is there, so that the first product does not wait for its pages one by one. If the
    /// system refuses any of this, pages come when they are first read.
    pub fn prepare(&self, threads: &Threads) {
        #[cfg(target_os = "linux")]
        if available().is_some_and(|bytes| bytes > self.0.len() as u64) {
            drop(self.0.advise(Advice::WillNeed));
            threads.each(self.0.len().div_ceil(PIECE), |i| {
                let start = i * PIECE;
                drop(self.0.advise_range(Advice::PopulateRead, start, PIECE.min(self.0.len() - start)));
            });
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (threads, PIECE);
    }
}

/// Bytes that the system can provide without moving anything to disk. Pages of files count, because they can be
/// dropped.
#[cfg(target_os = "linux")]
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Tensor};
    use std::io::Write;

    fn mapped(bytes: &[u8]) -> Arc<Mapping> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Mapping::of(&file).unwrap()
    }

    #[test]
    fn a_tensor_reads_the_file() {
        let values: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let map = mapped(&bytes);
        map.prepare(&Threads::new(2));
        assert!(!cfg!(target_os = "linux") || map.is_resident());
        let t = Tensor::mapped(&map, 64, &[2, 12], DType::F32);
        drop(map);
        assert_eq!(t.f32(), &values[16..40]);
        assert_eq!((t.bytes(), t.rows()), (96, 2));
    }

    #[test]
    #[should_panic(expected = "is in a file and cannot be written")]
    fn a_mapped_tensor_cannot_be_written() {
        Tensor::mapped(&mapped(&[0; 64]), 0, &[16], DType::F32).f32_mut();
    }

    #[test]
    #[should_panic(expected = "a file of 64 bytes")]
    fn a_tensor_lies_inside_its_file() {
        Tensor::mapped(&mapped(&[0; 64]), 0, &[17], DType::F32);
    }
}
