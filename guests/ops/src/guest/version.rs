//! `xen_version`: what the hypervisor says about itself, and what it tells dom0 only.

use radon_abi::errno::Errno;
use radon_abi::{domctl, features, hypercall, version as abi};

use super::calls::{Answer, domctl, hyper, operate};
use super::check::{Differs, Group, Outcome, holds, refuses, same, works};
use super::twin::Twin;

pub(crate) static GROUP: Group = Group {
    number: hypercall::XEN_VERSION,
    checks: &[
        works(abi::XENVER_VERSION, "XENVER_version", version),
        works(abi::XENVER_EXTRAVERSION, "XENVER_extraversion", extraversion),
        works(abi::XENVER_COMPILE_INFO, "XENVER_compile_info", compile_info),
        works(abi::XENVER_CAPABILITIES, "XENVER_capabilities", capabilities),
        works(abi::XENVER_CHANGESET, "XENVER_changeset", changeset),
        works(abi::XENVER_PLATFORM_PARAMETERS, "XENVER_platform_parameters", platform_parameters),
        works(abi::XENVER_GET_FEATURES, "XENVER_get_features", get_features),
        works(abi::XENVER_PAGESIZE, "XENVER_pagesize", pagesize),
        works(abi::XENVER_GUEST_HANDLE, "XENVER_guest_handle", guest_handle),
        works(abi::XENVER_COMMANDLINE, "XENVER_commandline", commandline),
        works(abi::XENVER_BUILD_ID, "XENVER_build_id", build_id),
    ],
};

fn ask<T>(operation: u32, argument: &mut T) -> Answer {
    operate(hypercall::XEN_VERSION, operation, argument)
}

/// A text up to its NUL, which must be there.
fn text<'a>(what: &str, field: &'a [u8]) -> Result<&'a str, Differs> {
    let end = field.iter().position(|byte| *byte == 0);
    let text = end.and_then(|end| core::str::from_utf8(&field[..end]).ok());
    text.ok_or_else(|| Differs::new(format_args!("{what} is no text that ends")))
}

fn version(_: &Twin) -> Outcome {
    same("version", hyper(hypercall::XEN_VERSION, abi::XENVER_VERSION, [0])?, 4 << 16 | 17)
}

fn extraversion(_: &Twin) -> Outcome {
    let mut extra: abi::ExtraVersion = [0xff; 16];
    ask(abi::XENVER_EXTRAVERSION, &mut extra)?;
    holds("it begins with a dot", text("extraversion", &extra)?.starts_with('.'))
}

fn compile_info(_: &Twin) -> Outcome {
    let mut info = abi::CompileInfo {
        compiler: [0xff; 64],
        compile_by: [0xff; 16],
        compile_domain: [0xff; 32],
        compile_date: [0xff; 32],
    };
    ask(abi::XENVER_COMPILE_INFO, &mut info)?;
    holds("a compiler is named", !text("compiler", &info.compiler)?.is_empty())?;
    text("compile_by", &info.compile_by)?;
    text("compile_domain", &info.compile_domain)?;
    text("compile_date", &info.compile_date).map(drop)
}

fn capabilities(_: &Twin) -> Outcome {
    let mut capabilities: abi::Capabilities = [0xff; 1024];
    ask(abi::XENVER_CAPABILITIES, &mut capabilities)?;
    let mut words = text("capabilities", &capabilities)?.split(' ');
    holds("guests of kind HVM are among them", words.any(|word| word == "hvm-3.0-x86_64"))
}

fn changeset(_: &Twin) -> Outcome {
    let mut changeset: abi::Changeset = [0xff; 64];
    ask(abi::XENVER_CHANGESET, &mut changeset)?;
    text("changeset", &changeset).map(drop)
}

fn platform_parameters(_: &Twin) -> Outcome {
    let mut parameters = abi::PlatformParameters { virt_start: 1 };
    ask(abi::XENVER_PLATFORM_PARAMETERS, &mut parameters)?;
    same("virt_start", parameters.virt_start, abi::HYPERVISOR_VIRT_START)
}

fn get_features(twin: &Twin) -> Outcome {
    let mut info = abi::FeatureInfo::default();
    ask(abi::XENVER_GET_FEATURES, &mut info)?;
    for feature in [
        features::XENFEAT_AUTO_TRANSLATED_PHYSMAP,
        features::XENFEAT_HVM_CALLBACK_VECTOR,
        features::XENFEAT_HVM_SAFE_PVCLOCK,
        features::XENFEAT_MEMORY_OP_VNODE_SUPPORTED,
        features::XENFEAT_DOM0,
    ] {
        if info.submap >> feature & 1 == 0 {
            return Err(Differs::new(format_args!("feature {feature} is missing in {:#x}", info.submap)));
        }
    }
    let mut its = abi::FeatureInfo::default();
    twin.operate(hypercall::XEN_VERSION, abi::XENVER_GET_FEATURES, &mut its)??;
    same("another domain's features", its.submap, info.submap & !(1 << features::XENFEAT_DOM0))?;
    let mut beyond = abi::FeatureInfo { submap_idx: features::XENFEAT_NR_SUBMAPS, submap: 0 };
    refuses("a submap that is not there", ask(abi::XENVER_GET_FEATURES, &mut beyond), Errno::EINVAL)
}

fn pagesize(_: &Twin) -> Outcome {
    same("page size", hyper(hypercall::XEN_VERSION, abi::XENVER_PAGESIZE, [u64::from(abi::XENVER_PAGESIZE)])?, 4096)
}

/// What the toolstack calls the other domain, that one reads.
fn guest_handle(twin: &Twin) -> Outcome {
    let mut handle: domctl::DomainHandle = *b"a domain's name.";
    domctl(domctl::XEN_DOMCTL_SETDOMAINHANDLE, twin.domain, &mut handle)?;
    let mut read: abi::DomainHandle = [0; 16];
    twin.operate(hypercall::XEN_VERSION, abi::XENVER_GUEST_HANDLE, &mut read)??;
    same("handle", read, handle)
}

fn commandline(twin: &Twin) -> Outcome {
    let mut line: abi::CommandLine = [0xff; 1024];
    ask(abi::XENVER_COMMANDLINE, &mut line)?;
    holds("it is the hypervisor's", text("command line", &line)?.contains("dom0=pvh"))?;
    twin.operate(hypercall::XEN_VERSION, abi::XENVER_COMMANDLINE, &mut line)??;
    same("another domain's", text("command line", &line)?, "<denied>")
}

fn build_id(_: &Twin) -> Outcome {
    let number = hypercall::XEN_VERSION;
    let length = hyper(number, abi::XENVER_BUILD_ID, [u64::from(abi::XENVER_BUILD_ID), 0])?;
    holds("it has a length", length > 0)?;
    let mut room = [0u32; 33];
    room[0] = 128;
    same("length", ask(abi::XENVER_BUILD_ID, &mut room)?, length)?;
    holds("it is not zero", room[1..].iter().any(|word| *word != 0))?;
    room[0] = 1;
    refuses("little room", ask(abi::XENVER_BUILD_ID, &mut room), Errno::ENOBUFS)
}
