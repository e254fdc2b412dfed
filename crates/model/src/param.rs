//! Parameters in the form that layers read, and their gradients.
//!
//! A [`Param`] is an entry of the list ([`hadal_weights::list`]) with its *stored weight*: panels in the format of its
//! products, or a plain table. Nothing else is here. f32 masters, moments and averages belong to training, so a model
//! for inference takes only the memory of its format. What layers read in f32 (norms, the selection bias, the router,
//! the embedding table in training) is its own master and is updated in place.

use crate::codes;
use crate::stored::{Stored, StoredForm};
use crate::values::{Values, read_all, read_from};
use hadal_ops::fp8::{Shape, Style};
use hadal_ops::linear::PackedWeight;
use hadal_ops::{Acc, Cx, DType, MatRef, Room, Tensor};
use hadal_weights::Error;
use hadal_weights::list::{Parameter, Role};
use hadal_weights::precision::{Gradients, Precision, Product};
use std::sync::Arc;

/// The purpose that a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Forward only: no form that only backward reads, and no second copy of anything.
    Inference,
    /// Forward and backward.
    Training,
}

/// A stored weight and how often it was written. Data derived from it is computed again when this number changes.
struct Versioned {
    stored: Stored,
    version: u64,
}

/// One parameter of a model.
pub struct Param {
    /// Its entry in the list: name, shape, parts.
    pub spec: Parameter,
    /// Its index in the list, in [`Grads`] and in all data of training.
    pub index: usize,
    held: Arc<Versioned>,
}

/// A stored weight that two models share would be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter `{0}` is shared with another model and cannot be changed: train a separate model")]
pub struct Shared(pub String);

impl Param {
    /// A parameter of zeros, to be filled later.
    pub(crate) fn new(cx: &Cx, spec: Parameter, index: usize, precision: &Precision, purpose: Purpose) -> Self {
        let training = purpose == Purpose::Training;
        let table = || cx.fixed(&spec.shape, DType::F32);
        let stored = match spec.product(precision) {
            None => Stored::Table(table()),
            Some(product) => {
                let packed = room(cx, &spec, product, precision, training);
                let own_master = matches!(spec.role, Role::Router | Role::Embedding);
                if training && own_master { Stored::Both(table(), packed) } else { Stored::Packed(packed) }
            }
        };
        Self { spec, index, held: Arc::new(Versioned { stored, version: 0 }) }
    }

    /// A parameter of a model that only runs, in the memory that `room` provides for its arrays.
    pub(crate) fn to_run<E>(
        spec: Parameter,
        index: usize,
        form: StoredForm,
        room: &mut Room<'_, E>,
    ) -> Result<Self, E> {
        let stored = Stored::in_room(&spec, form, room)?;
        Ok(Self { spec, index, held: Arc::new(Versioned { stored, version: 0 }) })
    }

    /// The data that layers read.
    pub fn stored(&self) -> &Stored {
        &self.held.stored
    }
    /// How often it was written.
    pub fn version(&self) -> u64 {
        self.held.version
    }

    /// The data that layers read, for writing. Increments the version.
    pub fn stored_mut(&mut self) -> Result<&mut Stored, Shared> {
        let Some(held) = Arc::get_mut(&mut self.held) else {
            return Err(Shared(self.spec.name().to_owned()));
        };
        held.version += 1;
        Ok(&mut held.stored)
    }

    /// Makes this parameter use another model's stored weight. From then on neither model can write it.
    pub fn share(&mut self, with: &Self) {
        assert_eq!(self.spec, with.spec, "parameters of two shapes cannot be shared");
        self.held = Arc::clone(&with.held);
    }
    /// Whether another model reads the same stored weight.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.held) > 1
    }

    /// The table of a parameter that is read directly.
    pub fn table(&self) -> &Tensor {
        match self.stored() {
            Stored::Table(table) | Stored::Both(table, _) => table,
            _ => panic!("`{}` has no table", self.spec.name()),
        }
    }
    /// The panels of a parameter that is used in products.
    pub fn weight(&self) -> &PackedWeight {
        match self.stored() {
            Stored::Packed(packed) | Stored::Both(_, packed) => packed,
            Stored::Table(_) => panic!("`{}` is not multiplied with", self.spec.name()),
            Stored::Coded(_) | Stored::Quantised(_) => {
                panic!("`{}` only runs: nothing but forward passes reads it", self.spec.name())
            }
        }
    }
    /// Whether the model itself has the f32 master. This is so if layers read it in f32.
    pub fn is_own_master(&self) -> bool {
        matches!(self.stored(), Stored::Table(t) | Stored::Both(t, _) if t.dtype() == DType::F32)
    }

    /// Packs f32 values `[groups * n, k]`. It is for a weight that has only panels, and whose master belongs to
    /// training.
    pub fn pack(&mut self, cx: &Cx, master: &Tensor) -> Result<(), Shared> {
        match self.stored_mut()? {
            Stored::Packed(packed) => packed.pack(cx, master),
            Stored::Table(_) | Stored::Both(..) => panic!("`{}` is its own master", self.spec.name()),
            Stored::Coded(_) => panic!("`{}` only runs: it has no master", self.spec.name()),
            Stored::Quantised(q) => q.pack(cx, master),
        }
        Ok(())
    }

    /// Changes a parameter that is its own master, and packs panels from it.
    pub fn edit(&mut self, cx: &Cx, edit: impl FnOnce(&mut Tensor)) -> Result<(), Shared> {
        match self.stored_mut()? {
            Stored::Table(table) => edit(table),
            Stored::Both(table, packed) => {
                edit(table);
                packed.pack(cx, table);
            }
            _ => panic!("the master of `{}` is not in the model", self.spec.name()),
        }
        Ok(())
    }

    /// Sets these values, one per element.
    pub fn set(&mut self, cx: &Cx, values: &[f32]) -> Result<(), Shared> {
        let shape = self.spec.shape.clone();
        match self.stored_mut()? {
            Stored::Packed(packed) => packed.pack(cx, &cx.tensor(&shape, values, DType::F32)),
            Stored::Quantised(q) => q.pack(cx, &cx.tensor(&shape, values, DType::F32)),
            Stored::Coded(_) => panic!("`{}` only runs: its values are read from a checkpoint", self.spec.name()),
            Stored::Table(table) => *table = cx.tensor(&shape, values, table.dtype()),
            Stored::Both(table, packed) => {
                table.f32_mut().copy_from_slice(values);
                packed.pack(cx, table);
            }
        }
        Ok(())
    }

    /// Reads all values from `values` with all threads, one band of rows at a time. No second copy of them is kept.
    pub(crate) fn fill(&mut self, cx: &Cx, values: &dyn Values) -> Result<(), Error> {
        let spec = self.spec.clone();
        let k = spec.k();
        let source = if values.halves(&spec) { DType::Bf16 } else { DType::F32 };
        let stored = self.stored_mut().expect("a new parameter is not shared");
        let table = match stored {
            Stored::Packed(packed) if packed.dtype() != DType::U8 => {
                return packed.fill(cx, source, &|row, out| read_from(values, &spec, row * k, out));
            }
            // Codes share scales among 128 rows, and parts may have any number of rows. So all rows are quantised
            // together.
            Stored::Packed(packed) => {
                let mut all = cx.fixed(&spec.shape, DType::F32);
                read_all(cx, values, &spec, &mut all)?;
                packed.pack(cx, &all);
                return Ok(());
            }
            Stored::Coded(coded) => return codes::fill(cx, coded, values, &spec),
            Stored::Quantised(q) => {
                return q.fill(cx, source, &|row, out| read_from(values, &spec, row * k, out));
            }
            Stored::Table(table) | Stored::Both(table, _) => table,
        };
        read_all(cx, values, &spec, table)?;
        if let Stored::Both(table, packed) = stored {
            packed.pack(cx, table);
        }
        Ok(())
    }

    /// Reads the elements from `start` on, with the values that layers read, in f32.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        match self.stored() {
            Stored::Table(t) | Stored::Both(t, _) => match t.dtype() {
                DType::Bf16 => out.iter_mut().zip(&t.bf16()[start..]).for_each(|(o, v)| *o = v.to_f32()),
                _ => out.copy_from_slice(&t.f32()[start..start + out.len()]),
            },
            _ => self.read_rows(start, out),
        }
    }

    /// Reads elements of a weight that has rows.
    fn read_rows(&self, start: usize, out: &mut [f32]) {
        let k = self.spec.k();
        let mut row = vec![0.0; k];
        let mut done = 0;
        while done < out.len() {
            let (at, from) = ((start + done) / k, (start + done) % k);
            self.stored().row(at, &mut row);
            let n = (k - from).min(out.len() - done);
            out[done..done + n].copy_from_slice(&row[from..from + n]);
            done += n;
        }
    }

    /// All elements with the values that layers read, in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.spec.len()];
        self.read(0, &mut all);
        all
    }
}

/// Empty panels for a weight whose products have `product`'s format.
fn room(cx: &Cx, spec: &Parameter, product: Product, precision: &Precision, backward: bool) -> PackedWeight {
    let dtype = match product {
        Product::Compute => cx.compute(),
        Product::Fp8 => DType::U8,
        Product::F32 => DType::F32,
    };
    let shape = if precision.gradients == Gradients::Block { Shape::Block } else { Shape::Tile };
    let gradients = Style { shape, ..Style::TILES };
    PackedWeight::new(cx, spec.groups, spec.n(), spec.k(), dtype, backward).with_gradients(gradients)
}

/// Looks up rows of the embedding into `x` f32 `[T, D]`.
pub(crate) fn embed(cx: &Cx, table: &Param, ids: &Tensor, x: &mut Tensor) {
    table.stored().embed(cx, &table.spec.shape, ids, x);
}

/// Adds to the embedding's gradient, unless it is frozen.
pub(crate) fn embed_backward<'a>(cx: &Cx, dx: impl Into<MatRef<'a>>, ids: &Tensor, table: &Param, grads: &mut Grads) {
    if let Some((d_table, acc)) = grads.target(table) {
        hadal_ops::embedding::backward(cx, dx, ids, d_table, acc);
    }
}

/// The gradients of one step: one f32 tensor for each trained parameter.
///
/// The first contribution of a step overwrites and later ones add, so nothing is cleared in between.
pub struct Grads {
    slots: Vec<Option<Slot>>,
}

struct Slot {
    grad: Tensor,
    fresh: bool,
}

impl Grads {
    /// Gradients for every trainable parameter, by its index.
    pub fn new<'a>(cx: &Cx, params: impl Iterator<Item = &'a Param>) -> Self {
        Self::of(cx, params, |_| true)
    }

    /// Gradients for the trainable parameters that `wanted` accepts. The others are frozen: they need no memory, and
    /// their products are not computed.
    pub fn of<'a>(cx: &Cx, params: impl Iterator<Item = &'a Param>, wanted: impl Fn(&Param) -> bool) -> Self {
        let slot = |p: &Param| {
            let trained = p.spec.trainable() && wanted(p);
            trained.then(|| Slot { grad: cx.fixed(&p.spec.shape, DType::F32), fresh: true })
        };
        Self { slots: params.map(slot).collect() }
    }

    /// The gradient of `param`, and whether this contribution overwrites or adds. `None` for a frozen parameter.
    pub fn target(&mut self, param: &Param) -> Option<(&mut Tensor, Acc)> {
        let slot = self.slots[param.index].as_mut()?;
        let acc = if slot.fresh { Acc::Write } else { Acc::Add };
        slot.fresh = false;
        Some((&mut slot.grad, acc))
    }

    /// Zeroes gradients without any contribution (of a loss that was switched off).
    pub fn finish(&mut self) {
        for slot in self.slots.iter_mut().flatten().filter(|s| s.fresh) {
            slot.grad.f32_mut().fill(0.0);
            slot.fresh = false;
        }
    }

    /// Starts a new step: the next contributions overwrite.
    pub fn restart(&mut self) {
        self.slots.iter_mut().flatten().for_each(|s| s.fresh = true);
    }

    /// The gradient of parameter `i`. `None` if it is not trained.
    pub fn get(&self, i: usize) -> Option<&Tensor> {
        self.slots[i].as_ref().map(|s| &s.grad)
    }

    /// All gradients in the list's order.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.slots.iter().flatten().map(|s| &s.grad)
    }
}

#[cfg(test)]
mod tests {
    use super::Param;
    use crate::stored::StoredForm;
    use hadal_ops::{Cx, DType};
    use hadal_weights::ModelConfig;
    use hadal_weights::list::parameters;
    use hadal_weights::precision::RunFormats;

    #[test]
    fn weights_to_be_read_take_what_their_file_takes_for_every_built_in_configuration() {
        let cx = Cx::cpu(1, DType::Bf16);
        for name in ModelConfig::names() {
            for tied in [false, true] {
                let config =
                    ModelConfig { tie_word_embeddings: tied, ..ModelConfig::named(name).expect("it has a name") };
                let (mut file, mut stored) = (0, 0);
                for (index, mut spec) in parameters(&config).into_iter().enumerate() {
                    file += 2 * spec.len();
                    // All experts have the same size. So memory for one expert is enough, and none of its pages is
                    // touched.
                    let groups = std::mem::replace(&mut spec.groups, 1);
                    spec.shape[0] /= groups;
                    let form = StoredForm::of(&spec, DType::Bf16, RunFormats::COMPUTE, true, false);
                    let Ok(param) = Param::to_run(spec, index, form, &mut cx.room());
                    stored += groups * param.stored().bytes();
                }
                let share = stored as f64 / file as f64;
                println!("{name}: {stored} bytes stored, {file} in a BF16 file: {share:.4}");
                assert!(share <= 1.03, "{name}, tied {tied}: {share}");
            }
        }
    }
}
