//! Tests of the stores from outside.

mod file;
