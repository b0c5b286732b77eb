//! How times, and texts that somebody else wrote, look on a terminal.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

/// Foreign text on one line, cut to about `most` characters. Control characters are written out, so that nobody's event moves the
/// cursor of whoever looks at it; so are those that turn the direction of the text around.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let mut line = String::new();
    for (place, letter) in text.chars().enumerate() {
        if place >= most {
            line.push('…');
            break;
        }
        let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if letter.is_control() || turns {
            let _ = write!(line, "{}", letter.escape_default()); // writing to a String cannot fail
        } else {
            line.push(letter);
        }
    }
    line
}

/// Bytes as text, or the number of them where they are none.
pub(crate) fn bytes(bytes: &[u8], most: usize) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => plain(text, most),
        Err(_) => format!("({} bytes that are no text: --json has them)", bytes.len()),
    }
}

/// A moment in UTC, from milliseconds since the Unix epoch.
pub(crate) fn moment(millis: i64) -> String {
    let moment = UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    // The formatter fails beyond the year 9999.
    let latest = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(moment.min(latest)).to_string()
}

/// A span of milliseconds in the two units that matter: `4s`, `12m`, `3h 20m`, `2d 4h`.
pub(crate) fn span(millis: i64) -> String {
    let seconds = millis.max(0) / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, ..) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// When something is due, seen from now.
pub(crate) fn due(due_at: Option<i64>, now: i64) -> String {
    match due_at {
        None => "-".to_owned(),
        Some(due) if due <= now => "now".to_owned(),
        Some(due) => format!("in {}", span(due - now + 999)),
    }
}

/// `1 reaction`, `2 reactions`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_on_its_line() {
        assert_eq!(plain("a\u{1b}[2J\nb\u{202e}c ü", 99), "a\\u{1b}[2J\\nb\\u{202e}c ü");
        assert_eq!(plain("üüü", 2), "üü…");
        assert_eq!(bytes(&[0xff, 0], 9), "(2 bytes that are no text: --json has them)");
    }

    #[test]
    fn times_are_short() {
        assert_eq!([0, 59_999, 60_000, 12_000_000, 187_200_000].map(span), ["0s", "59s", "1m", "3h 20m", "2d 4h"]);
        assert_eq!((due(None, 5), due(Some(5), 5), due(Some(1_001), 1)), ("-".into(), "now".into(), "in 1s".into()));
        assert_eq!(moment(1_800_000_000_123), "2027-01-15T08:00:00.123Z");
        assert_eq!(moment(i64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
