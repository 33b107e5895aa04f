#![no_std]
#![forbid(unsafe_code)]
//! (docs follow)
extern crate alloc;
