//! Worlds and packets that nobody thought of.

use super::plane::DataPlane;

/// Where two differ.
#[derive(Debug)]
pub struct Divergence;

/// TODO
pub fn compare(_a: &mut dyn DataPlane, _b: &mut dyn DataPlane, _seed: u64, _count: u32) -> Option<Divergence> { None }
/// TODO
pub fn comparison() {}
