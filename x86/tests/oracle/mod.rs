//! iced-x86 as the oracle of our instruction decoder. Tests and fuzz targets share it.

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use radon_x86::emulate::{
    DecodeError, Instruction, Mode, Op, Operand, Repeat, Segment, Width, decode, instruction::VectorForm,
};

const MODES: [(Mode, u32); 3] = [(Mode::Bits16, 16), (Mode::Bits32, 32), (Mode::Bits64, 64)];

fn oracle(bytes: &[u8], bits: u32) -> iced_x86::Instruction {
    Decoder::new(bits, bytes, DecoderOptions::AMD).decode()
}

fn mnemonic_fits(op: Op, m: Mnemonic) -> bool {
    use Mnemonic as M;
    match op {
        Op::Mov => matches!(m, M::Mov | M::Movnti),
        Op::Movzx => m == M::Movzx,
        Op::Movsx => matches!(m, M::Movsx | M::Movsxd),
        Op::Movbe => m == M::Movbe,
        Op::Add => m == M::Add,
        Op::Or => m == M::Or,
        Op::Adc => m == M::Adc,
        Op::Sbb => m == M::Sbb,
        Op::And => m == M::And,
        Op::Sub => m == M::Sub,
        Op::Xor => m == M::Xor,
        Op::Cmp => m == M::Cmp,
        Op::Test => m == M::Test,
        Op::Inc => m == M::Inc,
        Op::Dec => m == M::Dec,
        Op::Neg => m == M::Neg,
        Op::Not => m == M::Not,
        Op::Rol => m == M::Rol,
        Op::Ror => m == M::Ror,
        Op::Rcl => m == M::Rcl,
        Op::Rcr => m == M::Rcr,
        Op::Shl => matches!(m, M::Shl | M::Sal),
        Op::Shr => m == M::Shr,
        Op::Sar => m == M::Sar,
        Op::Xchg => m == M::Xchg,
        Op::Xadd => m == M::Xadd,
        Op::Cmpxchg => m == M::Cmpxchg,
        Op::CmpxchgPair => matches!(m, M::Cmpxchg8b | M::Cmpxchg16b),
        Op::Bt => m == M::Bt,
        Op::Bts => m == M::Bts,
        Op::Btr => m == M::Btr,
        Op::Btc => m == M::Btc,
        Op::Push => m == M::Push,
        Op::Pop => m == M::Pop,
        Op::Movs => matches!(m, M::Movsb | M::Movsw | M::Movsd | M::Movsq),
        Op::Cmps => matches!(m, M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq),
        Op::Stos => matches!(m, M::Stosb | M::Stosw | M::Stosd | M::Stosq),
        Op::Lods => matches!(m, M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq),
        Op::Scas => matches!(m, M::Scasb | M::Scasw | M::Scasd | M::Scasq),
        Op::Ins => matches!(m, M::Insb | M::Insw | M::Insd),
        Op::Outs => matches!(m, M::Outsb | M::Outsw | M::Outsd),
        Op::VectorMove(_) => {
            let name = format!("{m:?}").to_lowercase();
            name.trim_start_matches('v').starts_with("mov") || name.ends_with("lddqu")
        }
        Op::In => m == M::In,
        Op::Out => m == M::Out,
        Op::Nop => matches!(
            m,
            M::Nop
                | M::Prefetch
                | M::Prefetchw
                | M::Prefetchwt1
                | M::Prefetchnta
                | M::Prefetcht0
                | M::Prefetcht1
                | M::Prefetcht2
                | M::Prefetchit0
                | M::Prefetchit1
                | M::Reservednop
                | M::Cldemote
                | M::Clflush
                | M::Clflushopt
                | M::Clwb
                | M::Endbr32
                | M::Endbr64
                | M::Rdsspd
                | M::Rdsspq
        ),
        Op::Wbinvd => matches!(m, M::Wbinvd | M::Wbnoinvd),
        Op::Iret => matches!(m, M::Iret | M::Iretd | M::Iretq),
        Op::Xsaves => matches!(m, M::Xsaves | M::Xsaves64),
        Op::Xrstors => matches!(m, M::Xrstors | M::Xrstors64),
        Op::Pushf => matches!(m, M::Pushf | M::Pushfd | M::Pushfq),
        Op::Popf => matches!(m, M::Popf | M::Popfd | M::Popfq),
        other => format!("{other:?}") == format!("{m:?}"),
    }
}

/// Instructions that must be recognised whenever the oracle sees them.
fn must_know(m: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        m,
        M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdmsr
            | M::Wrmsr
            | M::Rdpmc
            | M::Hlt
            | M::Pause
            | M::Invd
            | M::Wbinvd
            | M::Wbnoinvd
            | M::In
            | M::Out
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::Xsetbv
            | M::Vmmcall
            | M::Vmcall
            | M::Vmrun
            | M::Vmload
            | M::Vmsave
            | M::Stgi
            | M::Clgi
            | M::Skinit
            | M::Monitor
            | M::Mwait
            | M::Monitorx
            | M::Mwaitx
            | M::Int3
            | M::Int1
            | M::Invlpg
            | M::Invlpga
            | M::Clts
            | M::Lmsw
            | M::Smsw
            | M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Cmpxchg8b
            | M::Cmpxchg16b
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Movnti
            | M::Movsb
            | M::Movsw
            | M::Movsq
            | M::Stosb
            | M::Stosw
            | M::Stosd
            | M::Stosq
            | M::Lodsb
            | M::Lodsw
            | M::Lodsd
            | M::Lodsq
            | M::Cmpsb
            | M::Cmpsw
            | M::Cmpsq
            | M::Scasb
            | M::Scasw
            | M::Scasd
            | M::Scasq
            | M::Movbe
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shl
            | M::Shr
            | M::Sar
            | M::Rdpru
            | M::Swapgs
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Rsm
            | M::Lgdt
            | M::Lidt
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Lldt
            | M::Ltr
            | M::Syscall
            | M::Wait
            | M::Fnop
    )
}

/// As `must_know`, for moves between memory and vector registers.
fn must_know_vector(i: &iced_x86::Instruction) -> bool {
    use Mnemonic as M;
    let name = format!("{:?}", i.mnemonic());
    let known = matches!(
        i.mnemonic(),
        M::Movups
            | M::Movupd
            | M::Movaps
            | M::Movapd
            | M::Movdqu
            | M::Movdqa
            | M::Movntdq
            | M::Movntps
            | M::Movntpd
            | M::Movd
            | M::Movq
            | M::Movss
            | M::Vmovups
            | M::Vmovaps
            | M::Vmovdqu
            | M::Vmovdqa
            | M::Vmovntdq
            | M::Vmovd
            | M::Vmovq
            | M::Movlps
            | M::Movhps
            | M::Movlpd
            | M::Movhpd
            | M::Movntdqa
            | M::Vmovntdqa
            | M::Lddqu
    );
    let register =
        |k: u32| (i.op_kind(k) == OpKind::Register).then(|| i.op_register(k)).is_some_and(|r| r.is_xmm() || r.is_ymm());
    known
        && !format!("{:?}", i.code()).starts_with("EVEX")
        && !name.is_empty()
        && (0..2).any(|k| i.op_kind(k) == OpKind::Memory)
        && (0..2).any(register)
}

fn width_of(size: usize) -> Option<Width> {
    Some(match size {
        1 => Width::Byte,
        2 => Width::Word,
        4 => Width::Dword,
        8 => Width::Qword,
        _ => return None,
    })
}

fn iced_register(r: Register) -> Operand {
    use Register as R;
    match r {
        R::AH | R::CH | R::DH | R::BH => Operand::HighByte((r.number() & 3) as u8),
        R::SPL | R::BPL | R::SIL | R::DIL => Operand::Gpr(r.full_register().number() as u8),
        R::ES => Operand::Segment(Segment::Es),
        R::CS => Operand::Segment(Segment::Cs),
        R::SS => Operand::Segment(Segment::Ss),
        R::DS => Operand::Segment(Segment::Ds),
        R::FS => Operand::Segment(Segment::Fs),
        R::GS => Operand::Segment(Segment::Gs),
        _ if r.is_cr() => Operand::Control(r.number() as u8),
        _ if r.is_dr() => Operand::Debug(r.number() as u8),
        _ if r.is_xmm() || r.is_ymm() => Operand::Vector(r.number() as u8),
        _ if r.is_gpr() => Operand::Gpr(r.full_register().number() as u8),
        _ => panic!("{r:?}"),
    }
}

/// In 64-bit mode all segments but FS and GS are one (the oracle names the one that an ignored prefix names).
fn segment_kind(context: &Context<'_>, segment: Operand) -> Operand {
    match segment {
        Operand::Segment(Segment::Fs | Segment::Gs) => segment,
        _ if context.bits == 64 => Operand::Segment(Segment::Ds),
        _ => segment,
    }
}

fn compare_memory(ours: &Instruction, theirs: &iced_x86::Instruction, context: &Context<'_>) {
    let m = &ours.memory;
    let number = |r: Register| {
        (r != Register::None && r != Register::RIP && r != Register::EIP).then(|| r.full_register().number() as u8)
    };
    let rip = matches!(theirs.memory_base(), Register::RIP | Register::EIP);
    assert_eq!(m.rip_relative, rip, "{context}");
    assert_eq!(m.base, number(theirs.memory_base()), "base: {context}");
    assert_eq!(m.index, number(theirs.memory_index()), "index: {context}");
    if m.index.is_some() {
        assert_eq!(1 << m.scale_shift, theirs.memory_index_scale(), "scale: {context}");
    }
    // The oracle truncates displacements to the address size, and gives absolute ones for RIP.
    let mask = ours.address_width.mask();
    let ours_displacement = if rip { m.displacement.wrapping_add(u64::from(ours.length)) } else { m.displacement };
    assert_eq!(ours_displacement & mask, theirs.memory_displacement64() & mask, "displacement: {context}");
    assert_eq!(
        segment_kind(context, Operand::Segment(m.segment)),
        segment_kind(context, iced_register(theirs.memory_segment())),
        "segment: {context}"
    );
}

fn compare_operand(
    ours: &Instruction,
    which: Operand,
    width: Width,
    i: &iced_x86::Instruction,
    k: u32,
    context: &Context<'_>,
) {
    let kind = i.op_kind(k);
    match kind {
        OpKind::Register => {
            assert_eq!(which, iced_register(i.op_register(k)), "operand {k}: {context}");
            if let Operand::Gpr(_) | Operand::HighByte(_) = which {
                assert_eq!(Some(width), width_of(i.op_register(k).size()), "width {k}: {context}");
            }
        }
        OpKind::Memory => {
            assert_eq!(which, Operand::Memory, "{context}");
            compare_memory(ours, i, context);
            if !matches!(ours.op, Op::VectorMove(_)) {
                let size = i.memory_size().size();
                let size = if ours.op == Op::CmpxchgPair { size / 2 } else { size };
                assert_eq!(Some(width), width_of(size), "memory width {k}: {context}");
            }
        }
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            assert_eq!(which, Operand::Immediate, "{context}");
            // The instruction is at 0.
            let target = ours.immediate.wrapping_add(u64::from(ours.length)) & width.mask();
            assert_eq!(target, i.near_branch_target(), "target: {context}");
        }
        _ => {
            assert_eq!(which, Operand::Immediate, "operand {k} {kind:?}: {context}");
            let mask = ours.width.mask();
            let shift = matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
                || ours.source_width == Width::Byte;
            let mask = if shift { 0xff } else { mask };
            assert_eq!(ours.immediate & mask, i.immediate(k) & mask, "immediate: {context}");
        }
    }
}

/// What a failed comparison was about; formatted only then.
struct Context<'a> {
    bytes: &'a [u8],
    bits: u32,
    code: Code,
    ours: Result<Instruction, DecodeError>,
}

impl std::fmt::Display for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-bit {:02x?}: {:?}, ours {:x?}", self.bits, self.bytes, self.code, self.ours)
    }
}

fn compare(bytes: &[u8], mode: Mode, bits: u32) {
    let theirs = oracle(bytes, bits);
    let ours = decode(bytes, mode);
    let context = Context { bytes, bits, code: theirs.code(), ours };
    if theirs.is_invalid() {
        // What the oracle calls undefined may be a valid instruction that is not known here, never one that is executed.
        // Real processors ignore some prefixes on system instructions that the oracle insists on.
        if let Ok(i) = ours {
            let lenient =
                matches!(i.op, Op::Other | Op::Nop) || bytes.iter().take(14).any(|b| matches!(b, 0x66 | 0xf2 | 0xf3));
            assert!(lenient, "not undefined: {context}");
        }
        return;
    }
    let undefined = matches!(theirs.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2);
    let ours = match ours {
        Ok(i) => i,
        Err(DecodeError::Undefined) if undefined || known_difference(&theirs) => return,
        Err(e) => panic!("{e:?}: {context}"),
    };
    assert_eq!(usize::from(ours.length), theirs.len(), "length: {context}");
    if ours.op == Op::Other {
        assert!(!must_know_vector(&theirs), "not known: {context}");
        let string = theirs.mnemonic() == Mnemonic::Movsd || theirs.mnemonic() == Mnemonic::Cmpsd;
        let string = string && theirs.is_string_instruction();
        assert!(!(must_know(theirs.mnemonic()) || string), "not known: {context}");
        return;
    }
    assert!(mnemonic_fits(ours.op, theirs.mnemonic()), "operation: {context}");
    if matches!(ours.op, Op::Nop | Op::Int | Op::Invlpga | Op::Invpcid | Op::Xsaves | Op::Xrstors) {
        return;
    }
    if matches!(ours.op, Op::Sgdt | Op::Sidt | Op::Lgdt | Op::Lidt | Op::Invlpg | Op::CmpxchgPair) {
        assert_eq!(ours.destination, Operand::Memory);
        compare_memory(&ours, &theirs, &context);
        return;
    }
    if theirs.is_string_instruction() {
        assert_eq!(Some(ours.width), width_of(theirs.memory_size().size()), "{context}");
        let segment = match ours.op {
            Op::Movs | Op::Lods | Op::Outs | Op::Cmps => Some(theirs.memory_segment()),
            _ => None,
        };
        if let Some(s) = segment {
            let ours = segment_kind(&context, Operand::Segment(ours.memory.segment));
            assert_eq!(ours, segment_kind(&context, iced_register(s)), "segment: {context}");
        }
        if theirs.has_rep_prefix() && !theirs.has_repne_prefix() {
            assert_eq!(ours.repeat, Repeat::WhileEqual, "{context}");
        }
        return;
    }
    if let Op::VectorMove(VectorForm { bytes: size, .. }) = ours.op
        && theirs.op_kind(0).max(theirs.op_kind(1)) == OpKind::Memory
    {
        assert_eq!(usize::from(size), theirs.memory_size().size(), "vector size: {context}");
    }
    let explicit: Vec<Operand> = [ours.destination, ours.source].into_iter().filter(|o| *o != Operand::None).collect();
    let count = theirs.op_count();
    if matches!(ours.op, Op::Sldt | Op::Str | Op::Smsw | Op::Lldt | Op::Ltr | Op::Lmsw) {
        if explicit[0] == Operand::Memory {
            compare_memory(&ours, &theirs, &context);
        }
        return;
    }
    if count == 0 {
        assert!(explicit.is_empty(), "operands: {context}");
        return;
    }
    assert_eq!(explicit.len(), count as usize, "operand count: {context}");
    // XCHG, TEST and XADD name their operands in either order.
    let swap =
        matches!(ours.op, Op::Xchg) && theirs.op_kind(0) == OpKind::Register && ours.destination == Operand::Memory;
    for (k, which) in explicit.into_iter().enumerate() {
        let width = match (ours.op, k) {
            (Op::In, 1) | (Op::Out, 0) if which == Operand::Gpr(2) => Width::Word,
            (Op::Mov, _) if matches!(ours.source, Operand::Segment(_)) => ours.width,
            (_, 1) => ours.source_width,
            _ => ours.width,
        };
        let k = if swap { 1 - k } else { k };
        if let (Op::Mov, Operand::Segment(_)) = (ours.op, ours.destination)
            && which != ours.destination
            && which != Operand::Memory
        {
            continue; // only 16 bits of the register count, whatever its name
        }
        compare_operand(&ours, which, width, &theirs, k as u32, &context);
    }
}

/// Encodings that the oracle accepts and that are rightly undefined: LOCK on what is no read-modify-write, and extensions
/// of other vendors.
fn known_difference(i: &iced_x86::Instruction) -> bool {
    let vendor = ["PADLOCK", "CENTAUR", "FRED", "LKGS", "VIA"];
    i.has_lock_prefix()
        || i.code().cpuid_features().iter().any(|f| vendor.iter().any(|v| format!("{f:?}").contains(v)))
        || i.mnemonic() == Mnemonic::Lkgs
}

/// Compares what both say of these bytes in each mode; panics where they disagree.
pub(crate) fn probe(bytes: &[u8]) {
    for (mode, bits) in MODES {
        compare(bytes, mode, bits);
    }
}
