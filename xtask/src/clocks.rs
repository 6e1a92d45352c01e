//! dom0's clocks beside the host's, from lines that `probe soak` prints.
//!
//! A line says what the clocks showed when it was made. It arrives later, by a delay that varies but is never negative,
//! so within a window of time the line with the least difference is the one to believe.

use std::time::{Duration, Instant, SystemTime};

/// What such a line contains, followed by the monotonic clock and the time since 1970 in nanoseconds.
const MARK: &str = "SOAK-CLOCK ";
/// Lines within so many seconds make one point.
const WINDOW: f64 = 10.0;
/// Fewer lines are no point.
const ENOUGH: usize = 5;

/// The clocks compared, in dom0's words and the host's counterparts.
const NAMES: [&str; 2] = ["CLOCK_MONOTONIC", "CLOCK_REALTIME"];

/// Differences between the host's clocks and dom0's.
#[derive(Default)]
pub(crate) struct Clocks {
    start: Option<(Instant, SystemTime)>,
    /// Seconds on the host since the first line, and for each clock the host's less dom0's, in seconds.
    samples: Vec<(f64, [f64; 2])>,
    /// What dom0's clocks showed in the first line.
    first: [u128; 2],
}

impl Clocks {
    /// Takes a line that has just arrived.
    pub(crate) fn line(&mut self, line: &str) {
        self.arrived(line, Instant::now(), SystemTime::now());
    }

    fn arrived(&mut self, line: &str, now: Instant, today: SystemTime) {
        let Some((_, text)) = line.split_once(MARK) else { return };
        let mut numbers = text.split_whitespace().map(|word| word.parse::<u128>());
        let (Some(Ok(monotonic)), Some(Ok(realtime)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
            return;
        };
        if self.start.is_none() {
            self.start = Some((now, today));
            self.first = [monotonic, realtime];
        }
        let Some((start, first_day)) = self.start else { return };
        let elapsed = now.duration_since(start).as_secs_f64();
        // The host's own time of day may be set back; that is not dom0's fault, and shows as a large difference.
        let days = today.duration_since(first_day).map_or_else(|e| -e.duration().as_secs_f64(), |d| d.as_secs_f64());
        let since = |value: u128, first: u128| (value as i128 - first as i128) as f64 / 1e9;
        let differences = [elapsed - since(monotonic, self.first[0]), days - since(realtime, self.first[1])];
        self.samples.push((elapsed, differences));
    }

    /// For each window its middle in seconds and the least difference of clock `which`.
    fn points(&self, which: usize) -> Vec<(f64, f64)> {
        let mut points = Vec::new();
        let window = |time: f64| (time / WINDOW) as u64;
        for group in self.samples.chunk_by(|a, b| window(a.0) == window(b.0)).filter(|group| group.len() >= ENOUGH) {
            let least = group.iter().map(|sample| sample.1[which]).fold(f64::INFINITY, f64::min);
            points.push(((window(group[0].0) as f64 + 0.5) * WINDOW, least));
        }
        points
    }

    /// How far a clock of dom0's went from where it was at first, at most, in seconds.
    fn deviation(&self, which: usize) -> Option<f64> {
        let points = self.points(which);
        let (_, first) = points.first()?;
        (points.len() > 1).then(|| points.iter().map(|(_, at)| (at - first).abs()).fold(0.0, f64::max))
    }

    /// What was measured, in words.
    pub(crate) fn report(&self) -> String {
        let words = |(which, name): (usize, &&str)| {
            let points = self.points(which);
            let (Some(first), Some(last), Some(worst)) = (points.first(), points.last(), self.deviation(which)) else {
                return format!("{name}: too few lines");
            };
            let rate = (first.1 - last.1) / (last.0 - first.0) * 1e6;
            format!("{name}: at most {:.1} ms from the host's in {:.0} s, rate {rate:+.1} ppm", worst * 1e3, last.0)
        };
        NAMES.iter().enumerate().map(words).collect::<Vec<_>>().join("; ")
    }

    /// What is wrong, if anything is.
    pub(crate) fn problem(&self, bound: Duration) -> Option<String> {
        NAMES.iter().enumerate().find_map(|(which, name)| match self.deviation(which) {
            None => Some(format!("dom0 printed {name} too few times")),
            Some(far) if far > bound.as_secs_f64() => Some(format!("dom0's {name} went {:.1} ms astray", far * 1e3)),
            Some(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines once in half a second for 60 s, from a clock that goes wrong by `ppm`, each delayed by `delay(n)` ms.
    fn run(ppm: f64, delay: impl Fn(u64) -> u64) -> Clocks {
        let (start, today) = (Instant::now(), SystemTime::now());
        let mut clocks = Clocks::default();
        for n in 0..120 {
            let made = Duration::from_millis(500 * n);
            let arrived = made + Duration::from_millis(delay(n));
            let shown = (made.as_nanos() as f64 * (1.0 + ppm / 1e6)) as u128;
            let line = format!("SOAK-CLOCK {} {}", shown + 77, shown + 1_700_000_000_000_000_000);
            clocks.arrived(&line, start + arrived, today + arrived);
        }
        clocks
    }

    #[test]
    fn delays_do_not_count() {
        let clocks = run(0.0, |n| if n % 7 == 0 { 2 } else { n * 37 % 900 });
        assert!(clocks.deviation(0).unwrap() < 0.003, "{}", clocks.report());
        assert_eq!(clocks.problem(Duration::from_millis(50)), None);
    }

    #[test]
    fn a_wrong_rate_is_found() {
        let clocks = run(2000.0, |n| n * 13 % 40);
        // From window to window it goes 20 ms.
        assert!((0.08..0.12).contains(&clocks.deviation(0).unwrap()), "{}", clocks.report());
        assert!(clocks.problem(Duration::from_millis(50)).unwrap().contains("CLOCK_MONOTONIC"));
        assert!(clocks.report().contains("rate +"));
    }

    #[test]
    fn silence_is_a_problem() {
        let mut clocks = Clocks::default();
        clocks.line("SOAK-CLOCK x y");
        clocks.line("nothing");
        assert!(clocks.problem(Duration::from_secs(1)).unwrap().contains("too few"));
    }
}
