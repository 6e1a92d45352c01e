//! Tests of the command line.

use super::*;
use alloc::vec;
use proptest::prelude::*;

#[test]
fn a_usual_line_is_understood() {
    let o = parse("console=com1 com1=115200,8n1 dom0=pvh dom0_mem=640M loglvl=all guest_loglvl=debug/all noreboot");
    assert_eq!(o.problems, Vec::<String>::new());
    assert_eq!(o.console, ConsoleTargets { com1: true, com2: false, vga: false });
    assert_eq!(o.com1.baud, Some(115_200));
    assert_eq!(o.dom0_mem.size.unwrap().resolve(1 << 32), 640 << 20);
    assert_eq!((o.host_level, o.guest_level), (LevelFilter::Trace, LevelFilter::Debug));
    assert!(o.noreboot);
}

#[test]
fn booleans_have_all_of_xens_spellings() {
    for on in ["sync_console", "sync_console=yes", "sync_console=1", "sync_console=on", "no-sync_console=0"] {
        assert!(parse(on).sync_console, "{on}");
    }
    for off in ["no-smt", "smt=off", "smt=false", "smt=disable", "smt=0"] {
        assert!(!parse(off).smt, "{off}");
    }
    assert_eq!(parse("smt=maybe").problems.len(), 1);
    assert!(parse("").tidies && parse("bootscrub=idle").tidies && !parse("bootscrub=off").tidies);
    assert!(parse("sync_console sync_console=off").sync_console != parse("sync_console=off sync_console").sync_console);
}

#[test]
fn what_is_not_understood_is_named_and_the_rest_holds() {
    let o = parse("bananas=3 maxcpus=2 loglvl=loud no-peas maxcpus=x");
    assert_eq!(o.maxcpus, 2);
    assert_eq!(o.host_level, Options::default().host_level);
    let named = |what: &str| o.problems.iter().any(|p| p.contains(what));
    assert!(named("bananas=3") && named("loglvl=loud") && named("no-peas") && named("maxcpus=x"));
}

#[test]
fn sizes_have_xens_suffixes() {
    let bytes = |s: &str| size(s).ok();
    assert_eq!(bytes("1024"), Some(1 << 20));
    assert_eq!(bytes("512b"), Some(512));
    assert_eq!(bytes("4k"), Some(4096));
    assert_eq!(bytes("3G"), Some(3 << 30));
    assert_eq!(bytes("0x10M"), Some(16 << 20));
    assert_eq!(bytes("16777216T"), None);
    assert_eq!(bytes("+4k"), None);
    assert_eq!(bytes("M"), None);
}

#[test]
fn dom0_memory_has_bounds_fractions_and_remainders() {
    let m = parse("dom0_mem=min:512M,max:-1G,50%").dom0_mem;
    let total = 8u64 << 30;
    assert_eq!(m.min.unwrap().resolve(total), 512 << 20);
    assert_eq!(m.max.unwrap().resolve(total), 7 << 30);
    assert_eq!(m.size.unwrap().resolve(total), total / 100 * 50);
    let m = parse("dom0_mem=1G+10%").dom0_mem;
    assert_eq!(m.size.unwrap().resolve(100 << 30), 11 << 30);
    assert_eq!(parse("dom0_mem=101%").problems.len(), 1);
    assert_eq!(m.min, None);
}

#[test]
fn vcpu_ranges() {
    assert_eq!(parse("dom0_max_vcpus=4").dom0_max_vcpus, (4, 4));
    assert_eq!(parse("dom0_max_vcpus=2-8").dom0_max_vcpus, (2, 8));
    assert_eq!(parse("dom0_max_vcpus=-8").dom0_max_vcpus, (1, 8));
    assert_eq!(parse("dom0_max_vcpus=2-").dom0_max_vcpus, (2, u32::MAX));
    assert_eq!(parse("dom0_max_vcpus=8-2").problems.len(), 1);
}

#[test]
fn serial_ports_take_framing_port_and_interrupt() {
    let p = parse("com1=9600/1843200,7e2,0x3e8,5").com1;
    assert_eq!(p, SerialPort { baud: Some(9600), data_bits: 7, parity: 3, stop_bits: 2, io_base: 0x3e8, irq: 5 });
    let p = parse("com2=auto,,,0").com2;
    assert_eq!((p.baud, p.io_base, p.irq), (None, 0x2f8, 0));
    for bad in ["com1=fast", "com1=115200,9n1", "com1=115200,8n1,0x12345", "com1=0", "com1"] {
        assert_eq!(parse(bad).problems.len(), 1, "{bad}");
    }
}

#[test]
fn lists_of_words() {
    let o = parse("iommu=force,no-intremap,verbose cpuid=no-rdtscp,avx2,smep=off dom0=pv,verbose,strange");
    assert!(o.iommu.enabled && o.iommu.force && !o.iommu.interrupt_remapping && o.iommu.verbose);
    assert!(!parse("iommu=no").iommu.enabled && !parse("no-iommu").iommu.enabled);
    let named: Vec<_> = o.cpuid.iter().map(|(n, on)| (n.as_str(), *on)).collect();
    assert_eq!(named, [("rdtscp", false), ("avx2", true), ("smep", false)]);
    assert!(o.dom0_verbose);
    assert_eq!(o.problems.len(), 2, "pv and strange");
    let o = parse("dom0=pvh,no-shadow,verbose=1,cpuid-faulting=off iommu=verbose=0,quarantine");
    assert!(o.problems.is_empty() && o.dom0_verbose && !o.iommu.verbose, "{:?}", o.problems);
}

#[test]
fn words_after_the_dashes_are_for_dom0() {
    let o = parse("loglvl=all -- root=/dev/sda1 bananas");
    assert_eq!(o.dom0_extra, "root=/dev/sda1 bananas");
    assert!(o.problems.is_empty());
    assert_eq!(parse("-- quiet").dom0_extra, "quiet");
}

#[test]
fn selftest_may_name_tests() {
    assert!(parse("selftest").selftest);
    let o = parse("selftest=paging");
    assert_eq!((o.selftest, o.selftest_filter.as_deref()), (true, Some("paging")));
    assert!(!parse("selftest=off").selftest);
    assert!(parse("hvm_fep").hvm_fep && !parse("").hvm_fep && !parse("hvm_fep=no").hvm_fep);
}

#[test]
fn ends_can_be_chosen() {
    assert_eq!(parse("reboot=kbd").reboot, Some(RebootMethod::Keyboard));
    assert_eq!(parse("reboot=w,t").reboot, Some(RebootMethod::TripleFault));
    assert_eq!(parse("reboot=pci").reboot, Some(RebootMethod::Pci));
    assert!(parse("reboot=no").noreboot);
    assert_eq!(parse("reboot=zap").problems.len(), 1);
    let watch = |line: &str| (parse(line).watchdog, parse(line).watchdog_timeout);
    assert_eq!(watch(""), (false, 5));
    assert_eq!(watch("watchdog"), (true, 5));
    assert_eq!(watch("watchdog=force"), (true, 5));
    assert_eq!(watch("watchdog_timeout=12"), (true, 12));
    assert_eq!(watch("watchdog watchdog_timeout=0"), (false, 0));
    assert_eq!(watch("watchdog=no"), (false, 5));
    let nmi = |line: &str| parse(line).nmi;
    assert_eq!((nmi(""), nmi("nmi=ignore"), nmi("nmi=fatal")), (NmiPolicy::Dom0, NmiPolicy::Ignore, NmiPolicy::Fatal));
    assert_eq!(parse("nmi=later").problems.len(), 1);
}

#[test]
fn scheduling_and_time() {
    assert_eq!(parse("").run_queues, RunQueues::Socket);
    for (name, want) in
        [("cpu", RunQueues::Cpu), ("core", RunQueues::Core), ("node", RunQueues::Node), ("all", RunQueues::All)]
    {
        assert_eq!(parse(&alloc::format!("credit2_runqueue={name}")).run_queues, want);
    }
    assert_eq!(parse("credit2_runqueue=rack").problems.len(), 1);
    assert_eq!(parse("sched_ratelimit_us=0").ratelimit, Some(0));
    assert_eq!(parse("timer_slop=4000000").timer_slop, Some(4_000_000));
    assert_eq!(parse("timer_slop=4ms").problems.len(), 1);
    assert_eq!(parse("clocksource=acpi").clock_source, Some(ClockSource::Acpi));
    assert_eq!(parse("clocksource=tsc"), parse(""));
    assert_eq!(parse("clocksource=sundial").problems.len(), 1);
}

#[test]
fn the_console_switch() {
    let switch = |line: &str| (parse(line).switch, parse(line).keep_input);
    assert_eq!(switch(""), (1, false));
    assert_eq!(switch("conswitch=b"), (2, false));
    assert_eq!(switch("conswitch=ax"), (1, true));
    assert_eq!(switch("conswitch=0"), (0, false));
    assert_eq!(parse("conswitch=abc").problems.len(), 1);
}

#[test]
fn options_without_effect_say_so_and_what_loaders_add_is_quiet() {
    assert!(parse("placeholder no-real-mode edd=off").problems.is_empty());
    for (name, why) in WITHOUT_EFFECT.iter().filter(|(_, why)| !why.is_empty()) {
        let problems = parse(&alloc::format!("{name}=1")).problems;
        assert!(problems.len() == 1 && problems[0].contains(name) && problems[0].contains(why), "{problems:?}");
    }
    assert_eq!(parse("vga=text-80x25,keep tsc=unstable").problems.len(), 2);
}

/// Every option that is understood stands in the book, and the book names no other.
#[test]
fn the_book_has_every_option() {
    let book = include_str!("../../../book/src/options.md");
    let named = book.lines().filter_map(|l| l.strip_prefix("| `")?.split_once(['=', '`', '[']));
    let named: Vec<&str> = named.map(|(name, _)| name).collect();
    let source = include_str!("../options.rs");
    let dispatch = &source[source.find("fn take(").unwrap()..source.find("fn take_reboot(").unwrap()];
    let arms = dispatch.lines().filter_map(|l| l.trim().strip_prefix('"')?.split_once('"'));
    let understood: Vec<&str> = arms.filter(|(_, rest)| rest.starts_with(" =>")).map(|(name, _)| name).collect();
    assert!(understood.len() > 25, "{understood:?}");
    for name in understood.iter().chain(WITHOUT_EFFECT.iter().map(|(name, _)| name)) {
        assert!(named.contains(name), "book/src/options.md lacks {name}");
    }
    for name in named {
        let known = understood.contains(&name) || WITHOUT_EFFECT.iter().any(|(n, _)| *n == name);
        assert!(known, "book/src/options.md names {name}, which is not understood");
    }
}

proptest! {
    #[test]
    fn any_line_is_survived(line in "\\PC{0,200}") {
        let _ = parse(&line);
    }

    #[test]
    fn any_value_is_survived(
        name in prop::sample::select(vec!["com1", "dom0_mem", "dom0_max_vcpus", "conring_size", "iommu", "cpuid", "loglvl"]),
        value in "[-0-9a-zA-Z:,+%/=]{0,24}",
    ) {
        let _ = parse(&alloc::format!("{name}={value}"));
    }
}
