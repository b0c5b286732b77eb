//! Points in time as CloudEvents write them: RFC 3339.
//!
//! The invariant: no number and no text panics. The format has four digits for the year, so it says nothing of other years.

use std::ops::RangeInclusive;

const MILLIS_A_DAY: i64 = 24 * 60 * 60 * 1000;

/// From the first millisecond of the year 0000 to the last of the year 9999.
pub(super) const EXPRESSIBLE: RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// Milliseconds since the Unix epoch in the form of RFC 3339, in UTC and with three digits of the second. What is outside of the
/// years 0000 to 9999 comes out as the nearest time inside.
pub fn rfc3339(millis: i64) -> String {
    let millis = millis.clamp(*EXPRESSIBLE.start(), *EXPRESSIBLE.end());
    // Rounded down also before 1970, so that the rest counts forward.
    let (year, month, day) = civil(millis.div_euclid(MILLIS_A_DAY));
    let rest = millis.rem_euclid(MILLIS_A_DAY);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

/// The same backwards, from any offset; what is finer than a millisecond is cut off.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (date_time, rest) = text.as_bytes().split_at_checked(19)?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T' | b't' | b' ', h0, h1, b':', i0, i1, b':', s0, s1] =
        *date_time
    else {
        return None;
    };
    let (year, month, day) = (number(&[y0, y1, y2, y3])?, number(&[m0, m1])?, number(&[d0, d1])?);
    let (hour, minute, second) = (number(&[h0, h1])?, number(&[i0, i1])?, number(&[s0, s1])?);
    let days = days(year, month, day);
    // A leap second is allowed (section 5.7); it becomes the first of the next minute. A day that its month does not have comes
    // back as another.
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, zone) = fraction(rest)?;
    let minutes = hour * 60 + minute - offset(zone)?;
    let millis = days * MILLIS_A_DAY + minutes * 60_000 + second * 1000 + fraction;
    EXPRESSIBLE.contains(&millis).then_some(millis)
}

/// Milliseconds, and what follows.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', rest)) = rest.split_first() else { return Some((0, rest)) };
    let (digits, zone) = rest.split_at(rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let mut millis = [b'0'; 3];
    for (to, from) in millis.iter_mut().zip(digits) {
        *to = *from;
    }
    if digits.is_empty() { None } else { Some((number(&millis)?, zone)) }
}

/// Minutes east of Greenwich.
fn offset(zone: &[u8]) -> Option<i64> {
    match *zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (number(&[h0, h1])?, number(&[m0, m1])?);
            let east = hours * 60 + minutes;
            (hours < 24 && minutes < 60).then_some(if sign == b'-' { -east } else { east })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |all, digit| digit.is_ascii_digit().then(|| all * 10 + i64::from(digit - b'0')))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar. Years count from March, so that the leap day is their last; 400 of
/// them have 146,097 days (<https://howardhinnant.github.io/date_algorithms.html>).
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    (era * 400 + year + if month <= 2 { 1 } else { 0 }, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_come_out_as_they_are_written() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (-14_182_940_000, "1969-07-20T20:17:40.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_522_949_460_123, "2018-04-05T17:31:00.123Z"),
            (*EXPRESSIBLE.start(), "0000-01-01T00:00:00.000Z"),
            (*EXPRESSIBLE.end(), "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(millis), text);
            assert_eq!(parse(text), Some(millis));
        }
        assert_eq!(rfc3339(i64::MIN), rfc3339(*EXPRESSIBLE.start()));
        assert_eq!(rfc3339(i64::MAX), rfc3339(*EXPRESSIBLE.end()));
    }

    #[test]
    fn other_ways_to_write_a_time_are_read() {
        let millis = parse("2018-04-05T17:31:00Z");
        assert_eq!(millis, Some(1_522_949_460_000));
        for same in
            ["2018-04-05T19:31:00+02:00", "2018-04-05t12:01:00.0-05:30", "2018-04-05 17:31:00z", "2018-04-05T17:30:60Z"]
        {
            assert_eq!(parse(same), millis, "{same}");
        }
        assert_eq!(parse("2018-04-05T17:31:00.1Z"), millis.map(|millis| millis + 100));
        assert_eq!(parse("2018-04-05T17:31:00.123456789Z"), millis.map(|millis| millis + 123));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "yesterday",
            "2018-04-05",
            "2018-04-05T17:31:00",
            "2018-04-05T17:31:00.Z",
            "2018-04-05T17:31:00+2:00",
            "2018-04-05T17:31:00Zulu",
            "2018-04-05T17:31:61Z",
            "2018-04-05T24:31:00Z",
            "2018-02-29T00:00:00Z",
            "2018-13-01T00:00:00Z",
            "2018-00-01T00:00:00Z",
            "2018-01-00T00:00:00Z",
            "+018-01-01T00:00:00Z",
            "0000-01-01T00:00:00+00:01",
            "２018-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in EXPRESSIBLE) {
            prop_assert_eq!(parse(&rfc3339(millis)), Some(millis));
        }

        /// An implementation of somebody else, where it knows the answer.
        #[test]
        fn after_1970_it_agrees_with_humantime(millis in 0..=*EXPRESSIBLE.end()) {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis.unsigned_abs());
            prop_assert_eq!(rfc3339(millis), humantime::format_rfc3339_millis(time).to_string());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", near in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}[-+.Z0-9:]{0,12}") {
            parse(&text);
            parse(&near);
        }
    }
}
