//! The console on the test machine.

use super::*;
use crate::domain::Domain;
use crate::hypercall::{Args, OpResult, Outcome, SUCCESS};
use crate::testing::TestHost;
use crate::types::{GuestVirtAddr, Nanoseconds, Port, VcpuId};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

const AT: u64 = 0x2000;

/// dom0 and a guest, and a console with these settings.
fn host(settings: Settings) -> (TestHost, DomainId, DomainId) {
    let mut host = TestHost::new(512, 1);
    Arc::get_mut(&mut host.hv).unwrap().console = Console::new(settings);
    let (dom0, guest) = (host.add_domain(1), host.add_domain(1));
    (host, dom0, guest)
}

fn verbose() -> Settings {
    Settings { guest_level: LevelFilter::Debug, ..Settings::default() }
}

/// What the machine printed since the last look.
fn output(host: &TestHost) -> String {
    String::from_utf8(core::mem::take(&mut *host.machine.output.lock())).unwrap()
}

fn ring(host: &TestHost) -> String {
    let mut text = Vec::new();
    let out = |_, bytes: &[u8]| {
        text.extend_from_slice(bytes);
        Ok(())
    };
    host.hv.console.read_ring(u32::MAX, None, false, out).unwrap();
    String::from_utf8(text).unwrap()
}

fn io(host: &TestHost, by: DomainId, cmd: u32, count: u64) -> OpResult {
    console_io(&host.caller(by, 0), Args([u64::from(cmd), count, AT, 0, 0, 0]))
}

fn write(host: &TestHost, by: DomainId, text: &str) {
    host.caller(by, 0).memory.write(GuestVirtAddr(AT), text.as_bytes()).unwrap();
    assert_eq!(io(host, by, 0, text.len() as u64), SUCCESS);
}

fn bind(host: &TestHost, domain: &Arc<Domain>, virq: u32) -> Port {
    evtchn::bind_virq(&host.hv, domain, virq, VcpuId(0)).unwrap()
}

#[test]
fn messages_are_shown_by_level_and_kept() {
    let (host, ..) = host(Settings::default());
    let (console, platform) = (&host.hv.console, &*host.hv.platform);
    console.log(platform, log::Level::Info, format_args!("seen {}", 1));
    console.log(platform, log::Level::Debug, format_args!("not seen"));
    console.log_guest(platform, log::Level::Warn, format_args!("a guest did"));
    console.log_guest(platform, log::Level::Info, format_args!("not seen"));
    assert_eq!(output(&host), "(XEN) seen 1\n(XEN) a guest did\n");
    assert_eq!(ring(&host), "(XEN) seen 1\n(XEN) a guest did\n");
}

#[test]
fn guests_cannot_flood_the_console() {
    let (host, ..) = host(Settings::default());
    for n in 0..1000 {
        host.hv.console.log_guest(&*host.hv.platform, log::Level::Error, format_args!("{n}"));
    }
    assert_eq!(output(&host).lines().count(), 10);
    host.machine.advance(Nanoseconds::from_millis(1000));
    host.hv.console.log_guest(&*host.hv.platform, log::Level::Error, format_args!("again"));
    assert_eq!(output(&host), "(XEN) printk: 990 messages suppressed.\n(XEN) again\n");
}

#[test]
fn dom0_writes_as_it_likes_and_guests_by_the_line() {
    let (host, dom0, guest) = host(verbose());
    write(&host, dom0, "\x1b[1mlogin: ");
    assert_eq!(output(&host), "\x1b[1mlogin: ");
    assert_eq!(ring(&host), "", "unless asked for");
    write(&host, guest, "half a ");
    assert_eq!(output(&host), "");
    write(&host, guest, "line\x07\nnext");
    assert_eq!(output(&host), "(d1) half a line?\n");
    assert_eq!(ring(&host), "(d1) half a line?\n");
}

#[test]
fn guests_are_not_shown_unless_asked_for() {
    let (host, _, guest) = host(Settings::default());
    write(&host, guest, "hello\n");
    assert_eq!(output(&host), "");
}

#[test]
fn what_dom0_prints_can_go_into_the_ring() {
    let (host, dom0, _) = host(Settings { to_ring: true, ..Settings::default() });
    write(&host, dom0, "kernel\n");
    assert_eq!(ring(&host), "kernel\n");
}

#[test]
fn a_long_write_is_continued() {
    let (host, dom0, _) = host(Settings::default());
    let text = "x".repeat(150_000);
    host.caller(dom0, 0).memory.write(GuestVirtAddr(AT), text.as_bytes()).unwrap();
    let mut args = Args([0, text.len() as u64, AT, 0, 0, 0]);
    let mut rounds = 0;
    while let Outcome::Continue(again) = console_io(&host.caller(dom0, 0), args).unwrap() {
        args = again;
        rounds += 1;
    }
    assert!(rounds > 0);
    assert_eq!(output(&host).len(), text.len());
    // Beyond the end of memory.
    assert_eq!(
        io(&host, dom0, 0, 1 << 18).and_then(|again| match again {
            Outcome::Continue(args) => console_io(&host.caller(dom0, 0), args),
            done => Ok(done),
        }),
        Err(Errno::EFAULT)
    );
}

#[test]
fn input_reaches_dom0_after_three_switches() {
    let (host, dom0, guest) = host(Settings::default());
    let port = bind(&host, host.domain(dom0), VIRQ_CONSOLE);
    let console = &host.hv.console;
    console.end_boot(&host.hv);
    assert_eq!(output(&host), "(XEN) *** Serial input to DOM0 (type 'CTRL-a' three times to switch input)\n");
    for byte in *b"ls\r" {
        console.receive(&host.hv, byte);
    }
    assert_eq!(evtchn::is_pending(&host.hv, host.domain(dom0), port), Ok(true));
    assert_eq!(io(&host, guest, 1, 16), Err(Errno::EPERM));
    assert_eq!(io(&host, dom0, 1, 1 << 31), Err(Errno::E2BIG));
    assert_eq!(io(&host, dom0, 1, 2), Ok(Outcome::Done(2)));
    assert_eq!(host.caller(dom0, 0).read::<[u8; 2]>(GuestVirtAddr(AT)).unwrap(), *b"ls");
    assert_eq!(io(&host, dom0, 1, 16), Ok(Outcome::Done(1)));
    assert_eq!(io(&host, dom0, 1, 16), Ok(Outcome::Done(0)));
    assert_eq!(io(&host, dom0, 2, 16), Err(Errno::ENOSYS));
    for _ in 0..3 {
        console.receive(&host.hv, 1);
    }
    assert_eq!(output(&host), "(XEN) *** Serial input to Xen (type 'CTRL-a' three times to switch input)\n");
    console.receive(&host.hv, b'h');
    assert!(output(&host).contains("dump evtchn info"));
}

#[test]
fn every_key_reports_and_unknown_ones_are_named() {
    let (host, dom0, _) = host(Settings::default());
    bind(&host, host.domain(dom0), VIRQ_CONSOLE);
    for (key, description, _) in keys::BUILT_IN.iter().filter(|(key, ..)| *key != b'R') {
        host.hv.console.press(&host.hv, *key);
        let text = output(&host);
        assert!(text.starts_with(&alloc::format!("(XEN) '{}' pressed -> {description}\n", char::from(*key))));
        assert!(text.lines().count() > 1, "{text}");
    }
    host.hv.console.press(&host.hv, 0xff);
    assert_eq!(output(&host), "(XEN) unknown key '\\xff' (h for help)\n");
    host.hv.console.register(b'z', "test", |hv| hv.console.say(hv, format_args!("z was here")));
    host.hv.console.press(&host.hv, b'z');
    assert_eq!(output(&host), "(XEN) 'z' pressed -> test\n(XEN) z was here\n");
}

#[test]
fn dom0_is_told_of_news_in_the_ring() {
    let (host, dom0, _) = host(Settings::default());
    let port = bind(&host, host.domain(dom0), VIRQ_CON_RING);
    let pending = || evtchn::is_pending(&host.hv, host.domain(dom0), port).unwrap();
    host.hv.console.deliver(&host.hv);
    assert!(!pending());
    host.hv.console.say(&host.hv, format_args!("news"));
    assert!(!pending(), "not from where locks may be held");
    host.hv.console.deliver(&host.hv);
    assert!(pending());
}

#[test]
fn the_ring_is_read_in_pieces_and_cleared() {
    let (host, ..) = host(Settings::default());
    for n in 0..200 {
        host.hv.console.say(&host.hv, format_args!("line {n}"));
    }
    let all = ring(&host);
    let mut read = Vec::new();
    let mut index = 0;
    loop {
        let before = read.len();
        let out = |offset: u32, bytes: &[u8]| {
            assert_eq!(before + offset as usize, read.len());
            read.extend_from_slice(bytes);
            Ok(())
        };
        let (count, next) = host.hv.console.read_ring(700, Some(index), false, out).unwrap();
        if count == 0 {
            break;
        }
        index = next;
    }
    assert_eq!(read, all.as_bytes());
    let failed = host.hv.console.read_ring(10, None, true, |_, _| Err(Errno::EFAULT));
    assert_eq!(failed, Err(Errno::EFAULT));
    assert_eq!(ring(&host), all, "a failed read clears nothing");
    host.hv.console.read_ring(u32::MAX, None, true, |_, _| Ok(())).unwrap();
    assert_eq!(ring(&host), "");
}
