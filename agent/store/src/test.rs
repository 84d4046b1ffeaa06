//! Tests of the store as a whole.

mod helper;
mod model;
