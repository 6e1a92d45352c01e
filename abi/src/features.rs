//! `features.h`: what `XENVER_get_features` reports, as bit numbers within submap 0.

/// The guest's page tables are writable.
pub const XENFEAT_WRITABLE_PAGE_TABLES: u32 = 0;
/// Descriptor tables are writable.
pub const XENFEAT_WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
/// The guest sees guest frames, not machine frames.
pub const XENFEAT_AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// The guest kernel runs in ring 0.
pub const XENFEAT_SUPERVISOR_MODE_KERNEL: u32 = 3;
/// PAE page directories may lie above 4 GiB.
pub const XENFEAT_PAE_PGDIR_ABOVE_4GB: u32 = 4;
/// `MMU_PT_UPDATE_PRESERVE_AD` works.
pub const XENFEAT_MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
/// `MMU_{CLEAR,COPY}_PAGE` work.
pub const XENFEAT_HIGHMEM_ASSIST: u32 = 6;
/// Grant mappings take available page table bits from the caller.
pub const XENFEAT_GNTTAB_MAP_AVAIL_BITS: u32 = 7;
/// Event upcalls can be delivered by vector.
pub const XENFEAT_HVM_CALLBACK_VECTOR: u32 = 8;
/// The pvclock is usable by HVM guests.
pub const XENFEAT_HVM_SAFE_PVCLOCK: u32 = 9;
/// PIRQs can be bound by HVM guests.
pub const XENFEAT_HVM_PIRQS: u32 = 10;
/// The domain is dom0.
pub const XENFEAT_DOM0: u32 = 11;
/// Memory operations take virtual NUMA nodes.
pub const XENFEAT_MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
/// SMC calling convention (Arm).
pub const XENFEAT_ARM_SMCCC_SUPPORTED: u32 = 14;
/// The PVH root system description pointer may lie anywhere.
pub const XENFEAT_LINUX_RSDP_UNRESTRICTED: u32 = 15;
/// gfn and mfn differ.
pub const XENFEAT_NOT_DIRECT_MAPPED: u32 = 16;
/// gfn and mfn are equal.
pub const XENFEAT_DIRECT_MAPPED: u32 = 17;
/// Number of submaps.
pub const XENFEAT_NR_SUBMAPS: u32 = 1;
