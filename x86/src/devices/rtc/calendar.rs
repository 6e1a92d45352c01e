//! Calendar arithmetic: seconds since 1970-01-01 00:00 UTC to date and time and back (Gregorian, no leap seconds).

/// Seconds in a day.
pub(super) const DAY: i64 = 86_400;

/// A date and a time of day. Fields that software wrote may be out of range; conversion then carries over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DateTime {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: i64,
    /// 1 to 31.
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

impl DateTime {
    /// The date and time of a moment. Moments out of a range of a hundred million years are moved to its end.
    pub(super) fn from_seconds(seconds: i64) -> DateTime {
        const LIMIT: i64 = 1 << 51;
        let seconds = seconds.clamp(-LIMIT, LIMIT);
        let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Years that begin in March put the leap day last; an era of 400 of them has 146,097 days. 719,468 days lie
        // between 0000-03-01 and 1970-01-01.
        let days = days.wrapping_add(719_468);
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        // Days less the leap days that are over, in years of 365 days.
        let leaps = (of_era / 1460).wrapping_sub(of_era / 36_524).wrapping_add(of_era / 146_096);
        let year_of_era = of_era.wrapping_sub(leaps) / 365;
        let year_start = year_of_era.wrapping_mul(365).wrapping_add(year_of_era / 4).wrapping_sub(year_of_era / 100);
        let of_year = of_era.wrapping_sub(year_start);
        // Five months from March on have 153 days.
        let march_month = of_year.wrapping_mul(5).wrapping_add(2) / 153;
        let month_start = march_month.wrapping_mul(153).wrapping_add(2) / 5;
        let next_year = march_month >= 10;
        let month = if next_year { march_month.wrapping_sub(9) } else { march_month.wrapping_add(3) };
        let year = era.wrapping_mul(400).wrapping_add(year_of_era).wrapping_add(i64::from(next_year));
        DateTime {
            year,
            month,
            day: of_year.wrapping_sub(month_start).wrapping_add(1),
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// The moment. Fields are small (they come from two-digit registers), so nothing here overflows.
    pub(super) fn to_seconds(self) -> i64 {
        let months = self.month.wrapping_sub(3);
        let year = self.year.wrapping_add(months.div_euclid(12));
        let march_month = months.rem_euclid(12);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (march_month.wrapping_mul(153).wrapping_add(2) / 5).wrapping_add(self.day).wrapping_sub(1);
        let days = era
            .wrapping_mul(146_097)
            .wrapping_add(year_of_era.wrapping_mul(365))
            .wrapping_add(year_of_era / 4)
            .wrapping_sub(year_of_era / 100)
            .wrapping_add(of_year)
            .wrapping_sub(719_468);
        let minutes = self.hour.wrapping_mul(60).wrapping_add(self.minute);
        days.wrapping_mul(DAY).wrapping_add(minutes.wrapping_mul(60)).wrapping_add(self.second)
    }
}

/// The day of the week of a moment: 0 is Sunday.
pub(super) fn weekday(seconds: i64) -> i64 {
    // 1970-01-01 was a Thursday.
    seconds.div_euclid(DAY).wrapping_add(4).rem_euclid(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        for (seconds, (year, month, day), week) in [
            (0, (1970, 1, 1), 4),
            (951_782_400, (2000, 2, 29), 2),
            (951_868_800, (2000, 3, 1), 3),
            (1_735_603_200, (2024, 12, 31), 2),
            (4_107_542_400, (2100, 3, 1), 1),
            (-86_400, (1969, 12, 31), 3),
        ] {
            let d = DateTime::from_seconds(seconds);
            assert_eq!((d.year, d.month, d.day), (year, month, day));
            assert_eq!(weekday(seconds), week, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn days_follow_each_other() {
        let lengths = |y: i64| {
            [
                31,
                if y % 4 == 0 && (y % 100 != 0 || y % 400 == 0) { 29 } else { 28 },
                31,
                30,
                31,
                30,
                31,
                31,
                30,
                31,
                30,
                31,
            ]
        };
        let mut day = DateTime::from_seconds(0).to_seconds();
        for year in 1970..2405 {
            for (month, length) in (1..).zip(lengths(year)) {
                for n in 1..=length {
                    let d = DateTime::from_seconds(day);
                    assert_eq!((d.year, d.month, d.day), (year, month, n));
                    day += DAY;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(seconds in -100_000_000_000i64..100_000_000_000) {
            prop_assert_eq!(DateTime::from_seconds(seconds).to_seconds(), seconds);
        }

        #[test]
        fn any_moment_and_any_fields_are_safe(seconds: i64, f: [u8; 6], year in 0i64..100_000) {
            let _ = DateTime::from_seconds(seconds);
            let [month, day, hour, minute, second, _] = f.map(i64::from);
            let _ = DateTime { year, month, day, hour, minute, second }.to_seconds();
        }
    }
}
