//! String instructions: MOVS, CMPS, STOS, LODS, SCAS, INS and OUTS, with and without repeat prefixes.
//!
//! Each iteration is complete in itself: when one faults, the registers stand where the earlier ones left them and RIP is
//! at the instruction, as on a processor.

use super::execute::Execution;
use super::instruction::{Op, Repeat, Segment, Width};
use super::{AccessKind, Fault, address, flags, rflags};

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// Runs at most `budget` iterations. [`Fault::Retry`] if some are left.
pub(super) fn run(e: &mut Execution<'_>, budget: u32) -> Result<(), Fault> {
    let width = e.i.address_width;
    if e.i.repeat == Repeat::No {
        return iteration(e);
    }
    let single_step = e.cpu.rflags() & rflags::TF != 0;
    for _ in 0..budget.max(1) {
        let count = e.gpr(RCX, width);
        if count == 0 {
            // A 32-bit count in 64-bit mode is zero-extended even if nothing was done.
            return Ok(());
        }
        iteration(e)?;
        let left = count.wrapping_sub(1);
        e.set_gpr(RCX, width, left);
        if left == 0 || is_decided(e) {
            return Ok(());
        }
        if single_step {
            e.cpu.raise_single_step();
            return Err(Fault::Retry);
        }
    }
    Err(Fault::Retry)
}

/// Whether a comparison ends the repetition.
fn is_decided(e: &Execution<'_>) -> bool {
    let equal = e.cpu.rflags() & rflags::ZF != 0;
    match (e.i.op, e.i.repeat) {
        (Op::Cmps | Op::Scas, Repeat::WhileEqual) => !equal,
        (Op::Cmps | Op::Scas, Repeat::WhileNotEqual) => equal,
        _ => false,
    }
}

fn iteration(e: &mut Execution<'_>) -> Result<(), Fault> {
    let width = e.i.width;
    match e.i.op {
        Op::Movs => {
            let from = source(e)?;
            let to = destination(e, AccessKind::Write)?;
            let value = e.load(from, width, AccessKind::Read)?;
            e.store(to, width, value)?;
            advance(e, RSI);
            advance(e, RDI);
        }
        Op::Stos => {
            let to = destination(e, AccessKind::Write)?;
            let value = e.gpr(RAX, width);
            e.store(to, width, value)?;
            advance(e, RDI);
        }
        Op::Lods => {
            let from = source(e)?;
            let value = e.load(from, width, AccessKind::Read)?;
            e.set_gpr(RAX, width, value);
            advance(e, RSI);
        }
        Op::Cmps => {
            let (from, to) = (source(e)?, destination(e, AccessKind::Read)?);
            let a = e.load(from, width, AccessKind::Read)?;
            let b = e.load(to, width, AccessKind::Read)?;
            compare(e, a, b);
            advance(e, RSI);
            advance(e, RDI);
        }
        Op::Scas => {
            let to = destination(e, AccessKind::Read)?;
            let b = e.load(to, width, AccessKind::Read)?;
            let a = e.gpr(RAX, width);
            compare(e, a, b);
            advance(e, RDI);
        }
        Op::Ins => {
            let to = destination(e, AccessKind::Write)?;
            // The port is read only if its value can be stored: reading may change the device.
            e.memory.check_write(to, width.bytes())?;
            let value = e.memory.port_in(e.cpu.gpr(RDX) as u16, width)?;
            e.store(to, width, u64::from(value))?;
            advance(e, RDI);
        }
        Op::Outs => {
            let from = source(e)?;
            let value = e.load(from, width, AccessKind::Read)?;
            e.memory.port_out(e.cpu.gpr(RDX) as u16, width, value as u32)?;
            advance(e, RSI);
        }
        _ => return Err(Fault::Unhandleable("not a string instruction")),
    }
    Ok(())
}

/// The address of the element at (overridable) DS:RSI.
fn source(e: &Execution<'_>) -> Result<u64, Fault> {
    let offset = e.gpr(RSI, e.i.address_width);
    address::linear(e.cpu, e.mode, e.i.memory.segment, offset, e.i.width.bytes(), AccessKind::Read)
}

/// The address of the element at ES:RDI.
fn destination(e: &Execution<'_>, kind: AccessKind) -> Result<u64, Fault> {
    let offset = e.gpr(RDI, e.i.address_width);
    address::linear(e.cpu, e.mode, Segment::Es, offset, e.i.width.bytes(), kind)
}

fn advance(e: &mut Execution<'_>, register: u8) {
    let step = u64::from(e.i.width.bytes());
    let old = e.gpr(register, e.i.address_width);
    let new = if e.cpu.rflags() & rflags::DF != 0 { old.wrapping_sub(step) } else { old.wrapping_add(step) };
    // As in other address arithmetic, a 32-bit register is zero-extended and a 16-bit one merged.
    let width: Width = e.i.address_width;
    e.set_gpr(register, width, new);
}

fn compare(e: &mut Execution<'_>, a: u64, b: u64) {
    if let Some((_, f)) = flags::binary(Op::Cmp, e.i.width, a, b, e.cpu.rflags()) {
        e.cpu.set_rflags(f);
    }
}
