//! Bytes of the fuzzer, taken piece by piece. When they are used up, zeros come.

/// What is left of the input.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Input<'a> {
        Input(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut to = [0; N];
        let piece = self.bytes(N);
        to[..piece.len()].copy_from_slice(piece);
        to
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// At most this many bytes.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        piece
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.u8()) % all.len()]
    }

    /// A number: often small, often at a limit of its size, sometimes any.
    pub(crate) fn number(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=199 => u64::from(small),
            200..=215 => self.u16().into(),
            216..=223 => self.u32().into(),
            224..=231 => self.u64(),
            232..=239 => 1 << (self.u8() % 64),
            240..=247 => (1 << (self.u8() % 64)) - 1,
            _ => u64::MAX - u64::from(self.u8()),
        }
    }
}
