//! Tests of the store as a whole.

mod crash;
mod damage;
mod fault;
mod helper;
mod life;
mod model;
mod replication;
