//! What the kernel in `guests/ops` says of the hypervisor's operations, compared with the ledger: every operation has to
//! be called by a check, and has to do, or to be refused with, what the ledger says. On Debian's Xen as well, but for the
//! differences that are listed here.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use radon_core::hypercall::{Coverage, HYPERCALLS};

use crate::machine::Threads;
use crate::scenario::{Kernel, Scenario};

/// What a line that has a result begins with.
const RESULT: &str = "OPERATION ";
/// The kernel's last words, but for the hypervisor's about its end.
const END: &str = "OPERATIONS END";

/// Where Debian's Xen 4.17 does something else than Radon's ledger says.
struct OnXen {
    hypercall: &'static str,
    operation: &'static str,
    /// How the result begins there.
    result: &'static str,
    #[allow(dead_code, reason = "it is for readers")]
    why: &'static str,
}

const fn on_xen(hypercall: &'static str, operation: &'static str, result: &'static str, why: &'static str) -> OnXen {
    OnXen { hypercall, operation, result, why }
}

/// Reasons of several.
const MTRR: &str = "Radon keeps the machine's memory types to itself";
const MACHINE: &str = "Radon does not change the machine's parts while it runs";
const PV: &str = "of use to PV guests only, which Radon does not have";
const SHARING: &str = "memory shared copy-on-write is to come";
const WATCH: &str = "watching and debugging domains is to come";
const DEVICES: &str = "devices are the hardware domain's on Radon";
const WIDTH: &str = "Xen has it for PV guests only; on Radon the width is what it always is";

/// All of them. One that is not there any more is a failure as well.
const ON_XEN: &[OnXen] = &[
    on_xen("platform_op", "XENPF_add_memtype", "refused EINVAL", MTRR),
    on_xen("platform_op", "XENPF_del_memtype", "failed: it is not refused", MTRR),
    on_xen("platform_op", "XENPF_read_memtype", "failed: it is not refused", MTRR),
    on_xen("platform_op", "XENPF_microcode_update", "refused ENOENT", MACHINE),
    on_xen(
        "platform_op",
        "XENPF_getidletime",
        "failed: platform_op 53 is refused with ENOSYS",
        "Xen has it for a dom0 that manages frequencies only",
    ),
    on_xen("platform_op", "XENPF_cpu_hotadd", "refused EEXIST", MACHINE),
    on_xen("platform_op", "XENPF_mem_hotadd", "refused EINVAL", MACHINE),
    on_xen("platform_op", "XENPF_core_parking", "refused EINVAL", MACHINE),
    on_xen(
        "memory_op",
        "increase_reservation",
        "failed: extents: 1 instead of 0",
        "Xen allocates memory that nothing maps",
    ),
    on_xen("memory_op", "machphys_mfn_list", "failed: it is not refused", PV),
    on_xen("memory_op", "exchange", "failed: it is not refused", PV),
    on_xen("memory_op", "get_sharing_freed_pages", "failed: it is not refused", SHARING),
    on_xen("memory_op", "get_sharing_shared_pages", "failed: it is not refused", SHARING),
    on_xen("memory_op", "access_op", "refused EPERM", WATCH),
    on_xen("memory_op", "machphys_compat_mfn_list", "refused EOPNOTSUPP", PV),
    on_xen(
        "console_io",
        "CONSOLEIO_write",
        "failed: console_io 0 is refused with EPERM",
        "only a Xen built for debugging prints what other domains write",
    ),
    on_xen(
        "event_channel_op",
        "EVTCHNOP_bind_pirq",
        "failed: it is not refused",
        "physical interrupts do not go through event channels on Radon",
    ),
    on_xen("hvm_op", "HVMOP_pagetable_dying", "refused EINVAL", "there is no shadow paging on Radon"),
    on_xen(
        "sysctl",
        "XEN_SYSCTL_get_pmstat",
        "failed: it is not so that it has halted",
        "Xen counts halts only where it was told of all states",
    ),
    on_xen("sysctl", "XEN_SYSCTL_livepatch_op", "refused EINVAL", "live patching is to come"),
    on_xen("domctl", "XEN_DOMCTL_setdebugging", "failed: it is not refused", WATCH),
    on_xen(
        "domctl",
        "XEN_DOMCTL_irq_permission",
        "failed: domctl 19 is refused with EPERM",
        "Xen wants the caller to have the interrupt",
    ),
    on_xen("domctl", "XEN_DOMCTL_subscribe", "failed: it is not refused", "a way of suspending that PV guests had"),
    on_xen("domctl", "XEN_DOMCTL_set_address_size", "failed: domctl 35 is refused with EOPNOTSUPP", WIDTH),
    on_xen("domctl", "XEN_DOMCTL_get_address_size", "failed: domctl 36 is refused with EOPNOTSUPP", WIDTH),
    on_xen("domctl", "XEN_DOMCTL_bind_pt_irq", "refused EPERM", DEVICES),
    on_xen("domctl", "XEN_DOMCTL_memory_mapping", "refused EINVAL", DEVICES),
    on_xen("domctl", "XEN_DOMCTL_ioport_mapping", "refused EINVAL", DEVICES),
    on_xen("domctl", "XEN_DOMCTL_set_ext_vcpucontext", "refused EINVAL", PV),
    on_xen("domctl", "XEN_DOMCTL_get_ext_vcpucontext", "failed: it is not refused", PV),
    on_xen(
        "domctl",
        "XEN_DOMCTL_set_target",
        "failed: it is not refused",
        "device models in domains of their own are to come",
    ),
    on_xen("domctl", "XEN_DOMCTL_unbind_pt_irq", "refused EPERM", DEVICES),
    on_xen("domctl", "XEN_DOMCTL_vm_event_op", "refused ENOSYS", WATCH),
    on_xen("domctl", "XEN_DOMCTL_getvcpuextstate", "failed: it is not refused", PV),
    on_xen("domctl", "XEN_DOMCTL_set_broken_page_p2m", "refused EINVAL", MACHINE),
    on_xen("domctl", "XEN_DOMCTL_setvnumainfo", "refused EINVAL", "Radon knows one node"),
    on_xen("domctl", "XEN_DOMCTL_monitor_op", "failed: it is not refused", WATCH),
    on_xen(
        "domctl",
        "XEN_DOMCTL_soft_reset",
        "refused EINVAL",
        "a domain that goes on with its memory after a reset is to come",
    ),
];

/// The machine: two CPUs that dom0's vCPUs are pinned to, and a third one.
pub(crate) fn scenario() -> Scenario {
    Scenario::new("operations")
        .kernel(Kernel::Operations)
        .cpus(3, Threads::Single)
        .append("dom0_max_vcpus=2 dom0_vcpus_pin")
        .expect(&["OPERATIONS WAIT FOR INPUT"])
        .send("typed")
        .expect(&[END])
        .limit(LIMIT.as_secs())
}

/// It takes a few seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// Operations that do as the ledger says.
    pub passed: u32,
    /// What is wrong with others.
    pub failures: Vec<String>,
}

/// Compares what the kernel printed with the ledger.
pub(crate) fn judge(lines: &[String], is_xen: bool) -> Judgement {
    let mut results: BTreeMap<(String, String), Vec<(&str, &str)>> = BTreeMap::new();
    let mut judgement = Judgement::default();
    for line in lines.iter().filter_map(|line| line.split_once(RESULT).map(|(_, rest)| rest.trim_end())) {
        let mut words = line.splitn(5, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (number, operation, hypercall, name, result) = (word(), word(), word(), word(), word());
        results.entry((hypercall.to_owned(), name.to_owned())).or_default().push((result, line));
        let known = HYPERCALLS.iter().find(|call| call.name == hypercall && call.number.to_string() == number);
        let known = known.is_some_and(|call| match operation {
            "-" => call.operations.is_empty() && name == "-",
            _ => call.operations.iter().any(|op| op.name == name && op.number.to_string() == operation),
        });
        if !known {
            judgement.failures.push(format!("the ledger has no such operation: {line}"));
        }
    }
    for call in HYPERCALLS {
        let mut judge = |name: &str, coverage: Coverage| match judge_one(call.name, name, coverage, &results, is_xen) {
            Ok(()) => judgement.passed += 1,
            Err(error) => judgement.failures.push(format!("{} {name}: {error:#}", call.name)),
        };
        call.operations.iter().for_each(|op| judge(op.name, op.coverage));
        if call.operations.is_empty() {
            judge("-", call.coverage);
        }
    }
    judgement
}

fn judge_one(
    hypercall: &str,
    operation: &str,
    coverage: Coverage,
    results: &BTreeMap<(String, String), Vec<(&str, &str)>>,
    is_xen: bool,
) -> Result<()> {
    let results = results.get(&(hypercall.to_owned(), operation.to_owned())).map_or(&[][..], Vec::as_slice);
    ensure!(!results.is_empty(), "no check in guests/ops calls it, or none came to its end");
    ensure!(results.len() == 1, "it is checked twice");
    let result = results.first().map_or("", |(result, _)| *result);
    let expected = expected(coverage);
    let listed = ON_XEN.iter().find(|other| is_xen && other.hypercall == hypercall && other.operation == operation);
    match listed {
        Some(other) if result == expected => {
            anyhow::bail!("Xen is said to differ here ({}), but does not", other.result)
        }
        Some(other) => ensure!(result.starts_with(other.result), "{result}; on Xen it should be {}", other.result),
        None => ensure!(result == expected, "{result}; the ledger says {expected}"),
    }
    Ok(())
}

/// What the kernel says of an operation that does as the ledger says.
fn expected(coverage: Coverage) -> String {
    match coverage {
        Coverage::Full | Coverage::Partial(_) => "ok".to_owned(),
        Coverage::Refused(errno) => format!("refused {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel prints when all is well.
    fn lines() -> Vec<String> {
        let mut lines = vec!["(XEN) something else".to_owned()];
        for call in HYPERCALLS {
            if call.operations.is_empty() {
                lines.push(format!("OPERATION {} - {} - {}", call.number, call.name, expected(call.coverage)));
            }
            lines.extend(call.operations.iter().map(|op| {
                let result = expected(op.coverage);
                format!("[1.0] OPERATION {} {} {} {} {result}\r", call.number, op.number, call.name, op.name)
            }));
        }
        lines
    }

    #[test]
    fn what_the_ledger_says_passes() {
        let judgement = judge(&lines(), false);
        assert_eq!(judgement.failures, [""; 0]);
        let all: usize = HYPERCALLS.iter().map(|call| call.operations.len().max(1)).sum();
        assert_eq!(judgement.passed as usize, all);
    }

    #[test]
    fn an_operation_without_a_check_is_a_failure() {
        let mut lines = lines();
        lines.retain(|line| !line.contains("XEN_SYSCTL_readconsole"));
        let failures = judge(&lines, false).failures;
        assert_eq!(failures.len(), 1);
        assert!(failures[0].starts_with("sysctl XEN_SYSCTL_readconsole: no check"), "{failures:?}");
    }

    #[test]
    fn other_results_names_and_numbers_are_failures() {
        let wrong = |from: &str, to: &str| {
            let lines: Vec<String> = lines().iter().map(|line| line.replace(from, to)).collect();
            judge(&lines, false).failures.len()
        };
        assert_eq!(wrong("XEN_SYSCTL_perfc_op refused ENOSYS", "XEN_SYSCTL_perfc_op refused EPERM"), 1);
        assert_eq!(wrong("XEN_SYSCTL_perfc_op refused ENOSYS", "XEN_SYSCTL_perfc_op ok"), 1);
        assert_eq!(wrong("XEN_SYSCTL_physinfo ok", "XEN_SYSCTL_physinfo failed: it differs"), 1);
        assert_eq!(wrong("OPERATION 35 3 sysctl", "OPERATION 35 4 sysctl"), 1);
        // Not the ledger's, and the ledger's is missing.
        assert_eq!(wrong("XEN_SYSCTL_physinfo", "XEN_SYSCTL_physinfos"), 2);
    }

    #[test]
    fn differences_of_xen_s_are_of_the_ledger_and_have_a_reason() {
        for other in ON_XEN {
            let call = HYPERCALLS.iter().find(|call| call.name == other.hypercall);
            assert!(
                call.is_some_and(|c| c.operations.iter().any(|op| op.name == other.operation)),
                "{}",
                other.operation
            );
            assert!(!other.why.is_empty() && !other.result.is_empty());
        }
    }
}
