//! Message signalled interrupts: decoding an address/data pair into a [`Message`].
//!
//! Layout: AMD APM vol. 2, 16.12 / Intel SDM vol. 3, *Message Signalled Interrupts*. Extended destination ids (bits 11:5
//! of the address carry destination bits 14:8) are announced to guests by Xen's CPUID leaf 4.

use super::interrupt::{DeliveryMode, Message, Trigger};

/// First address of the range that means an interrupt instead of memory.
pub const ADDRESS_BASE: u64 = 0xfee0_0000;
/// Size of that range in bytes.
pub const ADDRESS_SIZE: u64 = 0x10_0000;

const REDIRECTION_HINT: u64 = 1 << 3;
const LOGICAL: u64 = 1 << 2;
const LEVEL_ASSERT: u32 = 1 << 14;
const TRIGGER_LEVEL: u32 = 1 << 15;

/// Decodes a device's write of `data` to `address`. `extended_destination` says whether the guest was told of 15-bit
/// destinations; without it address bits 11:4 are ignored, as on hardware without interrupt remapping.
///
/// `None` if it signals nothing: the address is not an interrupt's, the delivery mode is the reserved one, or the
/// message takes a level back (which local APICs ignore).
#[must_use]
pub fn decode(address: u64, data: u32, extended_destination: bool) -> Option<Message> {
    if address & !(ADDRESS_SIZE - 1) != ADDRESS_BASE {
        return None;
    }
    let trigger = if data & TRIGGER_LEVEL == 0 { Trigger::Edge } else { Trigger::Level };
    if trigger == Trigger::Level && data & LEVEL_ASSERT == 0 {
        return None;
    }
    let mode = match DeliveryMode::from_bits(data >> 8)? {
        DeliveryMode::Fixed if address & REDIRECTION_HINT != 0 => DeliveryMode::LowestPriority,
        mode => mode,
    };
    let low = (address >> 12) & 0xff;
    let high = if extended_destination { (address >> 5) & 0x7f } else { 0 };
    Some(Message {
        destination: (high << 8 | low) as u32,
        logical: address & LOGICAL != 0,
        mode,
        vector: data as u8,
        trigger,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(destination: u32) -> Message {
        Message { destination, logical: false, mode: DeliveryMode::Fixed, vector: 0x41, trigger: Trigger::Edge }
    }

    #[test]
    fn physical_fixed_edge() {
        assert_eq!(decode(0xfee0_5000, 0x0041, false), Some(message(5)));
    }

    #[test]
    fn only_the_interrupt_range_is_decoded() {
        assert_eq!(decode(0xfed0_5000, 0x41, false), None);
        assert_eq!(decode(0xfef0_0000, 0x41, false), None);
        assert_eq!(decode(0x1_fee0_5000, 0x41, false), None);
        assert!(decode(0xfeef_f000, 0x41, false).is_some());
    }

    #[test]
    fn extended_destination_is_opt_in() {
        let address = 0xfee0_0000 | 0x34 << 12 | 0x12 << 5;
        assert_eq!(decode(address, 0x41, false), Some(message(0x34)));
        assert_eq!(decode(address, 0x41, true), Some(message(0x1234)));
        // Bit 4 belongs to neither field.
        assert_eq!(decode(address | 1 << 4, 0x41, true), Some(message(0x1234)));
    }

    #[test]
    fn logical_and_redirection_hint() {
        let m = decode(0xfee0_3004, 0x41, false).unwrap();
        assert!(m.logical);
        assert_eq!(m.mode, DeliveryMode::Fixed);
        let m = decode(0xfee0_300c, 0x41, false).unwrap();
        assert_eq!(m.mode, DeliveryMode::LowestPriority);
        let m = decode(0xfee0_300c, 0x0441, false).unwrap();
        assert_eq!(m.mode, DeliveryMode::Nmi, "the hint changes fixed messages only");
    }

    #[test]
    fn levels() {
        assert_eq!(decode(0xfee0_0000, 0xc041, false).unwrap().trigger, Trigger::Level);
        assert_eq!(decode(0xfee0_0000, 0x8041, false), None, "a de-assert signals nothing");
        assert_eq!(decode(0xfee0_0000, 0x4041, false).unwrap().trigger, Trigger::Edge);
    }

    #[test]
    fn reserved_delivery_mode() {
        assert_eq!(decode(0xfee0_0000, 0x0341, false), None);
    }
}
