//! The program as it is used: started as a process, against an agent that the test plays on a unix socket.

// Helpers of tests are tests, though clippy looks at the attribute only; a skipped test says why.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod asking;
mod changing;
mod chart;
mod cluster;
mod demo;
mod etcd;
mod fake;
mod help;
mod installing;
mod judging;
mod kubernetes;
mod plain_host;
mod policies;
mod refusing;
mod running;
mod runtimes;
