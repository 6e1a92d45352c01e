//! What guests write, gathered into lines.
//!
//! A guest's bytes are held back until a line ends, so that lines of several guests do not mix, and control characters
//! (with which a guest could confuse a terminal) are replaced.

use arrayvec::ArrayVec;

use crate::types::DomainId;

/// Bytes of a guest's line at most; longer ones are broken.
pub(super) const LINE: usize = 200;
/// Guests with an unfinished line at a time; the one that was begun first is ended for one more.
const SLOTS: usize = 16;

/// A line, whole or not.
pub(super) type Text = ArrayVec<u8, LINE>;

/// Unfinished lines of guests, the oldest first.
pub(super) struct GuestLines {
    slots: ArrayVec<(DomainId, Text), SLOTS>,
}

impl GuestLines {
    pub(super) const fn new() -> GuestLines {
        GuestLines { slots: ArrayVec::new_const() }
    }

    /// Adds a byte of a guest. Returns the lines that have to be printed now, which may include another guest's.
    pub(super) fn push(&mut self, guest: DomainId, byte: u8) -> ArrayVec<(DomainId, Text), 2> {
        let mut ended = ArrayVec::new();
        if byte == b'\r' || byte == 0 {
            return ended;
        }
        let at = self.slots.iter().position(|(id, _)| *id == guest).unwrap_or_else(|| {
            if self.slots.is_full()
                && let Some(oldest) = self.slots.pop_at(0)
            {
                _ = ended.try_push(oldest);
            }
            // There is room now.
            _ = self.slots.try_push((guest, Text::new()));
            self.slots.len().saturating_sub(1)
        });
        if let Some((_, text)) = self.slots.get_mut(at) {
            if byte != b'\n' {
                // A line that is full has been printed.
                _ = text.try_push(if byte == b'\t' || (0x20..0x7f).contains(&byte) { byte } else { b'?' });
            }
            if (byte == b'\n' || text.is_full())
                && let Some(line) = self.slots.pop_at(at)
            {
                _ = ended.try_push(line);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn feed(lines: &mut GuestLines, guest: u16, bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let out = bytes.iter().flat_map(|&b| lines.push(DomainId(guest), b));
        out.map(|(id, text)| (id.0, text.to_vec())).collect()
    }

    #[test]
    fn lines_of_guests_do_not_mix() {
        let mut lines = GuestLines::new();
        assert_eq!(feed(&mut lines, 1, b"hel"), []);
        assert_eq!(feed(&mut lines, 2, b"other\n"), [(2, b"other".to_vec())]);
        assert_eq!(feed(&mut lines, 1, b"lo\r\n\n"), [(1, b"hello".to_vec()), (1, b"".to_vec())]);
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(feed(&mut GuestLines::new(), 1, b"\x1b[2J\xff\ta\0b\n"), [(1, b"?[2J?\tab".to_vec())]);
    }

    #[test]
    fn long_lines_are_broken_and_nothing_is_lost() {
        let out = feed(&mut GuestLines::new(), 1, &[b'x'; LINE * 2 + 1]);
        assert_eq!(out.iter().map(|(_, t)| t.len()).collect::<Vec<_>>(), [LINE, LINE]);
    }

    #[test]
    fn one_guest_too_many_ends_the_oldest_line() {
        let mut lines = GuestLines::new();
        for guest in 0..SLOTS as u16 {
            assert_eq!(feed(&mut lines, guest, b"x"), []);
        }
        assert_eq!(feed(&mut lines, 99, b"y"), [(0, b"x".to_vec())]);
        assert_eq!(feed(&mut lines, 99, b"z\n"), [(99, b"yz".to_vec())]);
    }
}
