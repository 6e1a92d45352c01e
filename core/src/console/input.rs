//! Console input: who gets what is typed.
//!
//! Three times Ctrl-A switches between Radon, where a key asks for a report, and dom0, where bytes are queued until its
//! kernel reads them (`CONSOLEIO_read`).

use arrayvec::ArrayVec;

/// Bytes queued for dom0 at most; what comes beyond is lost, as on a real serial port.
const QUEUE: usize = 1024;
/// How often the switch character has to come in a row.
const SWITCH_COUNT: u8 = 3;

/// What a byte came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Received {
    /// Nothing yet.
    Nothing,
    /// Something was queued for dom0.
    Queued,
    /// A debug key was pressed.
    Key(u8),
    /// The focus moved.
    Switched,
}

/// Who gets the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Focus {
    /// Radon's debug keys.
    Hypervisor,
    /// dom0.
    Hardware,
}

/// State of the input.
pub(super) struct Input {
    focus: Focus,
    /// The switch character (`conswitch=`): 1 is Ctrl-A; 0: there is none.
    switch: u8,
    /// How often it came in a row.
    seen: u8,
    queue: ArrayVec<u8, QUEUE>,
}

impl Input {
    pub(super) const fn new(switch: u8) -> Input {
        Input { focus: Focus::Hypervisor, switch, seen: 0, queue: ArrayVec::new_const() }
    }

    pub(super) fn focus(&self) -> Focus {
        self.focus
    }

    /// The letter that switches together with Ctrl, if there is one.
    pub(super) fn switch_letter(&self) -> Option<char> {
        match self.switch {
            0 => None,
            c => Some(char::from(c.wrapping_add(b'a').wrapping_sub(1))),
        }
    }

    /// Moves the focus.
    pub(super) fn switch(&mut self) {
        self.seen = 0;
        self.focus = match self.focus {
            Focus::Hypervisor => Focus::Hardware,
            Focus::Hardware => Focus::Hypervisor,
        };
    }

    /// Takes a byte from the serial port.
    pub(super) fn receive(&mut self, byte: u8) -> Received {
        if self.switch != 0 && byte == self.switch {
            self.seen = self.seen.saturating_add(1);
            if self.seen < SWITCH_COUNT {
                return Received::Nothing;
            }
            self.switch();
            return Received::Switched;
        }
        // Fewer of them were meant for whoever has the focus.
        let held_back = core::mem::take(&mut self.seen);
        match self.focus {
            Focus::Hypervisor => Received::Key(byte),
            Focus::Hardware => {
                for byte in core::iter::repeat_n(self.switch, usize::from(held_back)).chain([byte]) {
                    let _ = self.queue.try_push(byte);
                }
                Received::Queued
            }
        }
    }

    /// Takes queued bytes out. Returns how many.
    pub(super) fn take(&mut self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.queue.len());
        for (to, from) in to.iter_mut().zip(self.queue.drain(..count)) {
            *to = from;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_control_a_switch() {
        let mut input = Input::new(1);
        assert_eq!(input.receive(b'h'), Received::Key(b'h'));
        assert_eq!([1, 1, 1].map(|b| input.receive(b)), [Received::Nothing, Received::Nothing, Received::Switched]);
        assert_eq!(input.focus(), Focus::Hardware);
        for b in [b'a', 1, 1, b'b'] {
            input.receive(b);
        }
        let mut got = [0; 8];
        assert_eq!(input.take(&mut got), 4);
        assert_eq!(&got[..4], [b'a', 1, 1, b'b']);
        assert_eq!([1, 1, 1].map(|b| input.receive(b))[2], Received::Switched);
        assert_eq!(input.focus(), Focus::Hypervisor);
    }

    #[test]
    fn what_nobody_reads_is_lost_in_the_end() {
        let mut input = Input::new(1);
        input.switch();
        for _ in 0..QUEUE + 10 {
            assert_eq!(input.receive(b'x'), Received::Queued);
        }
        assert_eq!(input.take(&mut [0; 2 * QUEUE]), QUEUE);
    }
}
