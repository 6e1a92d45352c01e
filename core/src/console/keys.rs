//! Debug keys: reports that a person at the serial console, or `xl debug-keys`, asks for.

use alloc::string::String;
use alloc::sync::Arc;

use radon_abi::xen::VIRQ_DEBUG;

use super::{Console, DEBUG_KEYS};
use crate::domain::Domain;
use crate::evtchn;
use crate::hypervisor::Hypervisor;
use crate::platform::PowerAction;
use crate::types::DomainId;

/// A key's report. Runs without any lock.
pub type Handler = fn(&Hypervisor);

/// A debug key.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) description: &'static str,
    pub(super) handler: Handler,
}

/// The keys that need nothing but this crate.
pub(super) const BUILT_IN: &[(u8, &str, Handler)] = &[
    (b'h', "show this message", help),
    (b'c', "dump ACPI Cx structures", crate::ops::power::show),
    (b'e', "dump evtchn info", event_channels),
    (b'q', "dump domain (and guest debug) info", domains),
    (b'm', "memory info", memory),
    (b'r', "dump run queues", run_queues),
    (b't', "display clock info", clock),
    (b'R', "reboot machine", reboot),
];

impl Console {
    /// Makes a key known; it takes the place of one known before. Keys are ASCII.
    pub fn register(&self, key: u8, description: &'static str, handler: Handler) {
        if let Some(slot) = self.keys.lock().get_mut(usize::from(key)) {
            *slot = Some(Key { description, handler });
        }
    }

    /// A key was pressed, on the serial port or by the toolstack (`XEN_SYSCTL_debug_keys`). No lock may be held.
    pub fn press(&self, hv: &Hypervisor, key: u8) {
        let found = self.keys.lock().get(usize::from(key)).copied().flatten();
        match found {
            Some(found) => {
                self.say(hv, format_args!("'{}' pressed -> {}", char::from(key), found.description));
                (found.handler)(hv);
            }
            None => self.say(hv, format_args!("unknown key '{}' (h for help)", key.escape_ascii())),
        }
    }
}

/// All domains, one at a time and without the list's lock in between.
pub(super) fn each_domain(hv: &Hypervisor, mut f: impl FnMut(&Arc<Domain>)) {
    let mut next = Some(DomainId(0));
    while let Some(domain) = next.and_then(|id| hv.domains.next_from(id)) {
        f(&domain);
        next = domain.id.0.checked_add(1).map(DomainId);
    }
}

fn help(hv: &Hypervisor) {
    for key in 0..DEBUG_KEYS as u8 {
        let found = hv.console.keys.lock().get(usize::from(key)).copied().flatten();
        if let Some(found) = found {
            hv.console.say(hv, format_args!(" key '{}' (ascii '{key:02x}') => {}", char::from(key), found.description));
        }
    }
}

fn event_channels(hv: &Hypervisor) {
    each_domain(hv, |domain| evtchn::dump(hv, domain, &mut |line| hv.console.say(hv, line)));
}

fn domains(hv: &Hypervisor) {
    each_domain(hv, |domain| {
        let account = hv.frames.account(domain.id);
        hv.console.say(
            hv,
            format_args!(
                "General information for domain {}: role={:?} nr_pages={} max_pages={} vcpus={} shutdown={:?} vm_assist={:#x}",
                domain.id.0,
                domain.role,
                account.pages(),
                account.limit(),
                domain.vcpus().len(),
                domain.shutdown_reason(),
                domain.vm_assist.load(crate::sync::atomic::Ordering::Relaxed),
            ),
        );
        for vcpu in domain.vcpus() {
            let pending = vcpu.events.upcall_pending(hv.platform.memory());
            hv.console.say(
                hv,
                format_args!(
                    "    VCPU{}: upcall_pend={} vcpu_info={:?}",
                    vcpu.id.0,
                    u8::from(pending),
                    vcpu.events.info()
                ),
            );
        }
        evtchn::dump(hv, domain, &mut |line| hv.console.say(hv, line));
        // The guest prints what it knows itself.
        for vcpu in domain.vcpus() {
            evtchn::send_vcpu_virq(hv, vcpu, VIRQ_DEBUG);
        }
    });
}

fn memory(hv: &Hypervisor) {
    let frames = &hv.frames;
    hv.console.say(
        hv,
        format_args!(
            "Physical memory: {} free frames, {} of them to be scrubbed, {} claimed, frames end at {}",
            frames.free_frames(),
            frames.dirty_frames(),
            frames.claimed_frames(),
            frames.end()
        ),
    );
}

fn run_queues(hv: &Hypervisor) {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = hv.scheduler.dump(hv, &mut text);
    hv.console.say(hv, format_args!("{text}"));
}

fn clock(hv: &Hypervisor) {
    let clock = hv.platform.clock();
    hv.console.say(hv, format_args!("System time {}; TSC {} kHz; {clock:?}", hv.platform.now(), clock.khz));
}

fn reboot(hv: &Hypervisor) {
    hv.console.say(hv, format_args!("'R' pressed -> rebooting machine"));
    hv.platform.power(PowerAction::Reboot);
}
