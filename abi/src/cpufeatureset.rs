//! `arch-x86/cpufeatureset.h`: the numbers, names and exposure of CPU features. A featureset is an array of 32-bit words;
//! feature `n` is bit `n % 32` of word `n / 32`, and each word stands for one CPUID (or MSR) register.

/// Words of a featureset as Xen 4.17.7 has it.
pub const FEATURESET_WORDS: usize = 19;

/// A feature's number: word * 32 + bit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Feature(pub u16);

impl Feature {
    /// The index of its word in a featureset.
    #[must_use]
    pub const fn word(self) -> usize {
        (self.0 >> 5) as usize
    }

    /// Its bit within the word, as a mask.
    #[must_use]
    pub const fn mask(self) -> u32 {
        1_u32.wrapping_shl(self.0 as u32)
    }
}

/// Which guests a feature is for (the letters of the header; PV is not considered).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposure {
    /// No guest.
    Hidden,
    /// Guests by default.
    Default,
    /// Guests that ask for it.
    Optional,
}

/// A row of the table of features.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureInfo {
    /// The number.
    pub feature: Feature,
    /// The name in the header, in lower case.
    pub name: &'static str,
    /// Who may have it.
    pub exposure: Exposure,
    /// Marked `!`: its value is not simply the machine's, or it means the absence of something.
    pub special: bool,
}

macro_rules! features {
    ($($name:ident = $word:literal * 32 + $bit:literal, $text:literal, $exposure:ident, $special:literal, $doc:literal;)*) => {
        impl Feature {
            $(#[doc = $doc] pub const $name: Feature = Feature($word * 32 + $bit);)*
        }

        /// All features that have a name.
        pub static FEATURES: &[FeatureInfo] = &[
            $(FeatureInfo {
                feature: Feature::$name,
                name: $text,
                exposure: Exposure::$exposure,
                special: $special,
            },)*
        ];
    };
}

features! {
    FPU = 0 * 32 + 0, "fpu", Default, false, "Onboard FPU.";
    VME = 0 * 32 + 1, "vme", Default, false, "Virtual Mode Extensions.";
    DE = 0 * 32 + 2, "de", Default, false, "Debugging Extensions.";
    PSE = 0 * 32 + 3, "pse", Default, false, "Page Size Extensions.";
    TSC = 0 * 32 + 4, "tsc", Default, false, "Time Stamp Counter.";
    MSR = 0 * 32 + 5, "msr", Default, false, "Model-Specific Registers, RDMSR, WRMSR.";
    PAE = 0 * 32 + 6, "pae", Default, false, "Physical Address Extensions.";
    MCE = 0 * 32 + 7, "mce", Default, false, "Machine Check Architecture.";
    CX8 = 0 * 32 + 8, "cx8", Default, false, "CMPXCHG8 instruction.";
    APIC = 0 * 32 + 9, "apic", Default, true, "Onboard APIC.";
    SEP = 0 * 32 + 11, "sep", Default, false, "SYSENTER/SYSEXIT.";
    MTRR = 0 * 32 + 12, "mtrr", Default, false, "Memory Type Range Registers.";
    PGE = 0 * 32 + 13, "pge", Default, false, "Page Global Enable.";
    MCA = 0 * 32 + 14, "mca", Default, false, "Machine Check Architecture.";
    CMOV = 0 * 32 + 15, "cmov", Default, false, "CMOV instruction (FCMOVCC and FCOMI too if FPU present).";
    PAT = 0 * 32 + 16, "pat", Default, false, "Page Attribute Table.";
    PSE36 = 0 * 32 + 17, "pse36", Default, false, "36-bit PSEs.";
    CLFLUSH = 0 * 32 + 19, "clflush", Default, false, "CLFLUSH instruction.";
    DS = 0 * 32 + 21, "ds", Hidden, false, "Debug Store.";
    ACPI = 0 * 32 + 22, "acpi", Default, false, "ACPI via MSR.";
    MMX = 0 * 32 + 23, "mmx", Default, false, "Multimedia Extensions.";
    FXSR = 0 * 32 + 24, "fxsr", Default, false, "FXSAVE and FXRSTOR instructions.";
    SSE = 0 * 32 + 25, "sse", Default, false, "Streaming SIMD Extensions.";
    SSE2 = 0 * 32 + 26, "sse2", Default, false, "Streaming SIMD Extensions-2.";
    SS = 0 * 32 + 27, "ss", Default, false, "CPU self snoop.";
    HTT = 0 * 32 + 28, "htt", Default, true, "Hyper-Threading Technology.";
    TM1 = 0 * 32 + 29, "tm1", Hidden, false, "Thermal Monitor 1.";
    PBE = 0 * 32 + 31, "pbe", Hidden, false, "Pending Break Enable.";
    SSE3 = 1 * 32 + 0, "sse3", Default, false, "Streaming SIMD Extensions-3.";
    PCLMULQDQ = 1 * 32 + 1, "pclmulqdq", Default, false, "Carry-less multiplication.";
    DTES64 = 1 * 32 + 2, "dtes64", Hidden, false, "64-bit Debug Store.";
    MONITOR = 1 * 32 + 3, "monitor", Hidden, false, "Monitor/Mwait support.";
    DSCPL = 1 * 32 + 4, "dscpl", Hidden, false, "CPL Qualified Debug Store.";
    VMX = 1 * 32 + 5, "vmx", Optional, false, "Virtual Machine Extensions.";
    SMX = 1 * 32 + 6, "smx", Hidden, false, "Safer Mode Extensions.";
    EIST = 1 * 32 + 7, "eist", Hidden, false, "Enhanced SpeedStep.";
    TM2 = 1 * 32 + 8, "tm2", Hidden, false, "Thermal Monitor 2.";
    SSSE3 = 1 * 32 + 9, "ssse3", Default, false, "Supplemental Streaming SIMD Extensions-3.";
    FMA = 1 * 32 + 12, "fma", Default, false, "Fused Multiply Add.";
    CX16 = 1 * 32 + 13, "cx16", Default, false, "CMPXCHG16B.";
    XTPR = 1 * 32 + 14, "xtpr", Hidden, false, "Send Task Priority Messages.";
    PDCM = 1 * 32 + 15, "pdcm", Hidden, false, "Perf/Debug Capability MSR.";
    PCID = 1 * 32 + 17, "pcid", Default, false, "Process Context ID.";
    DCA = 1 * 32 + 18, "dca", Hidden, false, "Direct Cache Access.";
    SSE4_1 = 1 * 32 + 19, "sse4_1", Default, false, "Streaming SIMD Extensions 4.1.";
    SSE4_2 = 1 * 32 + 20, "sse4_2", Default, false, "Streaming SIMD Extensions 4.2.";
    X2APIC = 1 * 32 + 21, "x2apic", Default, true, "Extended xAPIC.";
    MOVBE = 1 * 32 + 22, "movbe", Default, false, "movbe instruction.";
    POPCNT = 1 * 32 + 23, "popcnt", Default, false, "POPCNT instruction.";
    TSC_DEADLINE = 1 * 32 + 24, "tsc_deadline", Default, false, "TSC Deadline Timer.";
    AESNI = 1 * 32 + 25, "aesni", Default, false, "AES instructions.";
    XSAVE = 1 * 32 + 26, "xsave", Default, false, "XSAVE/XRSTOR/XSETBV/XGETBV.";
    OSXSAVE = 1 * 32 + 27, "osxsave", Hidden, true, "OSXSAVE.";
    AVX = 1 * 32 + 28, "avx", Default, false, "Advanced Vector Extensions.";
    F16C = 1 * 32 + 29, "f16c", Default, false, "Half-precision convert instruction.";
    RDRAND = 1 * 32 + 30, "rdrand", Default, true, "Digital Random Number Generator.";
    HYPERVISOR = 1 * 32 + 31, "hypervisor", Default, true, "Running under some hypervisor.";
    SYSCALL = 2 * 32 + 11, "syscall", Default, false, "SYSCALL/SYSRET.";
    NX = 2 * 32 + 20, "nx", Default, false, "Execute Disable.";
    MMXEXT = 2 * 32 + 22, "mmxext", Default, false, "AMD MMX extensions.";
    FFXSR = 2 * 32 + 25, "ffxsr", Default, false, "FFXSR instruction optimizations.";
    PAGE1GB = 2 * 32 + 26, "page1gb", Default, false, "1Gb large page support.";
    RDTSCP = 2 * 32 + 27, "rdtscp", Default, false, "RDTSCP.";
    LM = 2 * 32 + 29, "lm", Default, false, "Long Mode (x86-64).";
    AMD_3DNOWEXT = 2 * 32 + 30, "3dnowext", Default, false, "AMD 3DNow! extensions.";
    AMD_3DNOW = 2 * 32 + 31, "3dnow", Default, false, "3DNow!.";
    LAHF_LM = 3 * 32 + 0, "lahf_lm", Default, false, "LAHF/SAHF in long mode.";
    CMP_LEGACY = 3 * 32 + 1, "cmp_legacy", Default, true, "If yes HyperThreading not valid.";
    SVM = 3 * 32 + 2, "svm", Optional, false, "Secure virtual machine.";
    EXTAPIC = 3 * 32 + 3, "extapic", Hidden, false, "Extended APIC space.";
    CR8_LEGACY = 3 * 32 + 4, "cr8_legacy", Default, false, "CR8 in 32-bit mode.";
    ABM = 3 * 32 + 5, "abm", Default, false, "Advanced bit manipulation.";
    SSE4A = 3 * 32 + 6, "sse4a", Default, false, "SSE-4A.";
    MISALIGNSSE = 3 * 32 + 7, "misalignsse", Default, false, "Misaligned SSE mode.";
    AMD_3DNOWPREFETCH = 3 * 32 + 8, "3dnowprefetch", Default, false, "3DNow prefetch instructions.";
    OSVW = 3 * 32 + 9, "osvw", Hidden, false, "OS Visible Workaround.";
    IBS = 3 * 32 + 10, "ibs", Hidden, false, "Instruction Based Sampling.";
    XOP = 3 * 32 + 11, "xop", Default, false, "extended AVX instructions.";
    SKINIT = 3 * 32 + 12, "skinit", Hidden, false, "SKINIT/STGI instructions.";
    WDT = 3 * 32 + 13, "wdt", Hidden, false, "Watchdog timer.";
    LWP = 3 * 32 + 15, "lwp", Hidden, false, "Light Weight Profiling.";
    FMA4 = 3 * 32 + 16, "fma4", Default, false, "4 operands MAC instructions.";
    NODEID_MSR = 3 * 32 + 19, "nodeid_msr", Hidden, false, "NodeId MSR.";
    TBM = 3 * 32 + 21, "tbm", Default, false, "trailing bit manipulations.";
    TOPOEXT = 3 * 32 + 22, "topoext", Hidden, false, "topology extensions CPUID leafs.";
    DBEXT = 3 * 32 + 26, "dbext", Default, false, "data breakpoint extension.";
    MONITORX = 3 * 32 + 29, "monitorx", Hidden, false, "MONITOR extension (MONITORX/MWAITX).";
    XSAVEOPT = 4 * 32 + 0, "xsaveopt", Default, false, "XSAVEOPT instruction.";
    XSAVEC = 4 * 32 + 1, "xsavec", Default, false, "XSAVEC/XRSTORC instructions.";
    XGETBV1 = 4 * 32 + 2, "xgetbv1", Default, false, "XGETBV with %ecx=1.";
    XSAVES = 4 * 32 + 3, "xsaves", Default, false, "XSAVES/XRSTORS instructions.";
    FSGSBASE = 5 * 32 + 0, "fsgsbase", Default, false, "{RD,WR}{FS,GS}BASE instructions.";
    TSC_ADJUST = 5 * 32 + 1, "tsc_adjust", Default, false, "`TSC_ADJUST` MSR available.";
    SGX = 5 * 32 + 2, "sgx", Hidden, false, "Software Guard extensions.";
    BMI1 = 5 * 32 + 3, "bmi1", Default, false, "1st bit manipulation extensions.";
    HLE = 5 * 32 + 4, "hle", Optional, true, "Hardware Lock Elision.";
    AVX2 = 5 * 32 + 5, "avx2", Default, false, "AVX2 instructions.";
    FDP_EXCP_ONLY = 5 * 32 + 6, "fdp_excp_only", Hidden, true, "x87 FDP only updated on exception.";
    SMEP = 5 * 32 + 7, "smep", Default, false, "Supervisor Mode Execution Protection.";
    BMI2 = 5 * 32 + 8, "bmi2", Default, false, "2nd bit manipulation extensions.";
    ERMS = 5 * 32 + 9, "erms", Default, false, "Enhanced REP MOVSB/STOSB.";
    INVPCID = 5 * 32 + 10, "invpcid", Default, false, "Invalidate Process Context ID.";
    RTM = 5 * 32 + 11, "rtm", Default, true, "Restricted Transactional Memory.";
    PQM = 5 * 32 + 12, "pqm", Hidden, false, "Platform QoS Monitoring.";
    NO_FPU_SEL = 5 * 32 + 13, "no_fpu_sel", Hidden, true, "FPU CS/DS stored as zero.";
    MPX = 5 * 32 + 14, "mpx", Optional, false, "Memory Protection Extensions.";
    PQE = 5 * 32 + 15, "pqe", Hidden, false, "Platform QoS Enforcement.";
    AVX512F = 5 * 32 + 16, "avx512f", Default, false, "AVX-512 Foundation Instructions.";
    AVX512DQ = 5 * 32 + 17, "avx512dq", Default, false, "AVX-512 Doubleword & Quadword Instrs.";
    RDSEED = 5 * 32 + 18, "rdseed", Default, false, "RDSEED instruction.";
    ADX = 5 * 32 + 19, "adx", Default, false, "ADCX, ADOX instructions.";
    SMAP = 5 * 32 + 20, "smap", Default, false, "Supervisor Mode Access Prevention.";
    AVX512_IFMA = 5 * 32 + 21, "avx512_ifma", Default, false, "AVX-512 Integer Fused Multiply Add.";
    CLFLUSHOPT = 5 * 32 + 23, "clflushopt", Default, false, "CLFLUSHOPT instruction.";
    CLWB = 5 * 32 + 24, "clwb", Default, true, "CLWB instruction.";
    PROC_TRACE = 5 * 32 + 25, "proc_trace", Hidden, false, "Processor Trace.";
    AVX512PF = 5 * 32 + 26, "avx512pf", Default, false, "AVX-512 Prefetch Instructions.";
    AVX512ER = 5 * 32 + 27, "avx512er", Default, false, "AVX-512 Exponent & Reciprocal Instrs.";
    AVX512CD = 5 * 32 + 28, "avx512cd", Default, false, "AVX-512 Conflict Detection Instrs.";
    SHA = 5 * 32 + 29, "sha", Default, false, "SHA1 & SHA256 instructions.";
    AVX512BW = 5 * 32 + 30, "avx512bw", Default, false, "AVX-512 Byte and Word Instructions.";
    AVX512VL = 5 * 32 + 31, "avx512vl", Default, false, "AVX-512 Vector Length Extensions.";
    PREFETCHWT1 = 6 * 32 + 0, "prefetchwt1", Default, false, "PREFETCHWT1 instruction.";
    AVX512_VBMI = 6 * 32 + 1, "avx512_vbmi", Default, false, "AVX-512 Vector Byte Manipulation Instrs.";
    UMIP = 6 * 32 + 2, "umip", Default, false, "User Mode Instruction Prevention.";
    PKU = 6 * 32 + 3, "pku", Default, false, "Protection Keys for Userspace.";
    OSPKE = 6 * 32 + 4, "ospke", Hidden, true, "OS Protection Keys Enable.";
    AVX512_VBMI2 = 6 * 32 + 6, "avx512_vbmi2", Default, false, "Additional AVX-512 Vector Byte Manipulation Instrs.";
    CET_SS = 6 * 32 + 7, "cet_ss", Hidden, false, "CET - Shadow Stacks.";
    GFNI = 6 * 32 + 8, "gfni", Default, false, "Galois Field Instrs.";
    VAES = 6 * 32 + 9, "vaes", Default, false, "Vector AES Instrs.";
    VPCLMULQDQ = 6 * 32 + 10, "vpclmulqdq", Default, false, "Vector Carry-less Multiplication Instrs.";
    AVX512_VNNI = 6 * 32 + 11, "avx512_vnni", Default, false, "Vector Neural Network Instrs.";
    AVX512_BITALG = 6 * 32 + 12, "avx512_bitalg", Default, false, "Support for VPOPCNT(B,W) and VPSHUFBITQMB.";
    AVX512_VPOPCNTDQ = 6 * 32 + 14, "avx512_vpopcntdq", Default, false, "POPCNT for vectors of DW/QW.";
    RDPID = 6 * 32 + 22, "rdpid", Default, false, "RDPID instruction.";
    CLDEMOTE = 6 * 32 + 25, "cldemote", Default, false, "CLDEMOTE instruction.";
    MOVDIRI = 6 * 32 + 27, "movdiri", Optional, false, "MOVDIRI instruction.";
    MOVDIR64B = 6 * 32 + 28, "movdir64b", Optional, false, "MOVDIR64B instruction.";
    ENQCMD = 6 * 32 + 29, "enqcmd", Hidden, false, "ENQCMD{,S} instructions.";
    HW_PSTATE = 7 * 32 + 7, "hw_pstate", Hidden, false, "Hardware Pstates.";
    ITSC = 7 * 32 + 8, "itsc", Optional, false, "Invariant TSC.";
    CPB = 7 * 32 + 9, "cpb", Hidden, false, "Core Performance Boost (Turbo).";
    EFRO = 7 * 32 + 10, "efro", Hidden, false, "APERF/MPERF Read Only interface.";
    CLZERO = 8 * 32 + 0, "clzero", Default, false, "CLZERO instruction.";
    RSTR_FP_ERR_PTRS = 8 * 32 + 2, "rstr_fp_err_ptrs", Default, false, "(F)X{SAVE,RSTOR} always saves/restores FPU Error pointers.";
    WBNOINVD = 8 * 32 + 9, "wbnoinvd", Hidden, false, "WBNOINVD instruction.";
    IBPB = 8 * 32 + 12, "ibpb", Default, false, "IBPB support only (no IBRS, used by AMD).";
    IBRS = 8 * 32 + 14, "ibrs", Default, false, "`MSR_SPEC_CTRL.IBRS`.";
    AMD_STIBP = 8 * 32 + 15, "amd_stibp", Default, false, "`MSR_SPEC_CTRL.STIBP`.";
    IBRS_ALWAYS = 8 * 32 + 16, "ibrs_always", Default, false, "IBRS preferred always on.";
    STIBP_ALWAYS = 8 * 32 + 17, "stibp_always", Default, false, "STIBP preferred always on.";
    IBRS_FAST = 8 * 32 + 18, "ibrs_fast", Default, false, "IBRS preferred over software options.";
    IBRS_SAME_MODE = 8 * 32 + 19, "ibrs_same_mode", Default, false, "IBRS provides same-mode protection.";
    NO_LMSL = 8 * 32 + 20, "no_lmsl", Default, false, "EFER.LMSLE no longer supported.";
    AMD_PPIN = 8 * 32 + 23, "amd_ppin", Hidden, false, "Protected Processor Inventory Number.";
    AMD_SSBD = 8 * 32 + 24, "amd_ssbd", Default, false, "`MSR_SPEC_CTRL.SSBD` available.";
    VIRT_SSBD = 8 * 32 + 25, "virt_ssbd", Hidden, true, "`MSR_VIRT_SPEC_CTRL.SSBD`.";
    SSB_NO = 8 * 32 + 26, "ssb_no", Default, false, "Hardware not vulnerable to SSB.";
    PSFD = 8 * 32 + 28, "psfd", Default, false, "`MSR_SPEC_CTRL.PSFD`.";
    BTC_NO = 8 * 32 + 29, "btc_no", Default, false, "Hardware not vulnerable to Branch Type Confusion.";
    IBPB_RET = 8 * 32 + 30, "ibpb_ret", Default, false, "IBPB clears RSB/RAS too.";
    AVX512_4VNNIW = 9 * 32 + 2, "avx512_4vnniw", Default, false, "AVX512 Neural Network Instructions.";
    AVX512_4FMAPS = 9 * 32 + 3, "avx512_4fmaps", Default, false, "AVX512 Multiply Accumulation Single Precision.";
    FSRM = 9 * 32 + 4, "fsrm", Default, false, "Fast Short REP MOVS.";
    AVX512_VP2INTERSECT = 9 * 32 + 8, "avx512_vp2intersect", Optional, false, "VP2INTERSECT{D,Q} insns.";
    SRBDS_CTRL = 9 * 32 + 9, "srbds_ctrl", Hidden, false, "`MSR_MCU_OPT_CTRL` and `RNGDS_MITG_DIS`.";
    MD_CLEAR = 9 * 32 + 10, "md_clear", Default, true, "VERW clears microarchitectural buffers.";
    RTM_ALWAYS_ABORT = 9 * 32 + 11, "rtm_always_abort", Hidden, true, "RTM disabled (but XBEGIN wont fault).";
    TSX_FORCE_ABORT = 9 * 32 + 13, "tsx_force_abort", Hidden, false, "`MSR_TSX_FORCE_ABORT.RTM_ABORT`.";
    SERIALIZE = 9 * 32 + 14, "serialize", Default, false, "SERIALIZE insn.";
    HYBRID = 9 * 32 + 15, "hybrid", Hidden, false, "Heterogeneous platform.";
    TSXLDTRK = 9 * 32 + 16, "tsxldtrk", Optional, false, "TSX load tracking suspend/resume insns.";
    CET_IBT = 9 * 32 + 20, "cet_ibt", Hidden, false, "CET - Indirect Branch Tracking.";
    AVX512_FP16 = 9 * 32 + 23, "avx512_fp16", Hidden, false, "AVX512 FP16 instructions.";
    IBRSB = 9 * 32 + 26, "ibrsb", Default, false, "IBRS and IBPB support (used by Intel).";
    STIBP = 9 * 32 + 27, "stibp", Default, false, "STIBP.";
    L1D_FLUSH = 9 * 32 + 28, "l1d_flush", Default, false, "`MSR_FLUSH_CMD` and L1D flush.";
    ARCH_CAPS = 9 * 32 + 29, "arch_caps", Default, true, "`IA32_ARCH_CAPABILITIES` MSR.";
    CORE_CAPS = 9 * 32 + 30, "core_caps", Hidden, false, "`IA32_CORE_CAPABILITIES` MSR.";
    SSBD = 9 * 32 + 31, "ssbd", Default, false, "`MSR_SPEC_CTRL.SSBD` available.";
    AVX_VNNI = 10 * 32 + 4, "avx_vnni", Default, false, "AVX-VNNI Instructions.";
    AVX512_BF16 = 10 * 32 + 5, "avx512_bf16", Default, false, "AVX512 BFloat16 Instructions.";
    FZRM = 10 * 32 + 10, "fzrm", Default, false, "Fast Zero-length REP MOVSB.";
    FSRS = 10 * 32 + 11, "fsrs", Default, false, "Fast Short REP STOSB.";
    FSRCS = 10 * 32 + 12, "fsrcs", Default, false, "Fast Short REP CMPSB/SCASB.";
    LFENCE_DISPATCH = 11 * 32 + 2, "lfence_dispatch", Default, false, "LFENCE always serializing.";
    VERW_CLEAR = 11 * 32 + 5, "verw_clear", Default, true, "VERW clears microarchitectural buffers.";
    NSCB = 11 * 32 + 6, "nscb", Default, false, "Null Selector Clears Base (and limit too).";
    AUTO_IBRS = 11 * 32 + 8, "auto_ibrs", Hidden, false, "Automatic IBRS.";
    SBPB = 11 * 32 + 27, "sbpb", Default, false, "Selective Branch Predictor Barrier.";
    IBPB_BRTYPE = 11 * 32 + 28, "ibpb_brtype", Default, false, "IBPB flushes Branch Type predictions too.";
    SRSO_NO = 11 * 32 + 29, "srso_no", Default, false, "Hardware not vulnerable to Speculative Return Stack Overflow.";
    SRSO_US_NO = 11 * 32 + 30, "srso_us_no", Default, true, "Hardware not vulnerable to SRSO across the User/Supervisor boundary.";
    SRSO_MSR_FIX = 11 * 32 + 31, "srso_msr_fix", Hidden, false, "`MSR_BP_CFG.BP_SPEC_REDUCE` available.";
    INTEL_PPIN = 12 * 32 + 0, "intel_ppin", Hidden, false, "Protected Processor Inventory Number.";
    INTEL_PSFD = 13 * 32 + 0, "intel_psfd", Default, false, "`MSR_SPEC_CTRL.PSFD`.";
    IPRED_CTRL = 13 * 32 + 1, "ipred_ctrl", Default, false, "`MSR_SPEC_CTRL.IPRED_DIS_*`.";
    RRSBA_CTRL = 13 * 32 + 2, "rrsba_ctrl", Default, false, "`MSR_SPEC_CTRL.RRSBA_DIS_*`.";
    BHI_CTRL = 13 * 32 + 4, "bhi_ctrl", Default, false, "`MSR_SPEC_CTRL.BHI_DIS_S`.";
    MCDT_NO = 13 * 32 + 5, "mcdt_no", Default, false, "`MCDT_NO`.";
    CET_SSS = 15 * 32 + 18, "cet_sss", Hidden, false, "CET Supervisor Shadow Stacks safe to use.";
    RDCL_NO = 16 * 32 + 0, "rdcl_no", Default, false, "No Rogue Data Cache Load (Meltdown).";
    EIBRS = 16 * 32 + 1, "eibrs", Default, false, "Enhanced IBRS.";
    RSBA = 16 * 32 + 2, "rsba", Hidden, true, "RSB Alternative (Retpoline not safe).";
    SKIP_L1DFL = 16 * 32 + 3, "skip_l1dfl", Hidden, false, "Don't need to flush L1D on VMEntry.";
    INTEL_SSB_NO = 16 * 32 + 4, "intel_ssb_no", Default, false, "No Speculative Store Bypass.";
    MDS_NO = 16 * 32 + 5, "mds_no", Default, false, "No Microarchitectural Data Sampling.";
    IF_PSCHANGE_MC_NO = 16 * 32 + 6, "if_pschange_mc_no", Default, false, "No Instruction fetch #MC.";
    TSX_CTRL = 16 * 32 + 7, "tsx_ctrl", Hidden, false, "`MSR_TSX_CTRL`.";
    TAA_NO = 16 * 32 + 8, "taa_no", Default, false, "No TSX Async Abort.";
    MCU_CTRL = 16 * 32 + 9, "mcu_ctrl", Hidden, false, "`MSR_MCU_CTRL`.";
    MISC_PKG_CTRL = 16 * 32 + 10, "misc_pkg_ctrl", Hidden, false, "`MSR_MISC_PKG_CTRL`.";
    ENERGY_FILTERING = 16 * 32 + 11, "energy_filtering", Hidden, false, "`MSR_MISC_PKG_CTRL.ENERGY_FILTERING`.";
    DOITM = 16 * 32 + 12, "doitm", Hidden, false, "Data Operand Invariant Timing Mode.";
    SBDR_SSDP_NO = 16 * 32 + 13, "sbdr_ssdp_no", Default, false, "No Shared Buffer Data Read or Sideband Stale Data Propagation.";
    FBSDP_NO = 16 * 32 + 14, "fbsdp_no", Default, false, "No Fill Buffer Stale Data Propagation.";
    PSDP_NO = 16 * 32 + 15, "psdp_no", Default, false, "No Primary Stale Data Propagation.";
    FB_CLEAR = 16 * 32 + 17, "fb_clear", Default, true, "Fill Buffers cleared by VERW.";
    FB_CLEAR_CTRL = 16 * 32 + 18, "fb_clear_ctrl", Hidden, false, "`MSR_OPT_CPU_CTRL.FB_CLEAR_DIS`.";
    RRSBA = 16 * 32 + 19, "rrsba", Hidden, true, "Restricted RSB Alternative.";
    BHI_NO = 16 * 32 + 20, "bhi_no", Default, false, "No Branch History Injection.";
    XAPIC_STATUS = 16 * 32 + 21, "xapic_status", Hidden, false, "`MSR_XAPIC_DISABLE_STATUS`.";
    OVRCLK_STATUS = 16 * 32 + 23, "ovrclk_status", Hidden, false, "`MSR_OVERCLOCKING_STATUS`.";
    PBRSB_NO = 16 * 32 + 24, "pbrsb_no", Default, false, "No Post-Barrier RSB predictions.";
    GDS_CTRL = 16 * 32 + 25, "gds_ctrl", Hidden, false, "`MCU_OPT_CTRL.GDS_MIT_`{DIS,LOCK}.";
    GDS_NO = 16 * 32 + 26, "gds_no", Default, false, "No Gather Data Sampling.";
    RFDS_NO = 16 * 32 + 27, "rfds_no", Default, false, "No Register File Data Sampling.";
    RFDS_CLEAR = 16 * 32 + 28, "rfds_clear", Default, true, "Register File(s) cleared by VERW.";
    ITS_NO = 16 * 32 + 62, "its_no", Default, true, "No Indirect Target Selection.";
    TSA_SQ_NO = 18 * 32 + 1, "tsa_sq_no", Default, false, "No Store Queue Transitive Scheduler Attacks.";
    TSA_L1_NO = 18 * 32 + 2, "tsa_l1_no", Default, false, "No L1D Transitive Scheduler Attacks.";
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    extern crate std;
    use super::*;

    /// Compares every row with the C header, where libxen-dev is installed.
    #[test]
    fn agrees_with_the_header() {
        let path = "/usr/include/xen/arch-x86/cpufeatureset.h";
        let Ok(header) = std::fs::read_to_string(path) else {
            std::eprintln!("SKIPPED: no {path}: install libxen-dev");
            return;
        };
        let mut rows = 0;
        for line in header.lines().filter_map(|l| l.strip_prefix("XEN_CPUFEATURE(")) {
            let (name, rest) = line.split_once(',').unwrap();
            let (number, comment) = rest.split_once(')').unwrap();
            let (word, bit) = number.split_once("*32+").unwrap();
            let number = word.trim().parse::<u16>().unwrap() * 32 + bit.trim().parse::<u16>().unwrap();
            let row = FEATURES.iter().find(|f| f.feature.0 == number).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(row.name, name.to_lowercase());
            let letters = comment.split_once("/*").unwrap().1;
            let letters = &letters[..letters.find(' ').unwrap_or(0)];
            assert_eq!(row.special, letters.contains('!'), "{name}");
            let exposure = match letters.trim_matches('!') {
                "" => Exposure::Hidden,
                "A" | "S" | "H" => Exposure::Default,
                "a" | "s" | "h" => Exposure::Optional,
                other => panic!("{name}: {other}"),
            };
            assert_eq!(row.exposure, exposure, "{name}");
            rows += 1;
        }
        assert_eq!(rows, FEATURES.len());
    }

    #[test]
    fn words_and_bits() {
        assert_eq!((Feature::HYPERVISOR.word(), Feature::HYPERVISOR.mask()), (1, 1 << 31));
        assert!(FEATURES.iter().all(|f| f.feature.word() < FEATURESET_WORDS));
    }
}
