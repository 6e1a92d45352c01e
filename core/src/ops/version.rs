//! `xen_version(cmd, arg)`: what the hypervisor says about itself.
//!
//! Guests may know the ABI's version and features; only dom0 learns the command line and the build identifier, others
//! read `<denied>` as from Xen.

use radon_abi::errno::Errno;
use radon_abi::features as feature;
use radon_abi::version as abi;

use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, Outcome, SUCCESS, op, operation};
use crate::types::{GuestVirtAddr, PAGE_SIZE};

/// The version of the ABI: Xen's, as tools and kernels compare it.
pub(super) const MAJOR: u64 = 4;
pub(super) const MINOR: u64 = 17;
/// What follows in `xl info`, as Debian 12's Xen has it.
pub(super) const EXTRA: &str = ".7";
/// Guest kinds that the toolstack may build. It looks for its own words among them.
const CAPABILITIES: &str = "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ";
pub(super) const CHANGESET: &str = concat!("radon ", env!("CARGO_PKG_VERSION"));
pub(super) const COMPILER: &str = concat!("rustc (at least ", env!("CARGO_PKG_RUST_VERSION"), ")");
/// Who compiled it: nobody in particular.
pub(super) const COMPILED_BY: &str = "radon";
/// What Xen answers instead of what a guest may not know.
const DENIED: &str = "<denied>";

/// All operations, at their numbers' places.
pub static OPERATIONS: &[Operation] = &[
    op(abi::XENVER_VERSION, "XENVER_version", version),
    op(abi::XENVER_EXTRAVERSION, "XENVER_extraversion", extraversion),
    Operation {
        number: abi::XENVER_COMPILE_INFO,
        name: "XENVER_compile_info",
        coverage: Coverage::Partial("no date, user and domain, so that builds can be reproduced"),
        handler: compile_info,
    },
    op(abi::XENVER_CAPABILITIES, "XENVER_capabilities", capabilities),
    op(abi::XENVER_CHANGESET, "XENVER_changeset", changeset),
    op(abi::XENVER_PLATFORM_PARAMETERS, "XENVER_platform_parameters", platform_parameters),
    op(abi::XENVER_GET_FEATURES, "XENVER_get_features", get_features),
    op(abi::XENVER_PAGESIZE, "XENVER_pagesize", pagesize),
    op(abi::XENVER_GUEST_HANDLE, "XENVER_guest_handle", guest_handle),
    op(abi::XENVER_COMMANDLINE, "XENVER_commandline", commandline),
    op(abi::XENVER_BUILD_ID, "XENVER_build_id", build_id),
];

/// `xen_version(cmd, arg)`.
///
/// # Errors
/// `ENOSYS` for an unknown operation; `EFAULT`; else see there.
pub fn xen_version(caller: &Caller<'_>, args: Args) -> OpResult {
    operation(OPERATIONS, args.u32(0), caller, args)
}

/// A text in a field of `N` bytes: cut to fit, NUL-terminated, the rest zero.
fn text<const N: usize>(from: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, &byte) in field.iter_mut().zip(from.as_bytes().iter().take(N.saturating_sub(1))) {
        *to = byte;
    }
    field
}

/// `XENVER_version`: major and minor version in the result.
fn version(_: &Caller<'_>, _: Args) -> OpResult {
    Ok(Outcome::Done(MAJOR << 16 | MINOR))
}

/// `XENVER_extraversion`.
fn extraversion(caller: &Caller<'_>, args: Args) -> OpResult {
    let answer: abi::ExtraVersion = text(EXTRA);
    caller.write(args.handle(1), &answer)?;
    SUCCESS
}

/// `XENVER_compile_info`.
fn compile_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let answer = abi::CompileInfo {
        compiler: text(COMPILER),
        compile_by: text(COMPILED_BY),
        compile_domain: text(""),
        compile_date: text(""),
    };
    caller.write(args.handle(1), &answer)?;
    SUCCESS
}

/// `XENVER_capabilities`.
fn capabilities(caller: &Caller<'_>, args: Args) -> OpResult {
    let answer: abi::Capabilities = text(CAPABILITIES);
    caller.write(args.handle(1), &answer)?;
    SUCCESS
}

/// `XENVER_changeset`.
fn changeset(caller: &Caller<'_>, args: Args) -> OpResult {
    let answer: abi::Changeset = text(CHANGESET);
    caller.write(args.handle(1), &answer)?;
    SUCCESS
}

/// `XENVER_platform_parameters`: of use to PV guests only, but shown in `/sys/hypervisor`.
fn platform_parameters(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.write(args.handle(1), &abi::PlatformParameters { virt_start: abi::HYPERVISOR_VIRT_START })?;
    SUCCESS
}

/// `XENVER_get_features`. Errors: `EINVAL` for a submap that does not exist.
fn get_features(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut info: abi::FeatureInfo = caller.read(args.handle(1))?;
    if info.submap_idx >= feature::XENFEAT_NR_SUBMAPS {
        return Err(Errno::EINVAL);
    }
    info.submap = 1 << feature::XENFEAT_WRITABLE_PAGE_TABLES
        | 1 << feature::XENFEAT_AUTO_TRANSLATED_PHYSMAP
        | 1 << feature::XENFEAT_HVM_CALLBACK_VECTOR
        | 1 << feature::XENFEAT_HVM_SAFE_PVCLOCK
        | 1 << feature::XENFEAT_MEMORY_OP_VNODE_SUPPORTED
        | 1 << feature::XENFEAT_NOT_DIRECT_MAPPED;
    if caller.domain.is_hardware() {
        info.submap |= 1 << feature::XENFEAT_DOM0;
    }
    caller.write(args.handle(1), &info)?;
    SUCCESS
}

/// `XENVER_pagesize`: in the result.
fn pagesize(_: &Caller<'_>, _: Args) -> OpResult {
    Ok(Outcome::Done(PAGE_SIZE))
}

/// `XENVER_guest_handle`: the name (UUID) that the toolstack gave the domain.
fn guest_handle(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.write(args.handle(1), &caller.domain.control.handle())?;
    SUCCESS
}

/// `XENVER_commandline`: `<denied>` for others than dom0.
fn commandline(caller: &Caller<'_>, args: Args) -> OpResult {
    let shown = if caller.privileged().is_ok() { caller.hv.platform.command_line() } else { DENIED };
    let answer: abi::CommandLine = text(shown);
    caller.write(args.handle(1), &answer)?;
    SUCCESS
}

/// `XENVER_build_id`: the identifier's length in the result; with a null handle that only.
///
/// Errors: `EPERM` for others than dom0; `ENODATA` if there is none; `EINVAL` for no room at all; `ENOBUFS` for too
/// little.
fn build_id(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.privileged()?;
    let id = caller.hv.platform.build_id();
    let length = id.len() as u64;
    if args.get(1) != 0 {
        let room: abi::BuildId = caller.read(args.handle(1))?;
        if room.len == 0 {
            return Err(Errno::EINVAL);
        }
        if id.is_empty() {
            return Err(Errno::ENODATA);
        }
        if length > u64::from(room.len) {
            return Err(Errno::ENOBUFS);
        }
        let at = args.get(1).wrapping_add(size_of::<abi::BuildId>() as u64);
        caller.memory.write(GuestVirtAddr(at), id)?;
    } else if id.is_empty() {
        return Err(Errno::ENODATA);
    }
    Ok(Outcome::Done(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::dispatch;
    use crate::testing::TestHost;
    use crate::types::DomainId;
    use alloc::string::String;

    const AT: u64 = 0x1000;

    fn host() -> (TestHost, DomainId, DomainId) {
        let mut host = TestHost::new(1024, 1);
        let (dom0, guest) = (host.add_domain(1), host.add_domain(1));
        (host, dom0, guest)
    }

    fn call(host: &TestHost, domain: DomainId, cmd: u32) -> OpResult {
        dispatch(&host.caller(domain, 0), radon_abi::hypercall::XEN_VERSION, Args([u64::from(cmd), AT, 0, 0, 0, 0]))
    }

    fn string<const N: usize>(host: &TestHost, domain: DomainId) -> String {
        let bytes: [u8; N] = host.caller(domain, 0).read(GuestVirtAddr(AT)).unwrap();
        assert_eq!(bytes[N - 1], 0);
        String::from_utf8(bytes.iter().copied().take_while(|&b| b != 0).collect()).unwrap()
    }

    #[test]
    fn the_version_is_xen_4_17() {
        let (host, _, guest) = host();
        assert_eq!(call(&host, guest, abi::XENVER_VERSION), Ok(Outcome::Done(0x0004_0011)));
        assert_eq!(call(&host, guest, abi::XENVER_EXTRAVERSION), SUCCESS);
        assert_eq!(string::<16>(&host, guest), EXTRA);
        assert_eq!(call(&host, guest, abi::XENVER_CAPABILITIES), SUCCESS);
        assert!(string::<1024>(&host, guest).contains("hvm-3.0-x86_64"));
        assert_eq!(call(&host, guest, abi::XENVER_PAGESIZE), Ok(Outcome::Done(4096)));
    }

    #[test]
    fn features_differ_for_dom0() {
        let (host, dom0, guest) = host();
        let mut submaps = [0; 2];
        for (submap, domain) in submaps.iter_mut().zip([dom0, guest]) {
            host.caller(domain, 0).write(GuestVirtAddr(AT), &abi::FeatureInfo { submap_idx: 0, submap: 0 }).unwrap();
            assert_eq!(call(&host, domain, abi::XENVER_GET_FEATURES), SUCCESS);
            *submap = host.caller(domain, 0).read::<abi::FeatureInfo>(GuestVirtAddr(AT)).unwrap().submap;
        }
        assert_eq!(submaps[0] ^ submaps[1], 1 << feature::XENFEAT_DOM0);
        assert_eq!(submaps[1] & 1 << feature::XENFEAT_HVM_PIRQS, 0);
        host.caller(guest, 0).write(GuestVirtAddr(AT), &abi::FeatureInfo { submap_idx: 1, submap: 0 }).unwrap();
        assert_eq!(call(&host, guest, abi::XENVER_GET_FEATURES), Err(Errno::EINVAL));
    }

    #[test]
    fn guests_are_denied_the_command_line_and_the_build_id() {
        let (host, dom0, guest) = host();
        assert_eq!(call(&host, guest, abi::XENVER_COMMANDLINE), SUCCESS);
        assert_eq!(string::<1024>(&host, guest), DENIED);
        assert_eq!(call(&host, dom0, abi::XENVER_COMMANDLINE), SUCCESS);
        assert_ne!(string::<1024>(&host, dom0), DENIED);
        assert_eq!(call(&host, guest, abi::XENVER_BUILD_ID), Err(Errno::EPERM));
    }

    #[test]
    fn a_bad_pointer_is_efault() {
        let (host, dom0, _) = host();
        for cmd in 1..10 {
            let args = Args([cmd, u64::MAX - 8, 0, 0, 0, 0]);
            let result = dispatch(&host.caller(dom0, 0), radon_abi::hypercall::XEN_VERSION, args);
            if cmd != u64::from(abi::XENVER_PAGESIZE) {
                assert_eq!(result, Err(Errno::EFAULT), "{cmd}");
            }
        }
    }
}
