//! Tests of all faces.
