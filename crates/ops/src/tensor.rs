//! `Tensor`: an owned, contiguous, row-major array from a pool; `MatRef`/`MatMut`: a range of its columns.

use crate::fixed::Fixed;
use crate::mapping::Mapping;
use crate::pool::{Buffer, Pool};
use half::bf16;
use std::fmt;
use std::sync::Arc;

// Tensors in files have little-endian elements.
const _: () = assert!(cfg!(target_endian = "little"), "files in memory need a little-endian processor");

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision: master weights, residual stream, statistics.
    F32,
    /// bfloat16: compute format.
    Bf16,
    /// Indices, offsets, counts.
    I32,
    /// Codes of small formats ([`crate::fp8`]).
    U8,
}

impl DType {
    /// Its name in files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::I32 => "i32",
            Self::U8 => "u8",
        }
    }

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }
}

/// The device that holds a tensor. Operations match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// Host memory, computed by the thread pool.
    Cpu,
}

const MAX_RANK: usize = 4;

/// The memory of a tensor's elements.
enum Memory {
    /// A buffer of a pool. It is returned when the tensor is dropped.
    Pooled(Option<Buffer>, Pool),
    /// Its own memory.
    Own(Fixed),
    /// A place in a file, read-only.
    File(Arc<Mapping>, usize),
}

/// Provides one of the arrays of a weight, given its name, shape and type: fresh memory, or a place in a file.
pub type Room<'a, E> = dyn FnMut(&'static str, &[usize], DType) -> Result<Tensor, E> + 'a;

/// An owned, contiguous, row-major array. Dropping it returns its memory to the pool if it came from one.
pub struct Tensor {
    memory: Memory,
    shape: [usize; MAX_RANK],
    rank: usize,
    dtype: DType,
}

/// A shape, padded with ones.
fn extents(shape: &[usize]) -> [usize; MAX_RANK] {
    assert!(shape.len() <= MAX_RANK, "tensor: rank {} is over {MAX_RANK}", shape.len());
    let mut extents = [1; MAX_RANK];
    extents[..shape.len()].copy_from_slice(shape);
    extents
}

impl Tensor {
    pub(crate) fn take(pool: &Pool, shape: &[usize], dtype: DType) -> Self {
        let len: usize = shape.iter().product();
        let memory = Memory::Pooled(Some(pool.take(len * dtype.size())), pool.clone());
        Self::over(memory, shape, dtype)
    }

    /// Zeros in memory of exactly their size, outside of any pool.
    pub(crate) fn fixed(shape: &[usize], dtype: DType) -> Self {
        Self::over(Memory::Own(Fixed::new(shape.iter().product::<usize>() * dtype.size())), shape, dtype)
    }

    /// Elements in a file, which stay there, from byte `start` on. The file may hold any bits. The tensor cannot be
    /// written.
    ///
    /// # Panics
    /// If `start` is not a multiple of 64, or the file is too short.
    pub fn mapped(file: &Arc<Mapping>, start: usize, shape: &[usize], dtype: DType) -> Self {
        let (bytes, total) = (shape.iter().product::<usize>() * dtype.size(), file.bytes().len());
        assert!(start.is_multiple_of(64), "mapped: {shape:?} at byte {start}, which is not a multiple of 64");
        let fits = start.checked_add(bytes).is_some_and(|end| end <= total);
        assert!(fits, "mapped: {shape:?} in {dtype:?} at byte {start} of a file of {total} bytes");
        Self::over(Memory::File(file.clone(), start), shape, dtype)
    }

    fn over(memory: Memory, shape: &[usize], dtype: DType) -> Self {
        Self { memory, shape: extents(shape), rank: shape.len(), dtype }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank]
    }
    /// Extent of dimension `i`.
    pub fn dim(&self, i: usize) -> usize {
        self.shape()[i]
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// The device that holds it.
    pub fn device(&self) -> Device {
        Device::Cpu
    }
    /// Extent of the last dimension: the columns of the matrix view.
    pub fn cols(&self) -> usize {
        if self.rank == 0 { 1 } else { self.shape[self.rank - 1] }
    }
    /// Product of all dimensions except the last: the rows of the matrix view.
    pub fn rows(&self) -> usize {
        self.shape()[..self.rank.saturating_sub(1)].iter().product()
    }
    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Changes the shape. The elements are unspecified afterwards. If its memory is too small, it takes more from its
    /// pool. Resizing repeatedly to the same sizes allocates nothing.
    pub fn resize(&mut self, shape: &[usize]) {
        let bytes = shape.iter().product::<usize>() * self.dtype.size();
        let Memory::Pooled(Some(buffer), pool) = &self.memory else { panic!("resize: {self:?} is not of a pool") };
        if bytes <= buffer.capacity() {
            (self.shape, self.rank) = (extents(shape), shape.len());
        } else {
            *self = Self::take(&pool.clone(), shape, self.dtype);
        }
    }

    /// The same elements with another shape.
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "reshape: {:?} to {shape:?}", self.shape());
        (self.shape, self.rank) = (extents(shape), shape.len());
        self
    }

    fn ptr<T>(&self, dtype: DType) -> *const T {
        assert_eq!(self.dtype, dtype, "tensor {:?} read as {dtype:?}", self.shape());
        match &self.memory {
            Memory::Pooled(buffer, _) => buffer.as_ref().map_or(std::ptr::null(), Buffer::as_ptr).cast(),
            Memory::Own(memory) => memory.as_ptr().cast(),
            Memory::File(file, start) => file.bytes()[*start..].as_ptr().cast(),
        }
    }
    fn ptr_mut<T>(&mut self, dtype: DType) -> *mut T {
        assert_eq!(self.dtype, dtype, "tensor {:?} written as {dtype:?}", self.shape());
        match &mut self.memory {
            Memory::Pooled(buffer, _) => buffer.as_mut().map_or(std::ptr::null_mut(), Buffer::as_mut_ptr).cast(),
            Memory::Own(memory) => memory.as_mut_ptr().cast(),
            Memory::File(..) => panic!("tensor {:?} is in a file and cannot be written", &self.shape[..self.rank]),
        }
    }

    /// The bytes of the elements, of any type.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the memory is initialised and holds so many bytes.
        unsafe { std::slice::from_raw_parts(self.ptr(self.dtype), self.bytes()) }
    }

    /// Host elements. Panics for another type.
    pub fn f32(&self) -> &[f32] {
        // SAFETY: the memory is initialised, aligned to 64 bytes and holds len() elements of the checked type.
        unsafe { std::slice::from_raw_parts(self.ptr(DType::F32), self.len()) }
    }
    /// Mutable host elements. Panics for another type.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        let len = self.len();
        // SAFETY: as in `f32`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr_mut(DType::F32), len) }
    }
    /// Host elements. Panics for another type.
    pub fn bf16(&self) -> &[bf16] {
        // SAFETY: as in `f32`.
        unsafe { std::slice::from_raw_parts(self.ptr(DType::Bf16), self.len()) }
    }
    /// Mutable host elements. Panics for another type.
    pub fn bf16_mut(&mut self) -> &mut [bf16] {
        let len = self.len();
        // SAFETY: as in `f32_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.ptr_mut(DType::Bf16), len) }
    }
    /// Host elements. Panics for another type.
    pub fn i32(&self) -> &[i32] {
        // SAFETY: as in `f32`.
        unsafe { std::slice::from_raw_parts(self.ptr(DType::I32), self.len()) }
    }
    /// Mutable host elements. Panics for another type.
    pub fn i32_mut(&mut self) -> &mut [i32] {
        let len = self.len();
        // SAFETY: as in `f32_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.ptr_mut(DType::I32), len) }
    }

    /// Host elements. Panics for another type.
    pub fn u8(&self) -> &[u8] {
        // SAFETY: as in `f32`.
        unsafe { std::slice::from_raw_parts(self.ptr(DType::U8), self.len()) }
    }
    /// Mutable host elements. Panics for another type.
    pub fn u8_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: as in `f32_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.ptr_mut(DType::U8), len) }
    }

    /// Floating-point elements as f32 in a new vector (tests, dumps, logging).
    pub fn to_vec_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => self.f32().to_vec(),
            DType::Bf16 => self.bf16().iter().map(|v| v.to_f32()).collect(),
            DType::I32 | DType::U8 => panic!("tensor: {:?} elements read as floating point", self.dtype),
        }
    }

    /// The whole tensor as a matrix of `rows() x cols()`.
    pub fn mat(&self) -> MatRef<'_> {
        MatRef { tensor: self, col: 0, cols: self.cols() }
    }
    /// The whole tensor as a mutable matrix.
    pub fn mat_mut(&mut self) -> MatMut<'_> {
        let cols = self.cols();
        MatMut { tensor: self, col: 0, cols }
    }
    /// Columns `range` of every row.
    pub fn columns(&self, range: std::ops::Range<usize>) -> MatRef<'_> {
        assert!(range.end <= self.cols(), "columns {range:?} of {:?}", self.shape());
        MatRef { tensor: self, col: range.start, cols: range.len() }
    }
    /// Columns `range` of every row, mutable.
    pub fn columns_mut(&mut self, range: std::ops::Range<usize>) -> MatMut<'_> {
        assert!(range.end <= self.cols(), "columns {range:?} of {:?}", self.shape());
        MatMut { tensor: self, col: range.start, cols: range.len() }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        if let Memory::Pooled(buffer, pool) = &mut self.memory
            && let Some(buffer) = buffer.take()
        {
            pool.give(buffer);
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({:?}, {:?})", self.dtype, self.shape())
    }
}

/// A range of columns of a tensor seen as a matrix: row `r` starts at element `r * stride() + col`.
#[derive(Clone, Copy)]
pub struct MatRef<'a> {
    tensor: &'a Tensor,
    col: usize,
    cols: usize,
}

/// A mutable range of columns.
pub struct MatMut<'a> {
    tensor: &'a mut Tensor,
    col: usize,
    cols: usize,
}

macro_rules! mat_common {
    ($name:ident) => {
        impl $name<'_> {
            /// Rows.
            pub fn rows(&self) -> usize {
                self.tensor.rows()
            }
            /// Columns of the view.
            pub fn cols(&self) -> usize {
                self.cols
            }
            /// Elements from one row to the next.
            pub fn stride(&self) -> usize {
                self.tensor.cols()
            }
            /// Element type.
            pub fn dtype(&self) -> DType {
                self.tensor.dtype()
            }
            /// The device that holds it.
            pub fn device(&self) -> Device {
                self.tensor.device()
            }
            /// Host elements from the first of the view to the end of the tensor (rows are `stride()` apart).
            pub fn f32(&self) -> &[f32] {
                self.tensor.f32().get(self.col..).unwrap_or(&[])
            }
            /// Like `f32`.
            pub fn bf16(&self) -> &[bf16] {
                self.tensor.bf16().get(self.col..).unwrap_or(&[])
            }
        }
    };
}
mat_common!(MatRef);
mat_common!(MatMut);

impl MatRef<'_> {
    /// Columns `range` of the view.
    pub fn columns(&self, range: std::ops::Range<usize>) -> MatRef<'_> {
        assert!(range.end <= self.cols, "columns {range:?} of {}", self.cols);
        MatRef { tensor: self.tensor, col: self.col + range.start, cols: range.len() }
    }
}

impl MatMut<'_> {
    /// Columns `range` of the view, mutable.
    pub fn columns_mut(&mut self, range: std::ops::Range<usize>) -> MatMut<'_> {
        assert!(range.end <= self.cols, "columns {range:?} of {}", self.cols);
        MatMut { tensor: self.tensor, col: self.col + range.start, cols: range.len() }
    }
    /// Mutable host elements, from the first of the view to the end of the tensor.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        let col = self.col;
        self.tensor.f32_mut().get_mut(col..).unwrap_or(&mut [])
    }
    /// Like `f32_mut`.
    pub fn bf16_mut(&mut self) -> &mut [bf16] {
        let col = self.col;
        self.tensor.bf16_mut().get_mut(col..).unwrap_or(&mut [])
    }
}

impl<'a> From<&'a Tensor> for MatRef<'a> {
    fn from(t: &'a Tensor) -> Self {
        t.mat()
    }
}
impl<'a> From<&'a mut Tensor> for MatMut<'a> {
    fn from(t: &'a mut Tensor) -> Self {
        t.mat_mut()
    }
}
