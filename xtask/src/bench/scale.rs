//! Scaling: the null hypercall from one, two and four CPUs at once, with the guest in `guests/micro`, in two ways.
//!
//! Counted: QEMU emulates four processors in turns on one thread and counts the instructions of all. The count for each call
//! grows when CPUs spin or try again because of each other. It repeats from run to run. It cannot show what the same
//! instructions cost when cache lines move between processors, and since turns are long, few calls are interrupted by
//! another CPU's turn in the midst.
//!
//! Timed: QEMU emulates two processors on a thread each, and the time of as many calls by both at once is compared with that of
//! one of them, in turns in the same run; the median counts. Atomic operations of the guest are atomic operations of the host
//! there, so cache lines do move; but QEMU's own locks and everything else that runs on the machine are in it, too. It needs
//! two free host CPUs.

use anyhow::{Context, Result, bail, ensure};

use super::{Hypervisor, Lab, Row, median};
use crate::machine::{Machine, Threads};

const MEMORY_MIB: u32 = 1024;
/// Calls of each CPU, as in the guest.
const CALLS: u64 = 20_000;
const AIM: f64 = 0.5;

/// Results by the number of CPUs, a round each.
struct Rounds {
    one: Vec<u64>,
    two: Vec<u64>,
    four: Vec<u64>,
}

impl Rounds {
    fn parse(text: &str) -> Result<Rounds> {
        let mut rounds = Rounds { one: Vec::new(), two: Vec::new(), four: Vec::new() };
        for line in text.lines() {
            let number = line.split_once(' ').and_then(|(name, value)| Some((name, value.parse().ok()?)));
            match number {
                Some(("one", value)) => rounds.one.push(value),
                Some(("two", value)) => rounds.two.push(value),
                Some(("four", value)) => rounds.four.push(value),
                Some(("end", _)) => return Ok(rounds),
                Some(_) => {}
                None => bail!("the guest says: {line}"),
            }
        }
        bail!("the guest's results end too early")
    }
}

/// What each of `cpus` CPUs loses, in thousandths, where `ideal` is what a round takes when they do not hinder each other.
fn loss(rounds: &[u64], ones: &[u64], ideal: u64) -> Result<u64> {
    ensure!(!ones.is_empty() && ones.len() == rounds.len(), "the guest made other rounds");
    let ratios = rounds.iter().zip(ones).map(|(all, one)| {
        let fair = (one * ideal).max(1);
        (all.saturating_sub(fair) * 1000).checked_div(*all).unwrap_or(0)
    });
    median(ratios.collect()).context("no rounds")
}

fn rounds(lab: &Lab, which: Hypervisor, timed: bool) -> Result<Rounds> {
    let cpus = if timed { 2 } else { 4 };
    let name = format!("scale-{which:?}-{}", if timed { "timed" } else { "counted" }).to_lowercase();
    let mut machine = Machine::new(&format!("bench-{name}"));
    machine.icount = !timed;
    machine.threads = if timed { Threads::Multi } else { Threads::Single };
    machine.cpus = cpus;
    machine.memory_mib = MEMORY_MIB;
    machine.append = format!("dom0_max_vcpus={cpus} dom0_vcpus_pin");
    machine.dom0_append = format!("scale={cpus}");
    let started = lab.start(&name, lab.hypervisor(which), &lab.guest, None, machine)?;
    Rounds::parse(&String::from_utf8_lossy(&lab.results(&name, started)?)).with_context(|| name)
}

pub(super) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let [radon, xen] = [Hypervisor::Radon, Hypervisor::Xen].map(|which| rounds(lab, which, false));
    let (radon, xen) = (radon?, xen?);
    let mut rows = Vec::new();
    for (name, count, get) in [
        ("null hypercall, by one CPU of four", 1, (|r| &r.one) as fn(&Rounds) -> &Vec<u64>),
        ("by two at once, each call", 2, |r| &r.two),
        ("by four at once, each call", 4, |r| &r.four),
    ] {
        let each = |rounds| median(get(rounds).clone()).map(|ticks| ticks / (count * CALLS));
        let radon = each(&radon).context("no rounds")?;
        rows.push(Row { name: name.to_owned(), unit: "", radon, xen: each(&xen), aim: Some(AIM) });
    }
    for (name, count, get) in [
        ("loss of each of two, counted", 2, (|r| &r.two) as fn(&Rounds) -> &Vec<u64>),
        ("loss of each of four, counted", 4, |r| &r.four),
    ] {
        let lost = |rounds: &Rounds| loss(get(rounds), &rounds.one, count);
        rows.push(Row { name: name.to_owned(), unit: "/1000", radon: lost(&radon)?, xen: lost(&xen).ok(), aim: None });
    }
    let [radon, xen] = [Hypervisor::Radon, Hypervisor::Xen].map(|which| rounds(lab, which, true));
    let lost = |rounds: &Rounds| loss(&rounds.two, &rounds.one, 1);
    let name = "loss of each of two, timed".to_owned();
    rows.push(Row {
        name,
        unit: "/1000",
        radon: lost(&radon?)?,
        xen: xen.ok().and_then(|xen| lost(&xen).ok()),
        aim: None,
    });
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_what_the_ideal_does_not_explain() {
        // Counted: two CPUs need twice the instructions of one.
        assert_eq!(loss(&[200, 200, 250], &[100, 100, 100], 2).unwrap(), 0);
        // Timed: as long as one.
        assert_eq!(loss(&[125, 125, 90], &[100, 100, 100], 1).unwrap(), 200);
        assert!(loss(&[1], &[], 1).is_err());
    }

    #[test]
    fn rounds_are_read_up_to_the_end() {
        let rounds = Rounds::parse("one 1\ntwo 3\none 2\ntwo 4\nend 0\n").unwrap();
        assert_eq!((rounds.one, rounds.two, rounds.four), (vec![1, 2], vec![3, 4], vec![]));
        assert!(Rounds::parse("one 1\n").is_err());
        assert!(Rounds::parse("failed here\nend 0\n").is_err());
    }
}
