//! Tests of the roll.
