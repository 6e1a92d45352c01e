//! `version.h`: what the hypervisor says about itself.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Major and minor version, in the result.
pub const XENVER_VERSION: u32 = 0;
/// What follows major.minor: [`ExtraVersion`].
pub const XENVER_EXTRAVERSION: u32 = 1;
/// Who compiled it with what: [`CompileInfo`].
pub const XENVER_COMPILE_INFO: u32 = 2;
/// The guest ABIs: [`Capabilities`].
pub const XENVER_CAPABILITIES: u32 = 3;
/// The source's state: [`Changeset`].
pub const XENVER_CHANGESET: u32 = 4;
/// [`PlatformParameters`].
pub const XENVER_PLATFORM_PARAMETERS: u32 = 5;
/// [`FeatureInfo`].
pub const XENVER_GET_FEATURES: u32 = 6;
/// The page size, in the result.
pub const XENVER_PAGESIZE: u32 = 7;
/// The domain's handle (UUID), 16 bytes.
pub const XENVER_GUEST_HANDLE: u32 = 8;
/// The hypervisor's command line: [`CommandLine`].
pub const XENVER_COMMANDLINE: u32 = 9;
/// [`BuildId`] and that many bytes.
pub const XENVER_BUILD_ID: u32 = 10;

/// `xen_extraversion_t`, NUL-terminated.
pub type ExtraVersion = [u8; 16];
/// `xen_capabilities_info_t`, NUL-terminated.
pub type Capabilities = [u8; 1024];
/// `xen_changeset_info_t`, NUL-terminated.
pub type Changeset = [u8; 64];
/// `xen_commandline_t`, NUL-terminated.
pub type CommandLine = [u8; 1024];
/// `xen_domain_handle_t`.
pub type DomainHandle = [u8; 16];

/// `xen_compile_info`, NUL-terminated texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompileInfo {
    /// The compiler.
    pub compiler: [u8; 64],
    /// The user.
    pub compile_by: [u8; 16],
    /// The user's domain.
    pub compile_domain: [u8; 32],
    /// The date.
    pub compile_date: [u8; 32],
}

/// `xen_platform_parameters`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PlatformParameters {
    /// Where the hypervisor's part of a PV guest's address space starts.
    pub virt_start: u64,
}

/// `HYPERVISOR_VIRT_START` of `arch-x86/xen-x86_64.h`.
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;

/// `xen_feature_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FeatureInfo {
    /// In: which 32 features.
    pub submap_idx: u32,
    /// Out: a bit per feature.
    pub submap: u32,
}

/// `xen_build_id` without its flexible array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BuildId {
    /// In: room in bytes; the identifier follows.
    pub len: u32,
}

const _: () = {
    assert!(size_of::<CompileInfo>() == 144);
    assert!(size_of::<PlatformParameters>() == 8);
    assert!(size_of::<FeatureInfo>() == 8);
    assert!(size_of::<BuildId>() == 4);
};
