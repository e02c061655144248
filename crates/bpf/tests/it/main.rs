//! Programs of ours in the kernel, with packets through them.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod ipip;
