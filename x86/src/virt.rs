//! The processor's virtualisation extension as seen from above: what [`VirtualCpu`] hides is SVM or VMX.
//!
//! A [`VirtualCpu`] holds the guest's registers. It is owned by the CPU that runs it (inside the vCPU's state lock).

use alloc::string::String;
use alloc::vec::Vec;

/// Numbers of general-purpose registers as instructions encode them.
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R8.
    pub const R8: usize = 8;
    /// R9.
    pub const R9: usize = 9;
    /// R10.
    pub const R10: usize = 10;
}

/// RFLAGS bits.
pub mod rflags {
    /// Always one.
    pub const FIXED: u64 = 1 << 1;
    /// Trap flag.
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// Resume flag.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
}

/// CR0 bits.
pub mod cr0 {
    /// Protected mode.
    pub const PE: u64 = 1;
    /// Extension type: always one.
    pub const ET: u64 = 1 << 4;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// EFER bits.
pub mod efer {
    /// SYSCALL enabled.
    pub const SCE: u64 = 1;
    /// Long mode enabled.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enabled.
    pub const NXE: u64 = 1 << 11;
    /// SVM enabled.
    pub const SVME: u64 = 1 << 12;
}

/// The registers that instructions name directly. Always current between two [`VirtualCpu::run`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Regs {
    /// General-purpose registers in encoding order, see [`gpr`].
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
}

impl Regs {
    /// Register `n` (0..=15), see [`gpr`]. 0 for other numbers.
    #[must_use]
    pub fn get(&self, n: usize) -> u64 {
        self.gpr.get(n).copied().unwrap_or(0)
    }

    /// Sets register `n` (0..=15); other numbers are ignored.
    pub fn set(&mut self, n: usize, value: u64) {
        if let Some(r) = self.gpr.get_mut(n) {
            *r = value;
        }
    }

    /// EDX:EAX, as RDMSR and friends return a value.
    pub fn set_edx_eax(&mut self, value: u64) {
        self.set(gpr::RAX, value & 0xffff_ffff);
        self.set(gpr::RDX, value >> 32);
    }

    /// EDX:EAX, as WRMSR and friends take a value.
    #[must_use]
    pub fn edx_eax(&self) -> u64 {
        (self.get(gpr::RDX) << 32) | (self.get(gpr::RAX) & 0xffff_ffff)
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes in the VMCB's packing: type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B 10, G 11.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

impl Segment {
    /// Privilege level of the descriptor.
    #[must_use]
    pub const fn dpl(&self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }
    /// 64-bit code segment.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.attributes & (1 << 9) != 0
    }
    /// 32-bit default size.
    #[must_use]
    pub const fn is_32bit(&self) -> bool {
        self.attributes & (1 << 10) != 0
    }
}

/// Names of segment registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentName {
    /// Extra segment.
    Es,
    /// Code segment.
    Cs,
    /// Stack segment.
    Ss,
    /// Data segment.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// Global descriptor table register (base and limit).
    Gdtr,
    /// Local descriptor table.
    Ldtr,
    /// Interrupt descriptor table register (base and limit).
    Idtr,
    /// Task register.
    Tr,
}

/// Control state that decides the processor's mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER as the guest sees it.
    pub efer: u64,
}

/// MSRs that the processor switches with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchedMsr {
    /// STAR.
    Star,
    /// LSTAR.
    Lstar,
    /// CSTAR.
    Cstar,
    /// SFMASK.
    Sfmask,
    /// KERNEL_GS_BASE.
    KernelGsBase,
    /// SYSENTER_CS.
    SysenterCs,
    /// SYSENTER_ESP.
    SysenterEsp,
    /// SYSENTER_EIP.
    SysenterEip,
    /// The guest's PAT.
    Pat,
    /// DEBUGCTL.
    DebugCtl,
    /// TSC_AUX.
    TscAux,
}

/// Something delivered through the guest's interrupt descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// External interrupt.
    Interrupt(u8),
    /// Non-maskable interrupt.
    Nmi,
    /// Exception.
    Exception {
        /// Vector, 0..=31.
        vector: u8,
        /// Error code for vectors that push one.
        error_code: Option<u32>,
    },
    /// INT n, INT3, INTO (only seen as an interrupted delivery).
    Software {
        /// Vector.
        vector: u8,
    },
}

impl Event {
    /// Debug.
    pub const DB: Event = Event::Exception { vector: 1, error_code: None };
    /// Undefined opcode.
    pub const UD: Event = Event::Exception { vector: 6, error_code: None };
    /// General protection with error code 0.
    pub const GP: Event = Event::Exception { vector: 13, error_code: Some(0) };
}

/// A port access that left guest mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// Port number.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// OUT (to the device) rather than IN.
    pub write: bool,
    /// INS or OUTS: the emulator's work.
    pub string: bool,
}

/// A nested page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFault {
    /// Guest-physical address that was accessed.
    pub gpa: u64,
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// The nested entry was present (a permission fault).
    pub present: bool,
    /// The access was the guest's own page-table walk, not its final access.
    pub table_walk: bool,
}

/// Why the guest stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A physical interrupt, NMI or the like: nothing the guest did.
    Interrupt,
    /// The guest can take an interrupt now (see [`VirtualCpu::request_interrupt_window`]).
    InterruptWindow,
    /// CPUID.
    Cpuid,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// VMMCALL or VMCALL.
    Hypercall,
    /// HLT.
    Halt,
    /// PAUSE in a loop.
    Pause,
    /// IN, OUT, INS, OUTS.
    Port(PortAccess),
    /// Nested page fault.
    NestedFault(NestedFault),
    /// INVD or WBINVD.
    CacheFlush,
    /// XSETBV.
    Xsetbv,
    /// RDTSC or RDTSCP while TSC accesses are trapped.
    Rdtsc {
        /// It was RDTSCP.
        with_aux: bool,
    },
    /// An access to a debug register: the guest's are loaded now, the instruction is to be executed again.
    DebugRegister,
    /// An exception that is intercepted to bound its recursion (#DB, #AC), or since it may ask for emulation (#UD, in
    /// images for tests only): to be handed to the guest.
    Exception(Event),
    /// A write of CR4, not yet executed: what the guest may set depends on what its CPUID shows, not on the processor.
    ControlRegister,
    /// A write of CR8, not yet executed (see [`VirtualCpu::watch_task_priority`]).
    TaskPriority,
    /// INT1 (ICEBP), not yet executed: a #DB that follows the instruction.
    Icebp,
    /// An instruction that does not exist for guests: #UD.
    Undefined,
    /// RDPMC and other instructions that fault with #GP for guests.
    Protected,
    /// Triple fault.
    Shutdown,
    /// The processor refused to enter the guest, or left it for a reason unknown to Radon: the raw code.
    Failed(u64),
}

/// One virtual CPU as the hardware holds it.
pub trait VirtualCpu: Send {
    /// Runs the guest until something needs attention. Interrupts are off before and after.
    fn run(&mut self) -> Exit;
    /// The directly named registers.
    fn regs(&self) -> &Regs;
    /// The directly named registers, to change.
    fn regs_mut(&mut self) -> &mut Regs;
    /// The address of the next instruction, if the hardware told it with the last exit.
    fn next_rip(&self) -> Option<u64>;
    /// Bytes of the instruction that caused the last nested page fault, if the hardware told them.
    fn instruction_bytes(&self) -> &[u8];
    /// Control registers.
    fn control(&self) -> Control;
    /// Sets control registers. `efer` is what the guest is to see.
    fn set_control(&mut self, control: &Control);
    /// CR4 alone (often asked: CPUID shows some of its bits).
    fn cr4(&self) -> u64;
    /// Sets CR2 for a page fault to be injected.
    fn set_cr2(&mut self, address: u64);
    /// Current privilege level, 0..=3.
    fn cpl(&self) -> u8;
    /// A segment register.
    fn segment(&self, name: SegmentName) -> Segment;
    /// Sets a segment register.
    fn set_segment(&mut self, name: SegmentName, segment: &Segment);
    /// An MSR that is switched by hardware.
    fn switched_msr(&self, msr: SwitchedMsr) -> u64;
    /// Sets an MSR that is switched by hardware.
    fn set_switched_msr(&mut self, msr: SwitchedMsr, value: u64);
    /// Debug registers DR0-3, DR6, DR7.
    fn debug_registers(&self) -> [u64; 6];
    /// Sets debug registers DR0-3, DR6, DR7.
    fn set_debug_registers(&mut self, values: &[u64; 6]);
    /// XCR0.
    fn xcr0(&self) -> u64;
    /// Sets XCR0; `value` was checked against the guest's policy.
    fn set_xcr0(&mut self, value: u64);
    /// What is added to the machine's TSC for the guest.
    fn tsc_offset(&self) -> u64;
    /// Sets what is added to the machine's TSC.
    fn set_tsc_offset(&mut self, offset: u64);
    /// Whether reading the TSC gives [`Exit::Rdtsc`].
    fn trap_tsc(&mut self, trap: bool);
    /// Whether an interrupt would be taken now: RFLAGS.IF, no interrupt shadow, nothing else being delivered.
    fn can_take_interrupt(&self) -> bool;
    /// Whether an NMI would be taken now: none being handled, no shadow, nothing else being delivered.
    fn can_take_nmi(&self) -> bool;
    /// Whether an event is already set to be delivered at the next entry.
    fn delivery_pending(&self) -> bool;
    /// Delivers an event at the next entry.
    fn inject(&mut self, event: Event);
    /// Asks for [`Exit::InterruptWindow`] once the guest can take an interrupt; `priority` is the vector's upper half.
    fn request_interrupt_window(&mut self, priority: u8);
    /// Asks for an exit once the guest can take an NMI, which it cannot now.
    fn request_nmi_window(&mut self);
    /// Ends the interrupt shadow of MOV SS or STI (after an instruction was emulated).
    fn clear_interrupt_shadow(&mut self);
    /// Task priority (CR8), 0..=15.
    fn tpr(&self) -> u8;
    /// Sets the task priority (CR8).
    fn set_tpr(&mut self, value: u8);
    /// Asks for [`Exit::TaskPriority`] at the guest's next write of CR8.
    fn watch_task_priority(&mut self);
    /// Sets the guest's SPEC_CTRL (checked against its policy), in force while the guest runs.
    fn set_spec_ctrl(&mut self, value: u64);
    /// YMM register `n` (0..=15), least significant part first; without AVX the upper half is zero.
    fn vector(&self, n: usize) -> [u64; 4];
    /// Sets a YMM register; without AVX the upper half is dropped.
    fn set_vector(&mut self, n: usize, value: [u64; 4]);
    /// FPU, SSE and extended state in XSAVE's standard format: legacy area, header, components where CPUID leaf 0xD has
    /// them; at least 576 bytes.
    fn extended_state(&self) -> Vec<u8>;
    /// Sets FPU, SSE and extended state. What `area` does not have, or its header says is not there, is as after reset;
    /// what the processor does not know is dropped.
    fn set_extended_state(&mut self, area: &[u8]);
    /// The processor's number for why it left the guest, for trace records.
    fn exit_code(&self) -> u64 {
        0
    }
    /// What the processor said at the last exit and was told at the last entry, in words, for a report on a crash.
    fn describe_exit(&self) -> String {
        String::new()
    }
    /// The event that is set to be delivered at the next entry.
    fn pending_event(&self) -> Option<Event>;
    /// This vCPU becomes the one that runs on the calling CPU: its FPU and other lazily kept state is loaded.
    fn load(&mut self);
    /// This vCPU stops being the one that runs on the calling CPU: its state is saved to memory.
    fn save(&mut self);
    /// All of the guest's cached translations are to be dropped before the next entry.
    fn flush_tlb(&mut self);
    /// Resets registers to the state after RESET or INIT.
    fn reset(&mut self);
}
