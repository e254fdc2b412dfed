//! Hands out a model's parameters in the order of the list, which also gives names and shapes.

use crate::linear::Linear;
use crate::param::Param;
use hadal_ops::Cx;
use hadal_weights::list::Role;
use hadal_weights::precision::Precision;
use std::vec::IntoIter;

/// Walks along the parameters. Layers take them in order and name the role of each.
pub(crate) struct Builder<'a> {
    pub(crate) cx: &'a Cx,
    /// Formats of the products.
    pub(crate) precision: Precision,
    list: IntoIter<Param>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(cx: &'a Cx, precision: Precision, params: Vec<Param>) -> Self {
        Self { cx, precision, list: params.into_iter() }
    }

    /// Takes the next parameter, which must have this role.
    pub(crate) fn take(&mut self, role: Role) -> Param {
        let param = self.list.next().expect("the list has a parameter for each layer's part");
        assert_eq!(param.spec.role, role, "the list has `{}` where a layer takes {role:?}", param.spec.name());
        param
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
        let left = self.list.next().map(|param| param.spec.name().to_owned());
        assert_eq!(left, None, "no layer took this parameter");
    }
}
