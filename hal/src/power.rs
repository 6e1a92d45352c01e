//! Switching off and restarting.
//!
//! Each way is tried in turn, from the one that the firmware's tables name to the one that always works on a PC. Takes
//! no locks: what is needed is fixed at start.
// Unsafe: ports, and a triple fault on purpose.
#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};
use radon_core::options::RebootMethod;
use radon_x86::acpi::{Acpi, GenericAddress, SleepType};
use spin::once::Once;

use crate::cpu::registers::{self, halt_forever, inb, inw, outb, outw};
use crate::{paging, report, time};

/// QEMU's isa-debug-exit device: leaves the emulator with twice the value plus one.
const DEBUG_EXIT: u16 = 0xf4;
const SLEEP_ENABLE: u16 = 1 << 13;

struct Registers {
    control_a: Option<u16>,
    control_b: Option<u16>,
    sleep_type: Option<SleepType>,
    sleep_control: Option<GenericAddress>,
    reset: Option<(GenericAddress, u8)>,
}

static REGISTERS: Once<Registers> = Once::new();

/// Notes which registers there are, and takes power management over from the firmware.
pub(crate) fn init(acpi: &Acpi) {
    let Some(fadt) = &acpi.fadt else { return };
    let port = |r: Option<GenericAddress>| r.and_then(|r| r.port());
    let control_a = port(fadt.pm1a_control);
    // A reset register in memory is mapped now: at the end there may be no frame for it.
    if let Some((r, _)) = fadt.reset.filter(|(r, _)| r.space == 0) {
        let _ = paging::map_device(radon_core::types::MachineAddr(r.address), 8);
    }
    REGISTERS.call_once(|| Registers {
        control_a,
        control_b: port(fadt.pm1b_control),
        sleep_type: acpi.s5,
        sleep_control: fadt.sleep_control.filter(|_| fadt.hardware_reduced),
        reset: fadt.reset,
    });
    const SCI_ENABLE: u16 = 1;
    if let Some(control) = control_a.filter(|_| fadt.smi_command != 0 && fadt.acpi_enable != 0) {
        // SAFETY: the firmware's own table names these ports for this.
        unsafe {
            if inw(control) & SCI_ENABLE == 0 {
                outb(fadt.smi_command, fadt.acpi_enable);
                for _ in 0..300 {
                    if inw(control) & SCI_ENABLE != 0 {
                        break;
                    }
                    time::spin_ms(1);
                }
            }
        }
    }
}

/// The way to restart that is tried first ([`RebootMethod`], `reboot=`).
static FIRST_METHOD: AtomicU8 = AtomicU8::new(RebootMethod::Acpi as u8);

/// Sets the way to restart that is tried first.
pub fn set_reboot_method(method: RebootMethod) {
    FIRST_METHOD.store(method as u8, Ordering::Relaxed);
}

/// Switches the machine off (ACPI state S5), with the values for the registers PM1a_CNT and PM1b_CNT that dom0 gave, or
/// else those that the firmware's code names. If that fails, stops. The other CPUs are stopped first.
pub fn power_off(given: Option<(u16, u16)>) -> ! {
    registers::interrupts_off();
    report::leave();
    if let Some(r) = REGISTERS.get() {
        let value = |kind: u8| u16::from(kind) << 10 | SLEEP_ENABLE;
        let values = given.map(|(a, b)| (a | SLEEP_ENABLE, b | SLEEP_ENABLE));
        let values = values.or(r.sleep_type.map(|s| (value(s.a), value(s.b))));
        // SAFETY: the firmware's own table names these ports for this.
        unsafe {
            if let (Some(port), Some(sleep)) = (r.sleep_control.and_then(|c| c.port()), r.sleep_type) {
                outb(port, sleep.a << 2 | 1 << 5);
            }
            if let (Some(port), Some((a, _))) = (r.control_a, values) {
                outw(port, a | inw(port) & 1);
            }
            if let (Some(port), Some((_, b))) = (r.control_b, values) {
                outw(port, b | inw(port) & 1);
            }
        }
        time::spin_ms(1000);
        report::say_past_locks(format_args!("ACPI does not switch the machine off"));
    }
    const UNDER_HYPERVISOR: u32 = 1 << 31;
    if registers::cpuid(1, 0).ecx & UNDER_HYPERVISOR != 0 {
        report::say_past_locks(format_args!("Trying the ports that emulators have for it"));
        // SAFETY: PM1a_CNT of QEMU's and Bochs' machines, in case their tables are broken. On hardware these ports may
        // mean anything, so they are left alone there.
        unsafe {
            outw(0x604, SLEEP_ENABLE);
            outw(0xb004, SLEEP_ENABLE);
        }
        time::spin_ms(50);
    }
    report::say_past_locks(format_args!("The machine cannot be switched off: do it by hand"));
    halt_forever()
}

/// Restarts the machine: by the way that `reboot=` names, then by the firmware's reset register, PCI's, the keyboard
/// controller, a triple fault. The other CPUs are stopped first.
pub fn reset() -> ! {
    registers::interrupts_off();
    report::leave();
    let ways: [(RebootMethod, &str, fn()); 3] = [
        (RebootMethod::Acpi, "the firmware's reset register", reset_by_acpi),
        (RebootMethod::Pci, "port 0xcf9", reset_by_pci),
        (RebootMethod::Keyboard, "the keyboard controller", reset_by_keyboard),
    ];
    let first = FIRST_METHOD.load(Ordering::Relaxed);
    let wanted = ways.iter().filter(|(method, ..)| *method as u8 == first);
    let others = ways.iter().filter(|(method, ..)| *method as u8 != first);
    if first != RebootMethod::TripleFault as u8 {
        for (_, name, way) in wanted.chain(others) {
            way();
            time::spin_ms(50);
            report::say_past_locks(format_args!("No reset by {name}"));
        }
    }
    let empty: [u8; 10] = [0; 10];
    // SAFETY: resetting is the purpose: without a usable table the processor shuts down, which resets the machine.
    unsafe { asm!("lidt [{}]", "int3", in(reg) &raw const empty, options(noreturn)) };
}

fn reset_by_acpi() {
    if let Some((register, value)) = REGISTERS.get().and_then(|r| r.reset) {
        write_reset_register(register, value);
    }
}

fn reset_by_pci() {
    // SAFETY: resetting is the purpose.
    unsafe {
        outb(0xcf9, 0x02);
        outb(0xcf9, 0x06);
    }
}

fn reset_by_keyboard() {
    // SAFETY: resetting is the purpose.
    unsafe {
        for _ in 0..10_000 {
            // Wait until the keyboard controller takes a command.
            if inb(0x64) & 2 == 0 {
                break;
            }
        }
        outb(0x64, 0xfe);
    }
}

fn write_reset_register(register: GenericAddress, value: u8) {
    match register.space {
        0 => {
            let at = crate::memory::direct_map_pointer(radon_core::types::MachineAddr(register.address));
            // SAFETY: `init` mapped it; resetting is the purpose.
            unsafe { at.write_volatile(value) };
        }
        1 => {
            if let Some(port) = register.port() {
                // SAFETY: resetting is the purpose.
                unsafe { outb(port, value) };
            }
        }
        // PCI configuration space of bus 0: device, function and offset are in the address.
        2 => {
            let (device, function) = (register.address >> 32 & 31, register.address >> 16 & 7);
            let offset = register.address & 0xff;
            let select = 1 << 31 | device << 11 | function << 8 | offset & !3;
            // SAFETY: resetting is the purpose.
            unsafe {
                registers::outl(0xcf8, select as u32);
                outb(0xcfc + (offset & 3) as u16, value);
            }
        }
        _ => (),
    }
}

/// Leaves the emulator, if there is one with the debug exit device: its exit status is `code * 2 + 1`. Else stops.
pub fn exit_emulator(code: u8) -> ! {
    // SAFETY: only used when tests are asked for; on hardware the port is unused.
    unsafe { outb(DEBUG_EXIT, code) };
    halt_forever()
}
