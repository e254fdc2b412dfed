//! Weights in panels.
//!
//! Their memory has exactly their size. It is outside of the pool, and is not touched before rows are packed into it.

use super::Shared;
use crate::fp8::{E4M3, Style, TILE};
use crate::gemm::pack::{lanes_from_cols, lanes_from_rows};
use crate::gemm::places::{Panels, Rows};
use crate::gemm::{LANES, STEP_BYTES, panel_bytes, steps};
use crate::{Cx, DType, Room, Tensor};

/// Packed weights of at least this many bytes are assumed not to be in any cache when they are used.
const STREAMED: usize = 4 << 20;

/// Weights `[groups, n, k]` in the compute format, in the forms that products read: panels with n as lanes for
/// `forward`, and on request with k as lanes for `backward_input`.
pub struct PackedWeight {
    groups: usize,
    n: usize,
    k: usize,
    dtype: DType,
    forward: Tensor,
    backward: Option<Tensor>,
    /// For codes: one scale for each lane and 128 of the contraction, `[groups, ceil(k/128), n]` and `[groups,
    /// ceil(n/128), k]`, with lanes in whole panels. All lanes of a 128x128 block have the same scale.
    scales: Option<[Tensor; 2]>,
    gradients: Style,
}

impl PackedWeight {
    /// Weights of zeros, to be packed later.
    pub fn new(cx: &Cx, groups: usize, n: usize, k: usize, dtype: DType, backward: bool) -> Self {
        assert!(dtype != DType::I32 && groups > 0, "packed weight: {groups} groups of {dtype:?}");
        let room = |lanes, k| cx.fixed(&[panels_len(dtype, groups, lanes, k)], dtype);
        let scales =
            |lanes: usize, k: usize| cx.fixed(&[groups * k.div_ceil(TILE) * lanes.next_multiple_of(LANES)], DType::F32);
        let scales = (dtype == DType::U8).then(|| [scales(n, k), scales(k, n)]);
        let (forward, backward) = (room(n, k), backward.then(|| room(k, n)));
        Self { groups, n, k, dtype, forward, backward, scales, gradients: Style::TILES }
    }
    /// Packed floats that only `forward` reads, in the memory that `room` provides for their `panels`.
    ///
    /// # Errors
    /// Those of `room`.
    pub fn for_forward<E>(groups: usize, n: usize, k: usize, dtype: DType, room: &mut Room<'_, E>) -> Result<Self, E> {
        assert!(matches!(dtype, DType::F32 | DType::Bf16) && groups > 0, "packed weight: {groups} groups of {dtype:?}");
        let forward = room("panels", &[panels_len(dtype, groups, n, k)], dtype)?;
        Ok(Self { groups, n, k, dtype, forward, backward: None, scales: None, gradients: Style::TILES })
    }
    /// The panels that `forward` reads.
    pub fn panels(&self) -> &Tensor {
        &self.forward
    }
    /// The same with another quantisation of the gradients in `backward_input`.
    pub fn with_gradients(mut self, style: Style) -> Self {
        self.gradients = style;
        self
    }
    /// How `backward_input` quantises gradients. It uses codes directly if they were made in this style.
    pub fn gradients(&self) -> Style {
        self.style(true)
    }
    /// How an operand of floats is quantised.
    pub(crate) fn style(&self, backward: bool) -> Style {
        if backward { self.gradients } else { Style::TILES }
    }
    /// Number of matrices.
    pub fn groups(&self) -> usize {
        self.groups
    }
    /// Number of outputs per matrix.
    pub fn n(&self) -> usize {
        self.n
    }
    /// Number of inputs per matrix.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Format of the products; U8 stands for E4M3.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Total bytes of all forms.
    pub fn bytes(&self) -> usize {
        let scales = self.scales.iter().flatten().map(Tensor::bytes).sum::<usize>();
        self.forward.bytes() + self.backward.as_ref().map_or(0, Tensor::bytes) + scales
    }

    /// Packs all groups from `[groups * n, k]` row-major elements, f32 or bf16.
    pub fn pack(&mut self, cx: &Cx, w: &Tensor) {
        let want = self.groups * self.n * self.k;
        assert_eq!(w.len(), want, "pack: {:?} into {} x {} x {}", w.shape(), self.groups, self.n, self.k);
        let ptr = match w.dtype() {
            DType::F32 => w.f32().as_ptr().cast(),
            DType::Bf16 => w.bf16().as_ptr().cast(),
            other => panic!("pack: {other:?} weights"),
        };
        let _scope = cx.scope("pack", 0, (w.bytes() + self.bytes()) as u64);
        let src = Rows { ptr, stride: self.k * w.dtype().size(), dtype: w.dtype() };
        if self.dtype == DType::U8 {
            super::codes::pack(cx, self, src, |_, _, _| {});
            return;
        }
        let (n, blocks) = (self.n, self.n.div_ceil(LANES));
        let to = self.writer();
        cx.threads().each(self.groups * blocks, |i| {
            let (group, row) = (i / blocks, i % blocks * LANES);
            // SAFETY: the length was checked; one task a block of rows.
            unsafe { to.pack_rows(cx, group, row, (n - row).min(LANES), src.at(group * n + row, 0)) };
        });
    }

    /// Packs one group from `n * k` row-major elements. It is not for codes; [`PackedWeight::pack`] makes the codes of
    /// all groups.
    pub fn pack_group(&mut self, cx: &Cx, group: usize, w: &[f32]) {
        assert_eq!(w.len(), self.n * self.k, "pack_group: {} elements into {} x {}", w.len(), self.n, self.k);
        assert!(group < self.groups, "pack_group: group {group} of {}", self.groups);
        assert!(self.dtype != DType::U8, "pack_group: a weight of codes is packed as a whole");
        let src = Rows { ptr: w.as_ptr().cast(), stride: self.k * 4, dtype: DType::F32 };
        let n = self.n;
        let to = self.writer();
        cx.threads().each(n.div_ceil(LANES), |i| {
            let row = i * LANES;
            // SAFETY: the length was checked; one task a block of rows.
            unsafe { to.pack_rows(cx, group, row, (n - row).min(LANES), src.at(row, 0)) };
        });
    }

    /// Packs all rows in bands. `read` gives a band from a row on, as f32 or bf16 as `source` says. Rows are counted
    /// over all groups. Several threads read bands, each into a buffer that stays in its cache. The first error ends
    /// it. It is not for codes; [`PackedWeight::pack`] makes the codes of all rows.
    pub fn fill<E: Send>(
        &mut self,
        cx: &Cx,
        source: DType,
        read: &(dyn Fn(usize, &mut Tensor) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        assert!(self.dtype != DType::U8, "fill: a weight of codes is packed as a whole");
        let shape = (self.groups, self.n, self.k);
        let to = self.writer();
        crate::bands::read_bands(cx, shape, source, read, |group, row, values| {
            // SAFETY: the band holds the rows; a band is one task's.
            unsafe { to.pack_rows(cx, group, row, values.rows(), Rows::of(&values.mat())) };
        })
    }

    /// The values of row `row` as products read them: rounded to the weight's format, or code times scale. Rows are
    /// counted over all groups.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (group, row) = (row / self.n, row % self.n);
        assert!(group < self.groups && out.len() == self.k, "row {row} of group {group} into {} values", out.len());
        let (panel, lane, lanes) = (row / LANES, row % LANES, self.n.next_multiple_of(LANES));
        // A step holds this many elements of each lane.
        let step = if self.dtype == DType::F32 { 1 } else { 2 };
        let start = (group * lanes + panel * LANES) * self.k.next_multiple_of(step) + step * lane;
        let at = |i: usize| start + i / step * step * LANES + i % step;
        let out = out.iter_mut().enumerate();
        match self.dtype {
            DType::F32 => out.for_each(|(i, o)| *o = self.forward.f32()[at(i)]),
            DType::Bf16 => out.for_each(|(i, o)| *o = self.forward.bf16()[at(i)].to_f32()),
            _ => {
                let scales = self.scales.as_ref().expect("a weight of codes has scales")[0].f32();
                let tiles = self.k.div_ceil(TILE);
                out.for_each(|(i, o)| {
                    let scale = scales[(group * tiles + i / TILE) * lanes + row];
                    *o = E4M3.decode(u16::from(self.forward.u8()[at(i)])) * scale;
                });
            }
        }
    }

    /// Codes of a group in panels, scales of its first 128 of the contraction, and number of lanes from there to the
    /// next scales.
    pub(crate) fn codes(&self, group: usize, backward: bool) -> (*const u8, *const f32, usize) {
        let (lanes, k) = if backward { (self.k, self.n) } else { (self.n, self.k) };
        let form = if backward { self.backward.as_ref() } else { Some(&self.forward) };
        let form = form.expect("backward_input: the weight has no backward form");
        let scales = &self.scales.as_ref().expect("a weight of codes has scales")[usize::from(backward)];
        let lanes = lanes.next_multiple_of(LANES);
        let codes = form.u8()[group * lanes * k.next_multiple_of(2)..].as_ptr();
        (codes, scales.f32()[group * k.div_ceil(TILE) * lanes..].as_ptr(), lanes)
    }
    /// All codes and scales, forward and backward, for writing.
    pub(super) fn parts_mut(&mut self) -> (&mut Tensor, Option<&mut Tensor>, &mut [Tensor; 2]) {
        let scales = self.scales.as_mut().expect("a weight of codes has scales");
        (&mut self.forward, self.backward.as_mut(), scales)
    }

    /// A handle through which tasks pack disjoint blocks of rows.
    pub(crate) fn writer(&mut self) -> Writer {
        Writer {
            stream: self.bytes() > STREAMED,
            n: self.n,
            k: self.k,
            dtype: self.dtype,
            forward: Shared::of(&mut self.forward),
            backward: self.backward.as_mut().map(Shared::of),
        }
    }

    /// Panels of a group for `forward`.
    pub(crate) fn forward_panels(&self, group: usize) -> *const u8 {
        start(&self.forward, group * panel_bytes(self.dtype, self.n, self.k))
    }
    /// Panels of a group for `backward_input`.
    pub(crate) fn backward_panels(&self, group: usize) -> *const u8 {
        let form = self.backward.as_ref().expect("backward_input: the weight has no backward form");
        start(form, group * panel_bytes(self.dtype, self.k, self.n))
    }
}

/// Elements of the panels of `groups` matrices.
fn panels_len(dtype: DType, groups: usize, lanes: usize, k: usize) -> usize {
    groups * panel_bytes(dtype, lanes, k) / dtype.size()
}

fn start(form: &Tensor, byte: usize) -> *const u8 {
    let ptr: *const u8 = match form.dtype() {
        DType::F32 => form.f32().as_ptr().cast(),
        _ => form.bf16().as_ptr().cast(),
    };
    assert!(byte <= form.bytes());
    // SAFETY: inside the tensor or one past its end.
    unsafe { ptr.add(byte) }
}

/// Writes blocks of rows of a weight into its panels.
#[derive(Clone, Copy)]
pub(crate) struct Writer {
    stream: bool,
    n: usize,
    k: usize,
    dtype: DType,
    forward: Shared,
    backward: Option<Shared>,
}

impl Writer {
    /// Packs `rows` rows of a group into all forms, starting at row `row`. `row` is a multiple of 16, and so is `rows`
    /// unless these are the last rows. The rows should be in cache, because they are read twice.
    ///
    /// # Safety
    /// The weight must be alive, `src` must hold the rows, and no two calls may pack the same rows at the same time.
    pub(crate) unsafe fn pack_rows(self, cx: &Cx, group: usize, row: usize, rows: usize, src: Rows) {
        debug_assert!(row.is_multiple_of(LANES) && row + rows <= self.n);
        let (n, k, dtype, isa) = (self.n, self.k, self.dtype, cx.isa());
        // SAFETY: offsets lie inside the forms; blocks of sixteen rows have panels, or whole steps, of their own.
        unsafe {
            let panel = steps(dtype, k) * STEP_BYTES;
            let group_at = self.forward.get().add(group * panel_bytes(dtype, n, k));
            for first in (0..rows).step_by(LANES) {
                let ptr = group_at.add((row + first) / LANES * panel);
                let to = Panels { ptr, panel, dtype, stream: self.stream };
                lanes_from_rows(isa, src.at(first, 0), (rows - first).min(LANES), k, to);
            }
            if let Some(backward) = self.backward {
                let at = group * panel_bytes(dtype, k, n) + steps(dtype, row) * STEP_BYTES;
                let to = Panels {
                    ptr: backward.get().add(at),
                    panel: steps(dtype, n) * STEP_BYTES,
                    dtype,
                    stream: self.stream,
                };
                lanes_from_cols(isa, src, rows, k, to);
            }
        }
    }
}
