//! `Cx`: where and how an operation runs. Every operation receives one.

use crate::kernel::Blocks;
use crate::profile::{Profile, ProfileRow, Scope};
use crate::{DType, DisjointMut, Isa, Pool, Tensor, Threads};
use std::convert::Infallible;

/// Device, memory pool, threads, instruction path and compute format. It is cheap to clone. Clones share pool and
/// threads.
#[derive(Clone)]
pub struct Cx {
    pool: Pool,
    threads: Threads,
    isa: Isa,
    compute: DType,
    profile: Option<Profile>,
}

impl Cx {
    /// A context on this machine's processor. `threads` 0 means all; `compute` is F32 or Bf16.
    pub fn cpu(threads: usize, compute: DType) -> Self {
        assert!(matches!(compute, DType::F32 | DType::Bf16), "cx: compute format must be floating point");
        Self { pool: Pool::new(), threads: Threads::new(threads), isa: Isa::detect(), compute, profile: None }
    }

    /// The same context with another instruction path. Tests force each path.
    pub fn with_isa(mut self, isa: Isa) -> Self {
        assert!(Isa::available().contains(&isa), "cx: this processor has no {}", isa.name());
        self.isa = isa;
        self
    }
    /// The same context with another compute format.
    pub fn with_compute(mut self, compute: DType) -> Self {
        self.compute = compute;
        self
    }

    /// The same context with a profile. Its operations and those of its clones are timed.
    pub fn with_profile(mut self) -> Self {
        self.profile = Some(Profile::new());
        self
    }
    /// Measures the time until the returned guard is dropped, if this context has a profile. `flops` and `bytes`
    /// describe the work (0 means unknown).
    pub fn scope(&self, name: &'static str, flops: u64, bytes: u64) -> Option<Scope<'_>> {
        self.profile.as_ref().map(|p| p.enter(name, flops, bytes))
    }
    /// The measurements since the last [`Cx::clear_profile`].
    pub fn profile(&self) -> Vec<ProfileRow> {
        self.profile.as_ref().map(Profile::rows).unwrap_or_default()
    }
    /// Empties the profile.
    pub fn clear_profile(&self) {
        if let Some(profile) = &self.profile {
            profile.clear();
        }
    }

    /// Format of activations and packed weights.
    pub fn compute(&self) -> DType {
        self.compute
    }
    /// The instruction path.
    pub fn isa(&self) -> Isa {
        self.isa
    }
    /// The thread pool.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }
    /// The memory pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A tensor with unspecified elements. Under debug assertions they are NaN or -1, so that a missing write is
    /// noticed.
    pub fn empty(&self, shape: &[usize], dtype: DType) -> Tensor {
        let mut t = Tensor::take(&self.pool, shape, dtype);
        if cfg!(debug_assertions) {
            match dtype {
                DType::F32 => t.f32_mut().fill(f32::NAN),
                DType::Bf16 => t.bf16_mut().fill(half::bf16::NAN),
                DType::I32 => t.i32_mut().fill(-1),
                DType::U8 => t.u8_mut().fill(0xff),
            }
        }
        t
    }
    /// A tensor of zeros.
    pub fn zeros(&self, shape: &[usize], dtype: DType) -> Tensor {
        let mut t = Tensor::take(&self.pool, shape, dtype);
        match dtype {
            DType::F32 => t.f32_mut().fill(0.0),
            DType::Bf16 => t.bf16_mut().fill(half::bf16::ZERO),
            DType::I32 => t.i32_mut().fill(0),
            DType::U8 => t.u8_mut().fill(0),
        }
        t
    }
    /// A long-lived tensor of zeros, in memory of exactly its size and outside of the pool.
    #[allow(clippy::unused_self, reason = "a device's memory will be the context's")]
    pub fn fixed(&self, shape: &[usize], dtype: DType) -> Tensor {
        Tensor::fixed(shape, dtype)
    }
    /// [`Cx::fixed`] for the arrays of a weight.
    pub fn room(&self) -> impl FnMut(&'static str, &[usize], DType) -> Result<Tensor, Infallible> {
        |_, shape, dtype| Ok(self.fixed(shape, dtype))
    }
    /// A tensor of the given f32 values, rounded to `dtype`.
    pub fn tensor(&self, shape: &[usize], values: &[f32], dtype: DType) -> Tensor {
        let mut t = Tensor::take(&self.pool, shape, dtype);
        assert_eq!(t.len(), values.len(), "tensor: {shape:?} from {} values", values.len());
        match dtype {
            DType::F32 => t.f32_mut().copy_from_slice(values),
            DType::Bf16 => t.bf16_mut().iter_mut().zip(values).for_each(|(d, s)| *d = half::bf16::from_f32(*s)),
            other => panic!("tensor: f32 values into {other:?}"),
        }
        t
    }
    /// A tensor of indices.
    pub fn indices(&self, shape: &[usize], values: &[i32]) -> Tensor {
        let mut t = Tensor::take(&self.pool, shape, DType::I32);
        t.i32_mut().copy_from_slice(values);
        t
    }
    /// A copy with its own memory.
    pub fn copy(&self, source: &Tensor) -> Tensor {
        let _scope = self.scope("copy", 0, 2 * source.bytes() as u64);
        let mut t = Tensor::take(&self.pool, source.shape(), source.dtype());
        match source.dtype() {
            DType::F32 => self.fill(t.f32_mut(), source.f32()),
            DType::Bf16 => self.fill(t.bf16_mut(), source.bf16()),
            DType::I32 => self.fill(t.i32_mut(), source.i32()),
            DType::U8 => self.fill(t.u8_mut(), source.u8()),
        }
        t
    }

    /// `to = from`, with all threads.
    fn fill<T: Copy + Send + Sync>(&self, to: &mut [T], from: &[T]) {
        let (blocks, to) = (Blocks::elements(from.len()), DisjointMut::new(to));
        self.threads.each(blocks.count(), |b| {
            let part = blocks.range(b);
            // SAFETY: blocks are disjoint.
            unsafe { to.slice(part.start, part.len()) }.copy_from_slice(&from[part]);
        });
    }
}
