//! Laws of the two engines, checked by models: see each module.

mod ranges;
mod ranges_search;
mod ranges_world;
