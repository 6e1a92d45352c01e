//! The micro set: what single operations cost, measured by the guest in `guests/micro` under both hypervisors; and the gate
//! that keeps Radon's counts from creeping up.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::{Figures, Hypervisor, Lab, Row};
use crate::host;

/// What has the guest measure operations.
pub(super) const WORD: &str = "micro";
/// It has two CPUs for that.
pub(super) const CPUS: &str = "dom0_max_vcpus=2";
/// A domain of 1 GiB has room beside dom0.
pub(super) const MEMORY_MIB: u32 = 3072;
/// What Radon / Xen is to be at most; and for the two that everything waits for.
const AIM: f64 = 0.7;
const SHORT_AIM: f64 = 0.5;
const SHORT: &[&str] = &["null_hypercall", "cpuid"];
/// Figures of the guest that are no costs.
const OTHERS: &[&str] = &["entry", "second_tsc", "seconds", "minutes", "total_pages", "free_pages", "dom0_pages"];
/// How much more than recorded an operation may cost.
const SLACK: f64 = 1.03;
/// And always so many instructions, which are a few of the smallest costs.
const LEAST_SLACK: u64 = 20;

fn costs(lab: &Lab, which: Hypervisor) -> Result<Figures> {
    lab.guest(which, MEMORY_MIB, WORD)
}

pub(super) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let (radon, xen) = (costs(lab, Hypervisor::Radon)?, costs(lab, Hypervisor::Xen)?);
    let names = radon.order.iter().filter(|name| !OTHERS.contains(&name.as_str()));
    let row = |name: &String| {
        let aim = Some(if SHORT.contains(&name.as_str()) { SHORT_AIM } else { AIM });
        Ok(Row { name: name.clone(), unit: "", radon: radon.get(name)?, xen: xen.get(name).ok(), aim })
    };
    names.map(row).collect()
}

/// The recorded counts.
fn record_file() -> PathBuf {
    host::root().join("xtask/bench.json")
}

/// Writes Radon's counts to the file that [`gate`] compares with.
pub(super) fn record(lab: &Lab) -> Result<()> {
    let figures = costs(lab, Hypervisor::Radon)?;
    let names = figures.order.iter().filter(|name| !OTHERS.contains(&name.as_str()));
    let counts =
        names.map(|name| Ok((name.clone(), Value::from(figures.get(name)?)))).collect::<Result<Map<_, _>>>()?;
    fs::write(record_file(), format!("{}\n", serde_json::to_string_pretty(&Value::Object(counts))?))?;
    println!("Recorded in {}", record_file().display());
    Ok(())
}

/// Compares Radon's counts with the recorded ones and says which are higher. Returns whether none is.
pub(super) fn gate(lab: &Lab) -> Result<bool> {
    let text = fs::read_to_string(record_file()).context("no counts are recorded (cargo xtask bench --record)")?;
    let recorded: Map<String, Value> = serde_json::from_str(&text)?;
    let figures = costs(lab, Hypervisor::Radon)?;
    let mut passed = true;
    for (name, before) in &recorded {
        let before = before.as_u64().with_context(|| format!("the recorded {name} is no number"))?;
        let now = figures.get(name)?;
        let verdict = if exceeds(before, now) { "MORE" } else { "ok" };
        passed &= !exceeds(before, now);
        println!("{verdict:<5} {name:<24} {now:>9} (recorded {before})");
    }
    ensure!(!recorded.is_empty(), "no counts are recorded (cargo xtask bench --record)");
    Ok(passed)
}

fn exceeds(before: u64, now: u64) -> bool {
    now > before + LEAST_SLACK && now as f64 > before as f64 * SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_closes_above_three_percent() {
        assert!(!exceeds(1000, 1030));
        assert!(exceeds(1000, 1031));
        assert!(!exceeds(100, 120));
        assert!(exceeds(100, 121));
        assert!(!exceeds(1000, 900));
    }
}
