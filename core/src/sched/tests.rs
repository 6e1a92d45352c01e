//! Tests of both policies on the simulated machine, and of the mechanism on the test host.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::sim::{Job, MS, Sim, fluid};
use super::*;

fn credit2(cpus: u32) -> Sim {
    Sim::new(Box::new(Credit2::new(&[CpuSet::first(cpus)], CpuSet::ALL)), cpus)
}

fn credit2_in(groups: u32, cpus: u32) -> Sim {
    let size = cpus / groups;
    let groups: Vec<CpuSet> = (0..groups).map(|g| (g * size..(g + 1) * size).map(CpuId).collect()).collect();
    Sim::new(Box::new(Credit2::new(&groups, CpuSet::ALL)), cpus)
}

fn null(cpus: u32) -> Sim {
    Sim::new(Box::new(Null::new(cpus, CpuSet::first(cpus))), cpus)
}

#[track_caller]
fn close(have: f64, want: f64, tolerance: f64) {
    assert!((have - want).abs() <= want * tolerance, "{have:.4} is not {want:.4} ± {} %", tolerance * 100.0);
}

/// Runs for a while, then measures shares for two seconds.
fn measure(sim: &mut Sim) -> Vec<f64> {
    sim.run_to(sim.now + 300 * MS);
    let (since, ran) = (sim.now, sim.ran());
    sim.run_to(since + 2000 * MS);
    sim.shares(since, &ran)
}

#[test]
fn time_is_shared_by_weight() {
    let mut sim = credit2(1);
    for weight in [256, 512] {
        let domain = sim.domain(weight, 0);
        sim.add(domain, Job::Hog, CpuSet::ALL);
    }
    let shares = measure(&mut sim);
    close(shares[0], 1.0 / 3.0, 0.03);
    close(shares[1], 2.0 / 3.0, 0.03);
    assert_eq!(sim.wasted, 0);
    assert!(sim.switches < 2 * 2300, "more than two switches a millisecond");
}

#[test]
fn a_cap_limits_even_an_idle_machine() {
    let mut sim = credit2(2);
    let domain = sim.domain(256, 50);
    sim.add(domain, Job::Hog, CpuSet::ALL);
    close(measure(&mut sim)[0], 0.5, 0.03);
    let domain = sim.domain(256, 150);
    sim.add(domain, Job::Hog, CpuSet::ALL);
    sim.add(domain, Job::Hog, CpuSet::ALL);
    let shares = measure(&mut sim);
    close(shares[0], 0.5, 0.03);
    close(shares[1] + shares[2], 1.5, 0.03);
    sim.set_parameters(1, 256, 20);
    let shares = measure(&mut sim);
    close(shares[1] + shares[2], 0.2, 0.03);
    sim.set_parameters(0, 256, 0);
    // The two others preempt it when their period begins.
    assert!(measure(&mut sim)[0] > 0.85);
}

#[test]
fn a_cap_holds_when_timers_come_late() {
    // A little, nearly a period, and more than that.
    for late in [1, 9, 13, 47] {
        let mut sim = credit2(2);
        sim.timers_late = late * MS;
        let domain = sim.domain(256, 50);
        sim.add(domain, Job::Hog, CpuSet::ALL);
        close(measure(&mut sim)[0], 0.5, 0.03);
    }
}

#[test]
fn a_vcpu_that_nobody_competes_with_needs_no_timer() {
    let mut sim = credit2(2);
    let domain = sim.domain(256, 0);
    sim.add(domain, Job::Hog, CpuSet::ALL);
    sim.add(domain, Job::Hog, CpuSet::ALL);
    sim.run_to(1000 * MS);
    assert!(!sim.any_timer());
    assert!(sim.schedules <= 4);
    // A cap's timer ends when the domain is idle.
    let mut sim = credit2(1);
    let domain = sim.domain(256, 50);
    sim.add(domain, Job::Hog, CpuSet::ALL);
    sim.run_to(100 * MS);
    assert!(sim.any_timer());
    sim.set_paused(0, true);
    sim.run_to(130 * MS);
    assert!(!sim.any_timer());
}

#[test]
fn a_unit_that_ran_alone_owes_nothing() {
    let mut sim = credit2(1);
    let domain = sim.domain(256, 0);
    sim.add(domain, Job::Hog, CpuSet::ALL);
    sim.run_to(60_000 * MS);
    sim.add(domain, Job::Hog, CpuSet::ALL);
    let ran = sim.ran();
    let since = sim.now;
    sim.run_to(since + 200 * MS);
    let shares = sim.shares(since, &ran);
    assert!(shares[0] > 0.4 && shares[1] > 0.4, "{shares:?}");
}

#[test]
fn one_that_sleeps_much_is_served_at_once() {
    let mut sim = credit2(1);
    let domain = sim.domain(256, 0);
    for _ in 0..4 {
        sim.add(domain, Job::Hog, CpuSet::ALL);
    }
    let light = sim.add(domain, Job::Periodic { run: MS / 5, sleep: 10 * MS }, CpuSet::ALL);
    sim.run_to(100 * MS);
    sim.workers[light].longest_wait = 0;
    sim.run_to(3000 * MS);
    // The rate limit is what it waits for at most.
    assert!(sim.workers[light].longest_wait <= MS + MS / 10, "{}", sim.workers[light].longest_wait);
}

#[test]
fn a_waking_unit_prefers_an_idle_cpu_it_likes() {
    let mut sim = credit2(4);
    let domain = sim.domain(256, 0);
    let hog = sim.add(domain, Job::Hog, CpuSet::ALL);
    let light = sim.add(domain, Job::Periodic { run: MS, sleep: MS }, CpuSet::ALL);
    sim.workers[light].unit.change_affinity(|a| a.soft = CpuSet::only(CpuId(3)));
    let unit = sim.workers[light].unit.clone();
    sim.with(|p, cx| p.affinity_changed(cx, &unit));
    sim.run_to(100 * MS);
    assert_eq!(sim.workers[light].unit.cpu(), CpuId(3));
    assert!(sim.running(hog).is_some());
    close(sim.workers[light].ran as f64, 50.0 * MS as f64, 0.05);
}

#[test]
fn queues_share_their_work() {
    // Four queues of one CPU; work that all begins on one of them.
    let mut sim = credit2_in(4, 4);
    let domain = sim.domain(256, 0);
    for _ in 0..8 {
        sim.add(domain, Job::Hog, CpuSet::only(CpuId(0)));
    }
    sim.run_to(50 * MS);
    for n in 0..8 {
        sim.set_affinity(n, CpuSet::ALL);
    }
    sim.run_to(4000 * MS);
    let shares = measure(&mut sim);
    for share in shares {
        close(share, 0.5, 0.05);
    }
}

#[test]
fn no_cpu_idles_while_another_queue_has_work() {
    let mut sim = credit2_in(2, 4);
    let domain = sim.domain(256, 0);
    for n in 0..7 {
        let job = if n % 2 == 0 { Job::Hog } else { Job::Periodic { run: 3 * MS + n * 1000, sleep: 2 * MS } };
        sim.add(domain, job, CpuSet::ALL);
    }
    sim.run_to(2000 * MS);
    assert_eq!(sim.wasted, 0);
}

#[test]
fn a_pool_that_loses_cpus_runs_on_with_the_others() {
    // Two queues of two CPUs; one queue loses all it has.
    let mut sim = credit2_in(2, 4);
    let domain = sim.domain(256, 0);
    for _ in 0..4 {
        sim.add(domain, Job::Hog, CpuSet::ALL);
    }
    sim.run_to(100 * MS);
    sim.set_cpus([0, 1].map(CpuId).into_iter().collect());
    for share in measure(&mut sim) {
        close(share, 0.5, 0.03);
    }
    sim.set_cpus([0, 3].map(CpuId).into_iter().collect());
    for share in measure(&mut sim) {
        close(share, 0.5, 0.1);
    }
    sim.set_cpus(CpuSet::first(4));
    for share in measure(&mut sim) {
        close(share, 1.0, 0.03);
    }
    assert_eq!(sim.wasted, 0);
}

#[test]
fn null_gives_each_its_own_cpu() {
    let mut sim = null(2);
    let domain = sim.domain(256, 0);
    let a = sim.add(domain, Job::Hog, CpuSet::ALL);
    let b = sim.add(domain, Job::Hog, CpuSet::only(CpuId(0)));
    let c = sim.add(domain, Job::Hog, CpuSet::ALL);
    sim.run_to(10 * MS);
    // b may only run where a is.
    assert!(sim.running(a) == Some(0) && sim.running(b).is_none() && sim.running(c) == Some(1));
    sim.set_affinity(c, CpuSet::only(CpuId(0)));
    sim.set_affinity(a, CpuSet::only(CpuId(1)));
    sim.run_to(20 * MS);
    assert!(sim.running(a) == Some(1), "moved to the CPU that became free");
    assert!(sim.running(b) == Some(0) || sim.running(c) == Some(0));
    let unit = sim.workers[a].unit.clone();
    sim.set_paused(a, true);
    sim.run_to(30 * MS);
    assert!(unit.loaded_on().is_none());
    assert!(!sim.any_timer());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Hogs of any weights on one queue get what the fluid model gives them.
    #[test]
    fn shares_follow_the_fluid_model(
        cpus in 1u32..5,
        weights in proptest::collection::vec(prop::sample::select(vec![128u16, 256, 512, 1024]), 2..8),
    ) {
        let mut sim = credit2(cpus);
        for &weight in &weights {
            let domain = sim.domain(weight, 0);
            sim.add(domain, Job::Hog, CpuSet::ALL);
        }
        let model: Vec<(f64, f64)> = weights.iter().map(|&w| (f64::from(w), 1.0)).collect();
        let want = fluid(f64::from(cpus), &model);
        let have = measure(&mut sim);
        for (n, (have, want)) in have.iter().zip(&want).enumerate() {
            prop_assert!((have - want).abs() <= 0.03 * want, "{n}: {have} is not {want} of {have:?}, {want:?}");
        }
    }

    /// Where there is room, each domain gets exactly its cap, however many vCPUs it has and however they use it.
    #[test]
    fn caps_are_exact(
        caps in proptest::collection::vec((5u16..190, 1usize..4), 1..4),
        groups in 1u32..3,
    ) {
        let mut sim = credit2_in(groups, 12);
        let mut want = Vec::new();
        for &(cap, units) in &caps {
            let cap = cap.min(units as u16 * 100 - 5);
            let domain = sim.domain(256, cap);
            (0..units).for_each(|_| { sim.add(domain, Job::Hog, CpuSet::ALL); });
            want.push(f64::from(cap) / 100.0);
        }
        let shares = measure(&mut sim);
        let mut shares = shares.iter();
        for (want, &(_, units)) in want.iter().zip(&caps) {
            let have: f64 = shares.by_ref().take(units).sum();
            prop_assert!((have - want).abs() <= 0.03 * want, "{have} is not {want}");
        }
    }

    /// Whatever happens, no CPU idles while somebody waits that may run there, nobody starves, and the rules of
    /// `Sim` hold. Contexts are saved late.
    #[test]
    fn work_is_conserved_and_nobody_starves(
        layout in prop::sample::select(vec![(1u32, 1u32), (1, 3), (2, 4), (3, 3)]),
        jobs in proptest::collection::vec((0u64..4, 1u64..40, 1u64..40), 1..10),
        delays in proptest::collection::vec(0u8..3, 0..5),
    ) {
        let (groups, cpus) = layout;
        let mut sim = credit2_in(groups, cpus);
        sim.save_delays = delays;
        let domain = sim.domain(256, 0);
        for &(kind, run, sleep) in &jobs {
            let job = if kind == 0 { Job::Hog } else { Job::Periodic { run: run * MS / 4, sleep: sleep * MS / 4 } };
            sim.add(domain, job, CpuSet::ALL);
        }
        sim.run_to(1500 * MS);
        prop_assert_eq!(sim.wasted, 0);
        for w in &sim.workers {
            prop_assert!(w.longest_wait < 300 * MS, "{} waited {}", w.unit, w.longest_wait);
        }
    }

    /// Affinities, pauses, weights, caps and the pool's CPUs change at random: the rules of `Sim` hold, and when all is free again all run.
    #[test]
    fn changes_do_no_harm(
        layout in prop::sample::select(vec![(1u32, 2u32), (2, 4), (4, 4)]),
        steps in proptest::collection::vec((0usize..6, 0u8..6, 1u64..16, 0u64..30), 0..40),
        delays in proptest::collection::vec(0u8..3, 0..5),
        which in 0u8..2,
    ) {
        let (groups, cpus) = layout;
        let mut sim = if which == 0 { credit2_in(groups, cpus) } else { null(cpus) };
        sim.save_delays = delays;
        let domains = [sim.domain(256, 0), sim.domain(512, 0)];
        for n in 0..6 {
            let job = if n % 3 == 0 { Job::Periodic { run: MS, sleep: 3 * MS } } else { Job::Hog };
            sim.add(domains[n % 2], job, CpuSet::ALL);
        }
        let mut paused = [0u32; 6];
        let mut pool = CpuSet::first(cpus);
        for (n, what, value, time) in steps {
            match what {
                0 | 1 => {
                    let set: CpuSet = (0..cpus).filter(|c| value >> c & 1 == 1).map(CpuId).collect();
                    sim.set_affinity(n, if set.intersects(&pool) { set } else { CpuSet::ALL });
                }
                5 => {
                    let set: CpuSet = (0..cpus).filter(|c| value >> c & 1 == 1).map(CpuId).collect();
                    pool = if set.is_empty() { CpuSet::first(cpus) } else { set };
                    sim.set_cpus(pool);
                }
                2 => {
                    sim.set_paused(n, true);
                    paused[n] += 1;
                }
                3 if paused[n] > 0 => {
                    sim.set_paused(n, false);
                    paused[n] -= 1;
                }
                _ => sim.set_parameters(n % 2, 64 * value as u16, if value % 3 == 0 { 40 } else { 0 }),
            }
            sim.run_to(sim.now + time * MS / 3);
        }
        sim.set_cpus(CpuSet::first(cpus));
        for (n, &pauses) in paused.iter().enumerate() {
            for _ in 0..pauses {
                sim.set_paused(n, false);
            }
            sim.set_affinity(n, CpuSet::ALL);
        }
        sim.set_parameters(0, 256, 0);
        sim.set_parameters(1, 256, 0);
        sim.run_to(sim.now + 500 * MS);
        let ran = sim.ran();
        let since = sim.now;
        sim.run_to(since + 1000 * MS);
        let running = sim.shares(since, &ran).iter().filter(|&&s| s > 0.05).count();
        prop_assert_eq!(running, if which == 0 { 6 } else { cpus as usize });
    }
}
