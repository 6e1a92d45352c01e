//! The mechanism.
#![no_std]
#![allow(unsafe_code)]
