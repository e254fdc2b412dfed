//! Hands out a model's parameters in the order of the list, which also gives names and shapes.

use crate::linear::Linear;
use crate::param::{Param, Purpose};
use hadal_ops::{Cx, DType};
use hadal_weights::ModelConfig;
use hadal_weights::list::{Parameter, Role, parameters};
use hadal_weights::precision::Precision;
use std::iter::Enumerate;
use std::vec::IntoIter;

/// Walks along the list. Layers take their parameters in order and name the role of each.
pub(crate) struct Builder<'a> {
    pub(crate) cx: &'a Cx,
    /// Formats of the products.
    pub(crate) precision: Precision,
    purpose: Purpose,
    table: DType,
    list: Enumerate<IntoIter<Parameter>>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(cx: &'a Cx, config: &ModelConfig, precision: Precision, purpose: Purpose, table: DType) -> Self {
        Self { cx, precision, purpose, table, list: parameters(config).into_iter().enumerate() }
    }

    /// Takes the next parameter, which must have this role.
    pub(crate) fn take(&mut self, role: Role) -> Param {
        let (index, spec) = self.list.next().expect("the list has a parameter for each layer's part");
        assert_eq!(spec.role, role, "the list has `{}` where a layer takes {role:?}", spec.name());
        Param::new(self.cx, spec, index, &self.precision, self.purpose, self.table)
    }

    /// Takes the next parameter as a linear layer.
    pub(crate) fn linear(&mut self, role: Role) -> Linear {
        Linear::new(self.take(role))
    }

    /// Takes the next parameter as a gain.
    pub(crate) fn norm(&mut self) -> Param {
        self.take(Role::Norm)
    }

    /// Call this when every layer has taken its parameters.
    pub(crate) fn finish(mut self) {
        let left = self.list.next().map(|(_, spec)| spec.name().to_owned());
        assert_eq!(left, None, "no layer took this parameter");
    }
}
