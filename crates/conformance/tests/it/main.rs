//! The suite against real plugins, and against ones with planted faults.
