//! Whether time is shared by weight, whatever has happened before.
//!
//! On a machine with one CPU, where what each should get is just its weight's part of the whole. With several CPUs the
//! scheduler's own tests compare it with a fluid model (`core::sched`).

use radon_core::time::State;
use radon_core::types::{CpuId, DomainId, Nanoseconds, VcpuId};
use radon_x86::virt::Exit;

use crate::machine::Action;
use crate::world::{Failure, World};

/// Time before the measurement, in which old debts are settled, and of the measurement (ns).
const SETTLE: u64 = 2_000_000_000;
const MEASURE: u64 = 20_000_000_000;

/// A vCPU, its weight and the time it has had.
type Had = (DomainId, VcpuId, u32, Nanoseconds);

impl World {
    /// Lets every vCPU that is neither paused nor down use all the time it gets, and compares what they got.
    ///
    /// # Errors
    /// One got another share than its weight says.
    pub fn check_shares(&mut self) -> Result<(), Failure> {
        if self.config.cpus != 1 {
            return Ok(());
        }
        let hv = self.hv();
        for domain in self.ids.iter().filter_map(|&id| hv.domains.get(DomainId(id)).ok()) {
            // A cap is another promise, with its own tests.
            let _ = hv.scheduler.set_parameters(hv, &domain.sched, None, Some(0));
            domain.vcpus().iter().for_each(|vcpu| hv.scheduler.wake(hv, vcpu));
        }
        self.burn(SETTLE)?;
        let before = self.time_had();
        self.burn(MEASURE)?;
        let after = self.time_had();
        let same = |a: &Had, b: &Had| (a.0, a.1, a.2) == (b.0, b.1, b.2);
        if before.len() != after.len() || !before.iter().zip(&after).all(|(a, b)| same(a, b)) {
            // A watchdog ran out meanwhile, or the like.
            return Ok(());
        }
        let had = before.iter().zip(&after).map(|(b, a)| a.3.saturating_sub(b.3).0 as f64);
        let (all, weights) = (had.clone().sum::<f64>(), after.iter().map(|a| f64::from(a.2)).sum::<f64>());
        for ((domain, vcpu, weight, _), had) in after.iter().zip(had) {
            let want = all * f64::from(*weight) / weights;
            // A slice may be under way at either end.
            if (had - want).abs() > 0.03 * want + 30e6 {
                return Err(format!(
                    "{domain}{vcpu} of weight {weight} had {had:.0} ns, not {want:.0}; all: {after:?}"
                ));
            }
        }
        Ok(())
    }

    /// vCPUs that run or want to.
    fn time_had(&self) -> Vec<Had> {
        let hv = self.hv();
        let now = hv.platform.now();
        let domains = self.ids.iter().filter_map(|&id| hv.domains.get(DomainId(id)).ok());
        let vcpus = domains.flat_map(|d| d.vcpus().to_vec()).filter(|v| v.sched.unit.is_runnable());
        let had = vcpus.map(|v| {
            let unit = &v.sched.unit;
            let time = unit.runstate().info(now).time[State::Running as usize];
            (unit.domain_id, unit.vcpu_id, unit.domain.weight(), Nanoseconds(time))
        });
        had.collect()
    }

    /// The guests do nothing but use up time, for so long (ns).
    fn burn(&mut self, time: u64) -> Result<(), Failure> {
        let machine = self.machine();
        let end = machine.time().saturating_add(time);
        machine.become_cpu(0);
        while machine.time() < end {
            let interrupted = machine.take_kick(0) | machine.take_timer(0);
            if self.hv().scheduler.needs_schedule(CpuId(0)) || self.shared.cpus[0].borrow().current().is_none() {
                self.schedule(0)?;
            } else if interrupted {
                self.enter(0, Action { gpr: None, exit: Exit::Interrupt });
            }
            if machine.is_due().is_none() && !machine.is_kicked(0) {
                let next = machine.armed(0).filter(|&t| t > machine.time());
                machine.advance_to(next.unwrap_or(end).min(machine.time() + 10_000_000).min(end));
            }
        }
        Ok(())
    }
}
