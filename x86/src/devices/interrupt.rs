//! Interrupt messages: what I/O APICs, MSIs and inter-processor interrupts have in common. Pure data, no state.

/// The lowest vector that a fixed interrupt may carry; 0 to 15 are illegal (AMD APM vol. 2, 16.4.5, *illegal vector*).
pub const FIRST_LEGAL_VECTOR: u8 = 16;

/// What a message does at its destination (the three-bit delivery mode of ICR, LVT, RTE and MSI data).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryMode {
    /// An interrupt of the given vector at every destination.
    Fixed,
    /// An interrupt of the given vector at the one destination with the lowest priority.
    LowestPriority,
    /// System management interrupt. Radon's guests have no SMM: accepted and dropped.
    Smi,
    /// Non-maskable interrupt; the vector is ignored.
    Nmi,
    /// INIT: resets the processor into wait-for-SIPI.
    Init,
    /// Start-up; the vector is the page number to start at.
    StartUp,
    /// An interrupt whose vector an 8259 supplies.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes bits 2:0. `None` for the reserved value 3.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<DeliveryMode> {
        match bits & 7 {
            0 => Some(DeliveryMode::Fixed),
            1 => Some(DeliveryMode::LowestPriority),
            2 => Some(DeliveryMode::Smi),
            4 => Some(DeliveryMode::Nmi),
            5 => Some(DeliveryMode::Init),
            6 => Some(DeliveryMode::StartUp),
            7 => Some(DeliveryMode::ExtInt),
            _ => None,
        }
    }

    /// Whether the message ends up in the IRR, so that its vector and trigger mode mean something.
    #[must_use]
    pub const fn carries_vector(self) -> bool {
        matches!(self, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
    }
}

/// How an interrupt is signalled, which decides whether its EOI goes to the I/O APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// A rising edge: one message.
    Edge,
    /// A level: a message now, and again after EOI while the line stays asserted.
    Level,
}

/// An interrupt message on its way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Destination: an APIC id, or a logical destination if `logical`. 8 bits from xAPIC senders, I/O APICs and MSIs
    /// (15 with extended destination ids), 32 bits from x2APIC senders.
    pub destination: u32,
    /// Whether `destination` is matched with logical destination registers.
    pub logical: bool,
    /// What the message does.
    pub mode: DeliveryMode,
    /// Its vector.
    pub vector: u8,
    /// How it was triggered.
    pub trigger: Trigger,
}
