//! The 2-level event ABI: a pending and a mask bit per port in the shared information page, and in each vCPU's
//! `vcpu_info` a selector bit per word of pending bits.
//!
//! Bits are numbered as in little-endian memory, so 32-bit and 64-bit guests differ only in where the mask starts and in
//! how many ports a selector bit stands for.
//!
//! Lock protocol: the caller holds the channel's lock and the channel is open.

use radon_abi::xen::shared_info;

use super::channel::ChannelState;
use super::fifo::News;
use super::vcpu::field;
use crate::domain::Domain;
use crate::platform::PhysMemory;
use crate::types::{MachineAddr, Port};

/// The 32-bit word that holds a port's bit in a bitmap at `bitmap` within the shared information page, and the bit.
fn bit(domain: &Domain, bitmap: u64, port: Port) -> (MachineAddr, u32) {
    let offset = bitmap.wrapping_add(u64::from(port.0 / 32).wrapping_mul(4));
    (field(domain.shared_info.addr(), offset), 1u32.wrapping_shl(port.0)) // Modulo 32.
}

fn mask_bitmap(compat: bool) -> u64 {
    if compat { shared_info::COMPAT_EVTCHN_MASK } else { shared_info::EVTCHN_MASK }
}

/// The selector bit for a port.
fn selector(port: Port, compat: bool) -> u32 {
    if compat { port.0 / 32 } else { port.0 / 64 }
}

/// Atomically clears a bit by way of the 64 bits around it. Returns whether it was set.
fn clear(memory: &dyn PhysMemory, (word, bit): (MachineAddr, u32)) -> bool {
    let shift = if word.0 & 4 == 0 { 0 } else { 32 };
    let bits = u64::from(bit).wrapping_shl(shift);
    memory.fetch_and_u64(MachineAddr(word.0 & !7), !bits) & bits != 0
}

/// Whether an event is pending.
pub(super) fn is_pending(memory: &dyn PhysMemory, domain: &Domain, port: Port) -> bool {
    let (word, bit) = bit(domain, shared_info::EVTCHN_PENDING, port);
    memory.load_u32(word) & bit != 0
}

/// Whether an event is masked.
pub(super) fn is_masked(memory: &dyn PhysMemory, domain: &Domain, port: Port) -> bool {
    let (word, bit) = bit(domain, mask_bitmap(domain.events.is_compat()), port);
    memory.load_u32(word) & bit != 0
}

/// Makes an event pending.
pub(super) fn set_pending(memory: &dyn PhysMemory, domain: &Domain, port: Port, state: &ChannelState) -> News {
    let (word, bit) = bit(domain, shared_info::EVTCHN_PENDING, port);
    if memory.fetch_or_u32(word, bit) & bit != 0 {
        return News::default();
    }
    let upcall = !is_masked(memory, domain, port) && mark(memory, domain, port, state);
    News { first: true, upcall }
}

/// Clears the mask, and tells the vCPU if the event is pending. The order of the steps is the mirror image of
/// [`set_pending`]'s, so that one of the two sees the other.
pub(super) fn unmask(memory: &dyn PhysMemory, domain: &Domain, port: Port, state: &ChannelState) -> News {
    let was_masked = clear(memory, bit(domain, mask_bitmap(domain.events.is_compat()), port));
    let upcall = was_masked && is_pending(memory, domain, port) && mark(memory, domain, port, state);
    News { first: false, upcall }
}

/// Clears pending. Returns whether it was.
pub(super) fn clear_pending(memory: &dyn PhysMemory, domain: &Domain, port: Port) -> bool {
    clear(memory, bit(domain, shared_info::EVTCHN_PENDING, port))
}

/// Sets the port's selector bit in the `vcpu_info` of the vCPU that it notifies.
fn mark(memory: &dyn PhysMemory, domain: &Domain, port: Port, state: &ChannelState) -> bool {
    let compat = domain.events.is_compat();
    domain.vcpu(state.vcpu).is_some_and(|v| v.events.mark(memory, Some(selector(port, compat)), compat))
}
