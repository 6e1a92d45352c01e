//! Memory operations (under construction).
