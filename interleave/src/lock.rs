//! A lock for many readers or one writer, as in the `spin` crate as far as that is used. Taking it is a step, and releasing it
//! is a locked operation on the processor: stores before that are seen.

use std::ops::{Deref, DerefMut};
use std::sync;

use super::{release, step, wait};

/// The lock.
#[derive(Default, Debug)]
pub struct RwLock<T>(sync::RwLock<T>);

/// Access for reading.
#[derive(Debug)]
pub struct RwLockReadGuard<'a, T>(sync::RwLockReadGuard<'a, T>);

/// Access for writing.
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T>(sync::RwLockWriteGuard<'a, T>);

impl<T> RwLock<T> {
    /// Takes it for reading, when nobody has it for writing.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        loop {
            step();
            if let Ok(guard) = self.0.try_read() {
                return RwLockReadGuard(guard);
            }
            wait();
        }
    }

    /// Takes it for writing if nobody has it.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        step();
        release();
        self.0.try_write().ok().map(RwLockWriteGuard)
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        release();
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        // Others may find it held.
        step();
        release();
    }
}
