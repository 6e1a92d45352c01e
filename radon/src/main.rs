//! The bootable image.
#![no_std]
#![no_main]
