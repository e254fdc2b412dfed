//! Quantised weights in panels.

use super::fit::FitPanel;
use super::format::{BLOCK, GROUP, QuantFormat};
use crate::gemm::LANES;
use crate::kernel::dispatch;
use crate::{Cx, DType, DisjointMut, MatRef, Room, Tensor};

/// Weights `[groups, n, k]` as codes and scales, in memory of exactly their size outside of the pool. The layout is
/// described in the module's header.
pub struct QuantWeight {
    format: QuantFormat,
    groups: usize,
    n: usize,
    k: usize,
    data: Tensor,
}

impl QuantWeight {
    /// Memory for weights. [`QuantWeight::fill`] or [`QuantWeight::pack`] must fill it before it is used.
    pub fn new(cx: &Cx, format: QuantFormat, groups: usize, n: usize, k: usize) -> Self {
        match Self::in_room(format, groups, n, k, &mut cx.room()) {
            Ok(weight) => weight,
        }
    }
    /// Weights in the memory that `room` provides for their `panels`.
    ///
    /// # Errors
    /// Those of `room`.
    pub fn in_room<E>(
        format: QuantFormat,
        groups: usize,
        n: usize,
        k: usize,
        room: &mut Room<'_, E>,
    ) -> Result<Self, E> {
        assert!(groups > 0, "quant weight: no groups");
        Ok(Self { format, groups, n, k, data: room("panels", &[format.bytes(groups, n, k)], DType::U8)? })
    }
    /// All panels.
    pub fn data(&self) -> &Tensor {
        &self.data
    }
    /// The format of the weights.
    pub fn format(&self) -> QuantFormat {
        self.format
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
    /// Bytes of codes and scales: [`QuantFormat::bytes`] of the shape.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }
    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.k.div_ceil(BLOCK) * self.format.block_bytes()
    }
    /// Panels of a group.
    pub(super) fn panels(&self, group: usize) -> &[u8] {
        let bytes = self.n.div_ceil(LANES) * self.panel_bytes();
        &self.data.u8()[group * bytes..][..bytes]
    }

    /// Quantises all groups from `[groups * n, k]` row-major elements, f32 or bf16.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn pack(&mut self, cx: &Cx, w: &Tensor) {
        let want = self.groups * self.n * self.k;
        assert_eq!(w.len(), want, "quant pack: {:?} into {} x {} x {}", w.shape(), self.groups, self.n, self.k);
        if self.bytes() == 0 {
            return;
        }
        let (n, k) = (self.n, self.k);
        let width = w.cols();
        assert!(width == k || w.is_empty(), "quant pack: rows of {width} into rows of {k}");
        let to = self.writer();
        let panels = n.div_ceil(LANES);
        cx.threads().each(to.groups * panels, |i| {
            let (group, row) = (i / panels, i % panels * LANES);
            // SAFETY: a panel is one task's.
            unsafe { to.rows(cx, group, row, (n - row).min(LANES), w.mat(), group * n + row) };
        });
    }

    /// Quantises all rows in bands. `read` gives a band from a row on, in the type `source`: f32 or bf16. Rows are
    /// counted over all groups. The tensor that `read` gets has the shape `[rows, k]` of its band. Bands are read by
    /// several threads, each into a buffer that stays in its cache.
    ///
    /// # Errors
    /// Returns the first error of `read`.
    pub fn fill<E: Send>(
        &mut self,
        cx: &Cx,
        source: DType,
        read: &(dyn Fn(usize, &mut Tensor) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        let shape = (self.groups, self.n, self.k);
        let to = self.writer();
        crate::bands::read_bands(cx, shape, source, read, |group, row, values| {
            // SAFETY: a band is one task's.
            unsafe { to.rows(cx, group, row, values.rows(), values.mat(), 0) };
        })
    }

    /// The values of row `row`: code times scale, exact in f32. Rows are counted over all groups.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (group, row) = (row / self.n, row % self.n);
        assert!(group < self.groups && out.len() == self.k, "row {row} of group {group} into {} values", out.len());
        let panel = &self.panels(group)[row / LANES * self.panel_bytes()..][..self.panel_bytes()];
        let lane = row % LANES;
        for (block, out) in panel.chunks_exact(self.format.block_bytes()).zip(out.chunks_mut(BLOCK)) {
            for (i, out) in out.iter_mut().enumerate() {
                *out = QuantFormat::scale(block, i / GROUP, lane) * self.format.code(block, i, lane) as f32;
            }
        }
    }

    fn writer(&mut self) -> Writer<'_> {
        let (format, groups, n, panel) = (self.format, self.groups, self.n, self.panel_bytes());
        Writer { format, groups, n, panel, data: DisjointMut::new(self.data.u8_mut()) }
    }
}

/// Writes rows of a weight into their panels.
struct Writer<'a> {
    format: QuantFormat,
    groups: usize,
    n: usize,
    /// Bytes of a panel.
    panel: usize,
    data: DisjointMut<'a, u8>,
}

impl Writer<'_> {
    /// Quantises `rows` rows of a group from row `row` on. They are rows `at..` of `from`. `row` is a multiple of 16.
    /// So is `rows`, unless the rows are the last of the group.
    ///
    /// # Safety
    /// No two calls at a time write the same rows.
    unsafe fn rows(&self, cx: &Cx, group: usize, row: usize, rows: usize, from: MatRef<'_>, at: usize) {
        let panels = self.n.div_ceil(LANES);
        for first in (0..rows).step_by(LANES) {
            let start = (group * panels + (row + first) / LANES) * self.panel;
            // SAFETY: panels do not overlap, and this one is the caller's.
            let panel = unsafe { self.data.slice(start, self.panel) };
            let rows = (rows - first).min(LANES);
            dispatch(cx.isa(), FitPanel { format: self.format, from, row: at + first, rows, panel });
        }
    }
}
