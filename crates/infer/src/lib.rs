//! hadal.
