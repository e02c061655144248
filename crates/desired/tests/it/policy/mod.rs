//! Policies as tables of nftables, run with packets in the simulator beside the oracle.

mod cases;
mod planted;
mod random;
