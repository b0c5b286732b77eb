//! Ranges of numbers. Rust's integers travel as a `format`, and only some of them with `minimum` and `maximum`, so the format's
//! own range counts.

use serde_json::Value;

use super::{Found, alternatives::Atom};

/// From and to, both inclusive; `None` is unbounded.
type Range = (Option<i128>, Option<i128>);

pub(super) fn compare(piece: &Atom, read: &Atom, path: &str) -> Vec<Found> {
    if piece.one_type() == "integer" {
        let (written, expected) = (range(piece), range(read));
        let below = expected.0.is_some_and(|least| written.0.is_none_or(|lowest| lowest < least));
        let above = expected.1.is_some_and(|most| written.1.is_none_or(|highest| highest > most));
        if !below && !above {
            return vec![];
        }
        let how = match (below, above) {
            (true, false) => "a smaller number",
            (false, _) => "a greater number",
            (true, true) => "a smaller or a greater number",
        };
        let (written, expected) = (name(piece, written), name(read, expected));
        return vec![Found::new(path, format!("{how} may be written ({written}) than is read ({expected})"))];
    }
    let mut found = vec![];
    let value = |atom: &Atom, keyword: &str| {
        let constant = atom.values().and_then(|values| values.first()).and_then(Value::as_f64);
        constant.filter(|_| !keyword.starts_with("exclusive")).or_else(|| atom.get(keyword).and_then(Value::as_f64))
    };
    for (bound, exclusive, sign) in [("minimum", "exclusiveMinimum", 1.0), ("maximum", "exclusiveMaximum", -1.0)] {
        let (at, beyond) = (value(piece, bound).map(|at| at * sign), value(piece, exclusive).map(|at| at * sign));
        let within = |least: f64| at.is_some_and(|at| at >= least) || beyond.is_some_and(|at| at >= least);
        let above = |least: f64| at.is_some_and(|at| at > least) || beyond.is_some_and(|at| at >= least);
        let short = value(read, bound).is_some_and(|least| read.values().is_none() && !within(least * sign))
            || value(read, exclusive).is_some_and(|least| !above(least * sign));
        if short {
            found.push(Found::new(path, format!("a number outside the `{bound}` that is read may be written")));
        }
    }
    found
}

fn range(atom: &Atom) -> Range {
    if let Some(value) = atom.values().filter(|all| all.len() == 1).and_then(|all| whole(&all[0], f64::floor)) {
        return (Some(value), Some(value));
    }
    let (mut least, mut most) = format(atom).unwrap_or((None, None));
    let said = |keyword: &str, round: fn(f64) -> f64| atom.get(keyword).and_then(|value| whole(value, round));
    least = least.max(said("minimum", f64::ceil)).max(said("exclusiveMinimum", f64::floor).map(|beyond| beyond + 1));
    let upper = [most, said("maximum", f64::floor), said("exclusiveMaximum", f64::ceil).map(|beyond| beyond - 1)];
    most = upper.into_iter().flatten().min();
    (least, most)
}

/// The range of a Rust integer. Of `usize` and `isize` it is taken as 64 bits, which every server has.
fn format(atom: &Atom) -> Option<Range> {
    let range = |least: i128, most: i128| Some((Some(least), Some(most)));
    match atom.get("format")?.as_str()? {
        "int8" => range(i8::MIN.into(), i8::MAX.into()),
        "int16" => range(i16::MIN.into(), i16::MAX.into()),
        "int32" => range(i32::MIN.into(), i32::MAX.into()),
        "int64" | "int" => range(i64::MIN.into(), i64::MAX.into()),
        "int128" => range(i128::MIN, i128::MAX),
        "uint8" => range(0, u8::MAX.into()),
        "uint16" => range(0, u16::MAX.into()),
        "uint32" => range(0, u32::MAX.into()),
        "uint64" | "uint" => range(0, u64::MAX.into()),
        "uint128" => Some((Some(0), None)),
        _ => None,
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a float cast to an integer saturates, which is as good a bound")]
fn whole(value: &Value, round: fn(f64) -> f64) -> Option<i128> {
    let exact = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    exact.or_else(|| value.as_f64().map(|value| round(value) as i128))
}

/// `int64`, or the range itself.
fn name(atom: &Atom, (least, most): Range) -> String {
    let format = atom.get("format").and_then(Value::as_str);
    let narrowed = format.is_none() || format_is_narrowed(atom, (least, most));
    match (format, least, most) {
        (Some(format), ..) if !narrowed => format.to_owned(),
        (_, None, None) => "any integer".to_owned(),
        (_, Some(least), Some(most)) if least == most => least.to_string(),
        (_, least, most) => {
            let end = |end: Option<i128>| end.map_or(String::new(), |end| end.to_string());
            format!("{}..{}", end(least), end(most))
        }
    }
}

fn format_is_narrowed(atom: &Atom, range: Range) -> bool {
    format(atom).is_none_or(|full| full != range)
}
