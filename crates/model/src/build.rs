//! Hands out a model's parameters in the order of the one list, from which names and shapes come.

use crate::linear::Linear;
use crate::param::{Param, Purpose};
use hadal_ops::{Cx, DType};
use hadal_weights::ModelConfig;
use hadal_weights::list::{Parameter, Role, parameters};
use hadal_weights::precision::Precision;
use std::iter::Enumerate;
use std::vec::IntoIter;

/// A walk along the list: layers take what is theirs in its order, and say what they take it for.
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

    /// The next parameter, which must be of this role.
    pub(crate) fn take(&mut self, role: Role) -> Param {
        let (index, spec) = self.list.next().expect("the list has a parameter for each layer's part");
        assert_eq!(spec.role, role, "the list has `{}` where a layer takes {role:?}", spec.name());
        Param::new(self.cx, spec, index, &self.precision, self.purpose, self.table)
    }

    /// The next parameter as a linear layer.
    pub(crate) fn linear(&mut self, role: Role) -> Linear {
        Linear::new(self.take(role))
    }

    /// The next parameter, a gain.
    pub(crate) fn norm(&mut self) -> Param {
        self.take(Role::Norm)
    }

    /// To be called when every layer has taken its own.
    pub(crate) fn finish(mut self) {
        let left = self.list.next().map(|(_, spec)| spec.name().to_owned());
        assert_eq!(left, None, "no layer took this parameter");
    }
}
