//! Ring-0 tests of guest mode, each with a guest of its own.
// Unsafe: names the guest's programs.
#![allow(unsafe_code)]

use alloc::string::String;

use radon_core::types::Nanoseconds;
use radon_x86::virt::{Event, Exit, NestedFault, PortAccess, SwitchedMsr, VirtualCpu as _, cr0, gpr, rflags};

use super::Test;
use super::guest::{ABSENT, CODE, DATA, Guest, IDT, STACK, program};
use crate::cpu::registers::{rdmsr_safe, rdtsc};
use crate::svm::{self, MsrAccess, PermissionMaps};
use crate::{apic, interrupts, time};

/// A vector that the guest handles.
const VECTOR: u8 = 0x51;
const R13: usize = 13;
const R14: usize = 14;
const RETURN: u8 = 0xc3;

pub(super) const TESTS: &[Test] = &[
    Test { name: "svm::exits_are_told_apart", run: exits },
    Test { name: "svm::registers_pass_unchanged", run: registers },
    Test { name: "svm::nested_faults_say_what_was_tried", run: nested_faults },
    Test { name: "svm::a_changed_translation_is_seen_after_a_flush", run: flush },
    Test { name: "svm::address_space_identifiers_wrap_around", run: asids },
    Test { name: "svm::interrupts_wait_for_their_window", run: window },
    Test { name: "svm::a_watched_task_priority_exits_once", run: task_priority },
    Test { name: "svm::nmis_wait_for_the_end_of_the_last", run: nmi },
    Test { name: "svm::an_nmi_whose_delivery_faults_is_delivered_again", run: nmi_redelivery },
    Test { name: "svm::an_nmi_comes_right_after_a_pending_exception", run: nmi_window },
    Test { name: "svm::an_event_whose_delivery_faults_is_delivered_again", run: redelivery },
    Test { name: "svm::fpu_and_sse_state_is_switched", run: fpu },
    Test { name: "svm::avx_state_is_switched", run: avx },
    Test { name: "svm::debug_registers_are_switched", run: debug_registers },
    Test { name: "svm::active_breakpoints_are_loaded_with_a_vcpu", run: breakpoints },
    Test { name: "svm::an_impossible_xcr0_is_not_loaded", run: bad_xcr0 },
    Test { name: "svm::svm_can_be_left", run: leave },
    Test { name: "svm::a_physical_interrupt_ends_guest_mode", run: physical_interrupt },
    Test { name: "svm::allowed_ports_and_msrs_do_not_exit", run: direct },
    Test { name: "svm::the_guest_s_clock_has_its_offset", run: clock },
    Test { name: "svm::a_triple_fault_is_a_shutdown", run: triple_fault },
    Test { name: "svm::invalid_state_is_refused", run: invalid_state },
];

fn exits() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_exits))?;
    let port = |port, size, write| Exit::Port(PortAccess { port, size, write, string: false });
    guest.set_reg(gpr::RDX, 0x3f8);
    let expected = [
        (Exit::Cpuid, 2),
        (Exit::Halt, 1),
        (Exit::Hypercall, 3),
        (Exit::Rdmsr, 2),
        (Exit::Wrmsr, 2),
        (port(0x80, 1, true), 2),
        (port(0x3f8, 4, false), 1),
        (port(0x3f8, 2, true), 2),
        (Exit::CacheFlush, 2),
        (Exit::CacheFlush, 2),
        (Exit::Protected, 2),
        (Exit::Undefined, 3),
        (Exit::Undefined, 3),
        (Exit::Undefined, 3),
        (Exit::Halt, 1),
    ];
    for (n, (exit, length)) in expected.into_iter().enumerate() {
        let got = guest.run();
        check!(got == exit, "number {n}: {got:?}, not {exit:?}");
        let rip = guest.cpu.regs().rip;
        // RDMSR follows MOV, so RIP is known relative to the program's start only here and there: the length is checked
        // where the processor tells it.
        if let Some(next) = guest.cpu.next_rip() {
            check!(next == rip + length, "number {n}: next at {next:#x}, after {rip:#x}");
        }
        guest.skip(length);
    }
    Ok(())
}

fn registers() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_registers))?;
    let stack = guest.reg(gpr::RSP);
    let value = |n: usize, round: u64| 0x1111_2222_3333_4440 * (n as u64 + 1) + round;
    for n in (0..16).filter(|&n| n != gpr::RSP) {
        guest.set_reg(n, value(n, 0));
    }
    for round in 1..=3 {
        guest.run_to_hypercall()?;
        for n in (0..16).filter(|&n| n != gpr::RSP) {
            check!(guest.reg(n) == value(n, round), "round {round}: register {n} is {:#x}", guest.reg(n));
        }
        check!(guest.reg(gpr::RSP) == stack);
    }
    Ok(())
}

fn nested_faults() -> Result<(), String> {
    let fault =
        |gpa, write, fetch, present| Exit::NestedFault(NestedFault { gpa, write, fetch, present, table_walk: false });
    let mut guest = Guest::new(program!(guest_read))?;
    guest.set_reg(gpr::RBX, ABSENT + 0x18);
    let got = guest.run();
    check!(got == fault(ABSENT + 0x18, false, false, false), "read: {got:?}");
    guest.map(ABSENT, false)?;
    guest.store(ABSENT + 0x18, 0x77);
    guest.run_to_hypercall()?;
    check!(guest.reg(gpr::RAX) == 0x77, "the read was not repeated");

    guest.cpu.regs_mut().rip = program!(guest_write);
    let got = guest.run();
    check!(got == fault(ABSENT + 0x18, true, false, true), "write to a read-only page: {got:?}");

    guest.cpu.regs_mut().rip = program!(guest_call);
    guest.set_reg(gpr::RBX, ABSENT + 0x2000);
    let got = guest.run();
    check!(got == fault(ABSENT + 0x2000, false, true, false), "fetch: {got:?}");
    guest.map(ABSENT + 0x2000, true)?;
    guest.store(ABSENT + 0x2000, u64::from(RETURN));
    guest.run_to_hypercall()
}

fn flush() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_read))?;
    guest.set_reg(gpr::RBX, DATA);
    for round in 1..=5 {
        guest.store(DATA, round);
        guest.run_to_hypercall()?;
        check!(guest.reg(gpr::RAX) == round, "round {round}: {}", guest.reg(gpr::RAX));
        guest.map(DATA, true)?;
        svm::flush_domain(guest.tag);
    }
    let entry = guest.exchange(DATA, 0);
    check!(matches!(guest.run(), Exit::NestedFault(f) if f.gpa == DATA), "a removed page could be read");
    guest.exchange(DATA, entry);
    guest.run_to_hypercall()
}

fn asids() -> Result<(), String> {
    // More than the smallest processor's number of identifiers; on others it is just repetition.
    let mut guests = [Guest::new(program!(guest_read))?, Guest::new(program!(guest_read))?];
    for (n, guest) in guests.iter_mut().enumerate() {
        guest.set_reg(gpr::RBX, DATA);
        guest.store(DATA, 0x100 + n as u64);
    }
    for round in 0..40 {
        for (n, guest) in guests.iter_mut().enumerate() {
            if round % 3 != 0 {
                svm::flush_domain(guest.tag);
            }
            guest.run_to_hypercall()?;
            check!(guest.reg(gpr::RAX) == 0x100 + n as u64, "round {round}: guest {n} reads another's memory");
        }
    }
    Ok(())
}

fn window() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_window))?;
    guest.handle(VECTOR, program!(guest_handler));
    guest.set_reg(gpr::RCX, 1000);
    guest.run_to_hypercall()?;
    check!(!guest.cpu.can_take_interrupt(), "with interrupts off");
    guest.cpu.request_interrupt_window(VECTOR >> 4);
    let got = guest.run();
    check!(got == Exit::InterruptWindow, "{got:?}");
    check!(guest.reg(gpr::RAX) == 0, "the window came late");
    check!(guest.cpu.can_take_interrupt());
    guest.cpu.inject(Event::Interrupt(VECTOR));
    guest.run_to_hypercall()?;
    check!(guest.reg(R14) == 1, "the handler ran {} times", guest.reg(R14));
    check!(guest.cpu.regs().rflags & rflags::IF == 0, "interrupts are on in the handler");
    check!(!guest.cpu.delivery_pending());
    guest.run_to_hypercall()?;
    check!(guest.reg(gpr::RAX) == 1000 && guest.reg(R14) == 1, "the interrupted program did not go on");
    Ok(())
}

fn task_priority() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_priority))?;
    guest.set_reg(gpr::RAX, 9);
    guest.run_to_hypercall()?;
    check!((guest.cpu.tpr(), guest.reg(gpr::RCX)) == (9, 9), "CR8 is {} and {}", guest.cpu.tpr(), guest.reg(gpr::RCX));
    guest.set_reg(gpr::RAX, 3);
    guest.cpu.watch_task_priority();
    let got = guest.run();
    check!(got == Exit::TaskPriority && guest.cpu.tpr() == 9, "{got:?}, {}", guest.cpu.tpr());
    guest.run_to_hypercall()?;
    check!(guest.cpu.tpr() == 3);
    Ok(())
}

fn nmi() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_spin))?;
    guest.handle(2, program!(guest_handler));
    guest.cpu.regs_mut().rflags |= rflags::IF;
    check!(guest.cpu.can_take_nmi());
    guest.cpu.inject(Event::Nmi);
    guest.run_to_hypercall()?;
    check!(guest.reg(R14) == 1 && !guest.cpu.can_take_nmi(), "a second one can come in the handler");
    guest.cpu.request_nmi_window();
    let got = guest.run();
    check!(got == Exit::InterruptWindow, "{got:?} at IRET");
    check!(!guest.cpu.can_take_nmi(), "one can come before IRET has been executed");
    guest.cpu.request_nmi_window();
    let got = guest.run();
    check!(got == Exit::InterruptWindow, "{got:?} after IRET");
    check!(guest.cpu.can_take_nmi() && guest.reg(gpr::RSP) == CODE, "it did not come right after IRET");
    guest.cpu.inject(Event::Nmi);
    guest.run_to_hypercall()?;
    check!(guest.reg(R14) == 2 && guest.reg(R13) == CODE - 40, "not on the first one's stack");
    Ok(())
}

fn nmi_redelivery() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_spin))?;
    guest.handle(2, program!(guest_handler));
    let entry = guest.exchange(STACK, 0);
    guest.cpu.inject(Event::Nmi);
    let got = guest.run();
    check!(matches!(got, Exit::NestedFault(f) if f.gpa & !0xfff == STACK), "{got:?}");
    check!(guest.cpu.pending_event() == Some(Event::Nmi), "{:?} is pending", guest.cpu.pending_event());
    guest.exchange(STACK, entry);
    guest.run_to_hypercall()?;
    check!(guest.reg(R14) == 1 && !guest.cpu.can_take_nmi());
    let got = guest.run();
    check!(got == Exit::InterruptWindow, "{got:?} at IRET");
    Ok(())
}

fn nmi_window() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_spin))?;
    guest.handle(2, program!(guest_handler));
    guest.handle(6, program!(guest_handler));
    // Bochs 3.0 forgets physical interrupts in a guest that is entered with interrupts off.
    guest.cpu.regs_mut().rflags |= rflags::IF;
    guest.cpu.inject(Event::UD);
    check!(!guest.cpu.can_take_nmi());
    guest.cpu.request_nmi_window();
    guest.cpu.load();
    let got = guest.cpu.run();
    guest.cpu.save();
    interrupts::poll();
    check!(got == Exit::Interrupt, "{got:?}");
    let at = guest.cpu.regs().rip;
    check!(
        at == program!(guest_handler) && guest.reg(R14) == 0,
        "at {at:#x}: not before the handler's first instruction"
    );
    check!(guest.cpu.can_take_nmi());
    guest.cpu.inject(Event::Nmi);
    guest.run_to_hypercall()?;
    // Five words below the first five, which ended misaligned.
    check!(guest.reg(R13) == CODE - 40 - 8 - 40, "the stack is at {:#x}", guest.reg(R13));
    Ok(())
}

fn breakpoints() -> Result<(), String> {
    const DR7_ENABLE_0: u64 = 0x402;
    let mut guests = [Guest::new(program!(guest_spin))?, Guest::new(program!(guest_spin))?];
    for (n, guest) in guests.iter_mut().enumerate() {
        let address = 0x7000_0000 + n as u64;
        guest.cpu.set_debug_registers(&[address, 0, 0, address + 1, 0xffff_0ff0, DR7_ENABLE_0]);
    }
    for _ in 0..2 {
        for (n, guest) in guests.iter_mut().enumerate() {
            guest.cpu.load();
            let (d0, d3): (u64, u64);
            // SAFETY: reading debug registers has no effect.
            unsafe {
                core::arch::asm!("mov {}, dr0", "mov {}, dr3", out(reg) d0, out(reg) d3, options(nomem, nostack))
            };
            guest.cpu.save();
            let address = 0x7000_0000 + n as u64;
            check!((d0, d3) == (address, address + 1), "guest {n}: the processor has {d0:#x} and {d3:#x}");
        }
    }
    Ok(())
}

fn bad_xcr0() -> Result<(), String> {
    if svm::xsave_components() == 0 {
        log::info!("RING0-TEST svm::xcr0: SKIPPED, the processor has no XSAVE");
        return Ok(());
    }
    let mut guest = Guest::new(program!(guest_fpu))?;
    // No x87; AVX without SSE; part of AVX-512; what does not exist.
    for value in [0, 2, 5, 0x27, 0x67, 1 << 60, u64::MAX - 2] {
        guest.cpu.set_xcr0(value);
        guest.cpu.load();
        guest.cpu.set_xcr0(value);
        let now = guest.cpu.xcr0();
        guest.cpu.save();
        check!(now & 1 != 0 && now & !svm::xsave_components() == 0, "{value:#x} became {now:#x}");
    }
    guest.run_to_hypercall()
}

fn leave() -> Result<(), String> {
    const EFER: u32 = 0xc000_0080;
    const SVME: u64 = 1 << 12;
    let enabled = || rdmsr_safe(EFER).unwrap_or(0) & SVME != 0;
    check!(enabled());
    svm::disable_on_this_cpu();
    check!(!enabled(), "EFER.SVME is still set");
    let again = svm::enable_on_this_cpu();
    check!(again.is_ok() && enabled(), "{again:?}");
    Guest::new(program!(guest_registers))?.run_to_hypercall()
}

fn redelivery() -> Result<(), String> {
    let events = [Event::Interrupt(VECTOR), Event::Software { vector: VECTOR }];
    for (missing, event) in [STACK, IDT].into_iter().flat_map(|page| events.map(|event| (page, event))) {
        let mut guest = Guest::new(program!(guest_spin))?;
        guest.handle(VECTOR, program!(guest_handler));
        guest.cpu.regs_mut().rflags |= rflags::IF;
        let entry = guest.exchange(missing, 0);
        guest.cpu.inject(event);
        let got = guest.run();
        check!(
            matches!(got, Exit::NestedFault(f) if f.gpa & !0xfff == missing),
            "{got:?}, not a fault at {missing:#x}"
        );
        check!(guest.cpu.delivery_pending(), "{event:?} is lost");
        guest.exchange(missing, entry);
        guest.run_to_hypercall()?;
        check!(guest.reg(R14) == 1, "the handler ran {} times", guest.reg(R14));
        // Five words were pushed, once.
        check!(guest.reg(R13) == CODE - 40, "the stack is at {:#x}", guest.reg(R13));
        // The program's first instruction was not executed before an interrupt of its own.
        let returns = guest.load(CODE - 40);
        check!(event == events[0] || returns == program!(guest_spin), "{event:?} returns to {returns:#x}");
    }
    Ok(())
}

fn fpu() -> Result<(), String> {
    /// 16 SSE registers and one of the FPU.
    const REGISTERS: u64 = 17;
    let first = Guest::new(program!(guest_fpu))?;
    let mut guests = [first.sibling(program!(guest_fpu)), Guest::new(program!(guest_fpu))?, first];
    for (n, guest) in guests.iter_mut().enumerate() {
        guest.set_reg(gpr::RBX, 0x1000 * (n as u64 + 1));
        // Two vCPUs share memory and so the stack.
        guest.set_reg(gpr::RSP, CODE - 0x100 * n as u64);
        guest.run_to_hypercall()?;
    }
    for round in 0..3 {
        for (n, guest) in guests.iter_mut().enumerate() {
            guest.run_to_hypercall()?;
            check!(guest.reg(gpr::RAX) == REGISTERS, "round {round}, guest {n}: {} are right", guest.reg(gpr::RAX));
            let low = guest.cpu.vector(5)[0];
            check!(low == 0x1000 * (n as u64 + 1) + 5, "register 5 from outside: {low:#x}");
        }
    }
    guests[0].cpu.set_vector(5, [0, 0, 0, 0]);
    guests[0].run_to_hypercall()?;
    check!(guests[0].reg(gpr::RAX) == REGISTERS - 1, "a value set from outside is not seen");
    Ok(())
}

fn avx() -> Result<(), String> {
    const AVX: u64 = 1 << 2;
    if svm::xsave_components() & AVX == 0 {
        log::info!("RING0-TEST svm::avx: SKIPPED, the processor has no AVX");
        return Ok(());
    }
    let mut guests = [Guest::new(program!(guest_avx))?, Guest::new(program!(guest_avx))?];
    for (n, guest) in guests.iter_mut().enumerate() {
        guest.set_reg(gpr::RBX, 0xabcd_0000 + n as u64);
        let got = guest.run();
        if got == Exit::Xsetbv {
            guest.skip(3);
            guest.cpu.set_xcr0(guest.cpu.regs().edx_eax());
            guest.run_to_hypercall()?;
        } else {
            // QEMU does not intercept XSETBV.
            check!(got == Exit::Hypercall, "{got:?}");
            guest.skip(3);
        }
        check!(guest.cpu.xcr0() == 7, "XCR0 is {:#x}", guest.cpu.xcr0());
    }
    for (n, guest) in guests.iter_mut().enumerate() {
        guest.run_to_hypercall()?;
        let expected = 0xabcd_0000 + n as u64;
        check!(guest.reg(gpr::RAX) == expected, "guest {n}: {:#x}", guest.reg(gpr::RAX));
        check!(guest.cpu.vector(7) == [expected; 4], "from outside: {:x?}", guest.cpu.vector(7));
    }
    Ok(())
}

fn debug_registers() -> Result<(), String> {
    let mut guests = [Guest::new(program!(guest_debug))?, Guest::new(program!(guest_debug))?];
    for (n, guest) in guests.iter_mut().enumerate() {
        guest.set_reg(gpr::RBX, 0x1000 * (n as u64 + 1));
        let got = guest.run();
        check!(got == Exit::DebugRegister, "{got:?}");
        guest.run_debug_to_hypercall()?;
    }
    for (n, guest) in guests.iter_mut().enumerate() {
        let value = 0x1000 * (n as u64 + 1);
        let [d0, d1, _, d3, ..] = guest.cpu.debug_registers();
        check!([d0, d1, d3] == [value, 0, value + 1], "guest {n}: {d0:#x} {d1:#x} {d3:#x}");
        guest.run_debug_to_hypercall()?;
        check!((guest.reg(gpr::RAX), guest.reg(gpr::RCX)) == (value, value + 1), "guest {n} reads others");
    }
    Ok(())
}

impl Guest {
    /// Runs to a hypercall; each time the vCPU was switched away the first access to a debug register exits.
    fn run_debug_to_hypercall(&mut self) -> Result<(), String> {
        self.cpu.load();
        let mut exit = self.cpu.run();
        while matches!(exit, Exit::DebugRegister | Exit::Interrupt) {
            interrupts::poll();
            exit = self.cpu.run();
        }
        self.cpu.save();
        check!(exit == Exit::Hypercall, "{exit:?}");
        self.skip(3);
        Ok(())
    }
}

fn physical_interrupt() -> Result<(), String> {
    // Whether the guest has interrupts on makes no difference. (It turns them off itself: Bochs 3.0 forgets physical
    // interrupts in a guest that is entered with interrupts off.)
    for program in [program!(guest_spin), program!(guest_spin_off)] {
        let mut guest = Guest::new(program)?;
        guest.cpu.regs_mut().rflags |= rflags::IF;
        guest.cpu.load();
        apic::arm_timer(Some(Nanoseconds(time::now().0 + 2_000_000)));
        let mut exit = guest.cpu.run();
        while exit == Exit::Pause {
            exit = guest.cpu.run();
        }
        guest.cpu.save();
        check!(exit == Exit::Interrupt, "{exit:?}");
        check!(apic::is_pending(interrupts::TIMER), "left for nothing");
        interrupts::poll();
        check!(!apic::is_pending(interrupts::TIMER), "the interrupt was not taken afterwards");
    }
    Ok(())
}

fn direct() -> Result<(), String> {
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    let mut maps = PermissionMaps::default();
    maps.allow_ports(0x80..=0x80);
    maps.allow_msr(KERNEL_GS_BASE, MsrAccess::ReadWrite);
    let mut guest = Guest::with(program!(guest_direct), maps)?;
    guest.set_reg(gpr::RAX, 0x5678_1234);
    guest.set_reg(gpr::RDX, 0x7fff);
    guest.run_to_hypercall()?;
    check!(guest.cpu.regs().edx_eax() == 0x7fff_5678_1234, "read back: {:#x}", guest.cpu.regs().edx_eax());
    let gs = guest.cpu.segment(radon_x86::virt::SegmentName::Gs).base;
    check!(gs == 0x7fff_5678_1234, "GS is at {gs:#x} after SWAPGS");
    check!(guest.cpu.switched_msr(SwitchedMsr::KernelGsBase) == 0);
    // The hypervisor's own is what it was: its per-CPU data is reached through it.
    check!(crate::cpu::try_this_cpu().is_some());
    Ok(())
}

fn clock() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_time))?;
    for offset in [0, 1 << 40, 0u64.wrapping_sub(rdtsc())] {
        guest.cpu.set_tsc_offset(offset);
        let before = rdtsc().wrapping_add(offset);
        guest.run_to_hypercall()?;
        let after = rdtsc().wrapping_add(offset);
        let seen = guest.reg(gpr::RAX);
        check!((before..=after).contains(&seen), "{seen:#x} is not in {before:#x} to {after:#x}");
    }
    Ok(())
}

fn triple_fault() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_fault))?;
    let got = guest.run();
    check!(got == Exit::Shutdown, "{got:?}");
    Ok(())
}

fn invalid_state() -> Result<(), String> {
    let mut guest = Guest::new(program!(guest_spin))?;
    let mut control = guest.cpu.control();
    // Not write-through without cache disable.
    control.cr0 = control.cr0 & !cr0::CD | cr0::NW;
    guest.cpu.set_control(&control);
    let got = guest.run();
    check!(matches!(got, Exit::Failed(_)), "{got:?}");
    Ok(())
}
