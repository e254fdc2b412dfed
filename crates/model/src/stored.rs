//! The forms in which a model has its weights.

use hadal_ops::linear::{self, CodedWeight, Operand, PackedWeight};
use hadal_ops::quant::{self, QuantFormat, QuantWeight};
use hadal_ops::{Acc, DType, MatMut, Room, Tensor};
use hadal_ops::{Cx, embedding};
use hadal_weights::is_fp8;
use hadal_weights::list::{Parameter, Role};
use hadal_weights::precision::{Precision, Product, RunFormat, RunFormats};
use std::convert::Infallible;

/// The run-time form of a weight.
pub enum Stored {
    /// Read directly: gains, biases, an embedding table.
    Table(Tensor),
    /// In panels for products.
    Packed(PackedWeight),
    /// E4M3 codes with scales, for the products of a model that only runs.
    Coded(CodedWeight),
    /// Quantised in groups, for the products of a model that only runs.
    Quantised(QuantWeight),
    /// An f32 table and the panels packed from it: for the router and a tied embedding in training.
    Both(Tensor, PackedWeight),
}

/// The form of a weight of a model that only runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredForm {
    /// A table of this type.
    Table(DType),
    /// Panels of this type.
    Packed(DType),
    /// E4M3 codes.
    Coded,
    /// Quantised in groups.
    Quantised(QuantFormat),
}

impl StoredForm {
    /// The form of a parameter whose products are computed in `compute`. `halves` and `coded` say whether its values
    /// are stored in BF16, or as codes.
    pub(crate) fn of(spec: &Parameter, compute: DType, formats: RunFormats, halves: bool, coded: bool) -> Self {
        match (spec.product(&Precision::COMPUTE), spec.role) {
            // A table is in BF16 only if that loses nothing.
            (None, Role::Embedding) if halves => return Self::Table(DType::Bf16),
            (None, _) => return Self::Table(DType::F32),
            (Some(Product::F32), _) => return Self::Packed(DType::F32),
            _ => {}
        }
        // Codes are multiplied as BF16.
        let codes = |wanted: bool| if wanted && compute == DType::Bf16 { Self::Coded } else { Self::Packed(compute) };
        match spec.run_format(&formats) {
            RunFormat::Stored => codes(coded),
            RunFormat::Fp8 => codes(coded || spec.parts.iter().all(|part| is_fp8(&part.name))),
            RunFormat::Compute => Self::Packed(compute),
            RunFormat::Int8 => Self::Quantised(QuantFormat::Int8),
            RunFormat::Int4 => Self::Quantised(QuantFormat::Int4),
        }
    }

    /// All forms that a parameter can have.
    pub(crate) fn all(spec: &Parameter, compute: DType) -> Vec<Self> {
        let quantised = [QuantFormat::Int8, QuantFormat::Int4].map(Self::Quantised);
        match spec.product(&Precision::COMPUTE) {
            None if spec.role == Role::Embedding => vec![Self::Table(DType::F32), Self::Table(DType::Bf16)],
            None => vec![Self::Table(DType::F32)],
            Some(Product::F32) => vec![Self::Packed(DType::F32)],
            Some(_) if compute == DType::Bf16 => {
                [Self::Packed(compute), Self::Coded].into_iter().chain(quantised).collect()
            }
            Some(_) => [Self::Packed(compute)].into_iter().chain(quantised).collect(),
        }
    }

    /// Its name in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Table(dtype) | Self::Packed(dtype) => dtype.name(),
            Self::Coded => "e4m3",
            Self::Quantised(QuantFormat::Int8) => "int8",
            Self::Quantised(QuantFormat::Int4) => "int4",
        }
    }
}

impl Stored {
    /// A weight in the memory that `room` provides for its arrays.
    pub(crate) fn in_room<E>(spec: &Parameter, form: StoredForm, room: &mut Room<'_, E>) -> Result<Self, E> {
        let (groups, n, k) = (spec.groups, spec.n(), spec.k());
        Ok(match form {
            StoredForm::Table(dtype) => Self::Table(room("table", &spec.shape, dtype)?),
            StoredForm::Packed(dtype) => Self::Packed(PackedWeight::for_forward(groups, n, k, dtype, room)?),
            StoredForm::Coded => Self::Coded(CodedWeight::in_room(groups, n, k, room)?),
            StoredForm::Quantised(format) => Self::Quantised(QuantWeight::in_room(format, groups, n, k, room)?),
        })
    }

    /// Matrices `(groups, n, k)` for the products of a model that only runs. `read` gives a band of rows in f32.
    pub(crate) fn grouped(
        cx: &Cx,
        form: StoredForm,
        (groups, n, k): (usize, usize, usize),
        read: &(dyn Fn(usize, &mut Tensor) + Sync),
    ) -> Self {
        let read = |row: usize, out: &mut Tensor| {
            read(row, out);
            Ok::<(), Infallible>(())
        };
        match form {
            StoredForm::Quantised(format) => {
                let mut weight = QuantWeight::new(cx, format, groups, n, k);
                let Ok(()) = weight.fill(cx, DType::F32, &read);
                Self::Quantised(weight)
            }
            StoredForm::Packed(dtype) => {
                let mut weight = PackedWeight::new(cx, groups, n, k, dtype, false);
                let Ok(()) = weight.fill(cx, DType::F32, &read);
                Self::Packed(weight)
            }
            StoredForm::Table(_) | StoredForm::Coded => panic!("no matrices are made in the form {}", form.name()),
        }
    }

    /// The arrays of a weight of a model that only runs, by the names that [`Stored::in_room`] gives them.
    pub(crate) fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Table(t) | Self::Both(t, _) => vec![("table", t)],
            Self::Packed(p) => vec![("panels", p.panels())],
            Self::Coded(c) => vec![("codes", c.codes()), ("scales", c.scales())],
            Self::Quantised(q) => vec![("panels", q.data())],
        }
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Table(t) => t.bytes(),
            Self::Packed(p) => p.bytes(),
            Self::Coded(c) => c.bytes(),
            Self::Quantised(q) => q.bytes(),
            Self::Both(t, p) => t.bytes() + p.bytes(),
        }
    }

    /// The name of its format.
    pub fn format(&self) -> &'static str {
        let form = match self {
            Self::Table(t) | Self::Both(t, _) => StoredForm::Table(t.dtype()),
            Self::Packed(p) => StoredForm::Packed(p.panels().dtype()),
            Self::Coded(_) => StoredForm::Coded,
            Self::Quantised(q) => StoredForm::Quantised(q.format()),
        };
        form.name()
    }

    /// Whether only forward passes can read it.
    pub fn only_runs(&self) -> bool {
        matches!(self, Self::Coded(_) | Self::Quantised(_))
    }

    /// `y (acc)= x W^T`, with each group on its rows `offsets[g]..offsets[g + 1]`. Without offsets there is one group
    /// of all rows.
    pub(crate) fn forward(&self, cx: &Cx, x: Operand<'_>, offsets: Option<&Tensor>, y: MatMut<'_>, acc: Acc) {
        let plain = |x| match x {
            Operand::Plain(x) => x,
            Operand::Tiles(_) => panic!("a weight of a model that only runs takes rows in plain formats"),
        };
        match self {
            Self::Packed(w) | Self::Both(_, w) => linear::grouped_forward(cx, x, w, offsets, y, acc),
            Self::Coded(w) => linear::coded_forward(cx, plain(x), w, offsets, y, acc),
            Self::Quantised(w) => quant::forward(cx, plain(x), w, offsets, y, acc),
            Self::Table(_) => panic!("a table is not multiplied with"),
        }
    }

    /// Values of row `row` of a weight that is multiplied with. Rows are counted over all groups.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Packed(w) | Self::Both(_, w) => w.row(row, out),
            Self::Coded(w) => w.row(row, out),
            Self::Quantised(w) => w.row(row, out),
            Self::Table(_) => unreachable!("tables are read directly"),
        }
    }

    /// Looks up rows of an embedding of this shape into `x` f32 `[T, D]`.
    pub(crate) fn embed(&self, cx: &Cx, shape: &[usize], ids: &Tensor, x: &mut Tensor) {
        match self {
            Self::Table(t) | Self::Both(t, _) => embedding::forward(cx, t, ids, x),
            _ => embedding::forward_by(cx, (shape[0], shape[1]), &|row, out| self.row(row, out), ids, x),
        }
    }
}
