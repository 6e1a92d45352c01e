//! Records: a descriptor and so many bytes.

use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::save::{Descriptor, HVM_SAVE_CODE_END};
use zerocopy::{FromBytes, IntoBytes};

/// A record that is to be written.
pub(super) struct Record {
    pub(super) typecode: u16,
    pub(super) instance: u16,
    pub(super) bytes: Vec<u8>,
}

/// Appends a record to a stream.
pub(super) fn write(stream: &mut Vec<u8>, record: &Record) {
    let Record { typecode, instance, bytes } = record;
    let descriptor = Descriptor { typecode: *typecode, instance: *instance, length: bytes.len() as u32 };
    stream.extend_from_slice(descriptor.as_bytes());
    stream.extend_from_slice(bytes);
}

/// The records of a stream, up to the one that ends it.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next record: its descriptor and its bytes; `None` at the end.
    ///
    /// # Errors
    /// `ENODATA`: the stream stops in the middle.
    pub(super) fn next(&mut self) -> Result<Option<(Descriptor, &'a [u8])>, Errno> {
        let (descriptor, rest) = Descriptor::read_from_prefix(self.0).map_err(|_| Errno::ENODATA)?;
        if descriptor.typecode == HVM_SAVE_CODE_END {
            return Ok(None);
        }
        let (bytes, rest) = rest.split_at_checked(descriptor.length as usize).ok_or(Errno::ENODATA)?;
        self.0 = rest;
        Ok(Some((descriptor, bytes)))
    }
}
