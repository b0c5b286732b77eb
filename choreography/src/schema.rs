//! Does what one participant writes satisfy what another reads? Two JSON Schemas (draft 2020-12, as `describe --json` prints them)
//! are compared piece by piece, in this one direction.
//!
//! The invariant: no mismatch means that every body which says only what `writes` describes can be read. A writer's schema is
//! taken as closed (a field that it does not name is not written), a reader's as open unless it refuses unknown fields. What
//! cannot be compared is a mismatch that says so, never silence.

mod alternatives;
mod numbers;

use std::collections::HashSet;

use serde_json::Value;

use alternatives::{Atom, Side, alternatives, pieces};

/// A recursive type comes back to the same pair of references; deeper than this is no schema that people write.
const DEEPEST: usize = 64;

/// A place where what is written may not be readable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mismatch {
    /// Where in the body: `$.lines[].cents`; `$` is the body itself, `.*` any key of a map.
    pub path: String,
    /// What is written and what is read, in one sentence without a full stop.
    pub problem: String,
    /// False where the two could not be compared: nothing is known then.
    pub compared: bool,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// Every place where a body written by the schema `writes` may not be readable by the schema `reads`, sorted by path; empty when
/// all of them can be read.
pub fn mismatches(writes: &Value, reads: &Value) -> Vec<Mismatch> {
    let mut comparison = Comparison { writes, reads, open: HashSet::new(), depth: 0 };
    let mut found: Vec<Mismatch> =
        comparison.schemas(writes, reads, "$").into_iter().map(|found| found.mismatch).collect();
    found.sort();
    found.dedup();
    found
}

/// A mismatch, and whether it only says that this is another form (another type, another tag) than the one compared with.
#[derive(Debug, Clone)]
struct Found {
    mismatch: Mismatch,
    other_form: bool,
}

impl Found {
    fn new(path: &str, problem: String) -> Self {
        Self { mismatch: Mismatch { path: path.to_owned(), problem, compared: true }, other_form: false }
    }

    fn other_form(path: &str, problem: String) -> Self {
        Self { other_form: true, ..Self::new(path, problem) }
    }

    fn not_compared(path: &str, why: &str) -> Self {
        let mut found = Self::new(path, format!("not compared: {why}"));
        found.mismatch.compared = false;
        found
    }
}

struct Comparison<'s> {
    /// The documents that references point into.
    writes: &'s Value,
    reads: &'s Value,
    /// Pairs under comparison: a recursive type meets itself, and agrees with itself as far as the rest of it does.
    open: HashSet<(String, String)>,
    depth: usize,
}

impl Comparison<'_> {
    fn schemas(&mut self, writes: &Value, reads: &Value, path: &str) -> Vec<Found> {
        let refers = |schema: &Value| schema.get("$ref").is_some();
        let pair = (refers(writes) || refers(reads)).then(|| (writes.to_string(), reads.to_string()));
        if let Some(pair) = &pair
            && !self.open.insert(pair.clone())
        {
            return vec![];
        }
        self.depth += 1;
        let found = if self.depth > DEEPEST {
            vec![Found::not_compared(path, "it is nested too deeply")]
        } else {
            self.expanded(writes, reads, path)
        };
        self.depth -= 1;
        if let Some(pair) = pair {
            self.open.remove(&pair);
        }
        found
    }

    fn expanded(&mut self, writes: &Value, reads: &Value, path: &str) -> Vec<Found> {
        let read = match alternatives(self.reads, reads, Side::Reads) {
            Ok(read) => read,
            Err(why) => return vec![Found::not_compared(path, &why)],
        };
        if read.iter().any(Atom::is_anything) {
            return vec![];
        }
        let written = match alternatives(self.writes, writes, Side::Writes) {
            Ok(written) => written,
            Err(why) => return vec![Found::not_compared(path, &why)],
        };
        let mut found = vec![];
        for atom in &written {
            if let Some(keyword) = ["if", "dependentSchemas", "$dynamicRef"].iter().find(|key| atom.has(key)) {
                found.push(Found::not_compared(path, &format!("what is written depends on `{keyword}`")));
            }
            match pieces(atom) {
                Some(pieces) => {
                    for piece in &pieces {
                        found.extend(self.piece_of_any(piece, &read, path));
                    }
                }
                None => found.push(Found::new(path, format!("anything may be written, but {} is read", forms(&read)))),
            }
        }
        found
    }

    /// What keeps a piece of what is written from being read in any of the forms; empty when one of them reads it.
    fn piece_of_any(&mut self, piece: &Atom, read: &[Atom], path: &str) -> Vec<Found> {
        let mut nearest: Option<Vec<Found>> = None;
        let rank = |found: &[Found]| {
            let unknown = found.iter().all(|found| !found.mismatch.compared);
            (!unknown, found.iter().any(|found| found.other_form), found.len())
        };
        for form in read {
            let found = self.piece(piece, form, path);
            if found.is_empty() {
                return found;
            }
            if nearest.as_ref().is_none_or(|nearest| rank(&found) < rank(nearest)) {
                nearest = Some(found);
            }
        }
        match nearest {
            Some(found) if read.len() == 1 || !found.iter().any(|found| found.other_form) => found,
            Some(_) => {
                let problem = format!("{} may be written, but {} is read", piece.describe(), forms(read));
                vec![Found::other_form(path, problem)]
            }
            None => vec![Found::new(path, "this can be written, but nothing can be read here".to_owned())],
        }
    }

    fn piece(&mut self, piece: &Atom, read: &Atom, path: &str) -> Vec<Found> {
        let wanted = || format!("{} may be written, but {} is read", piece.describe(), read.describe());
        if let Some(values) = read.values() {
            let all = match (piece.values(), piece.one_type()) {
                (Some(written), _) => written.iter().all(|value| values.contains(value)),
                (None, "null") => values.contains(&Value::Null),
                (None, "boolean") => [true, false].iter().all(|value| values.contains(&Value::Bool(*value))),
                _ => false,
            };
            if !all {
                return vec![Found::other_form(path, wanted())];
            }
        }
        let one = piece.one_type();
        if !read.takes(one) {
            return vec![Found::other_form(path, wanted())];
        }
        let mut found = match one {
            "string" => texts(piece, read, path),
            "integer" | "number" => numbers::compare(piece, read, path),
            "array" => self.arrays(piece, read, path),
            "object" => self.objects(piece, read, path),
            _ => vec![],
        };
        for (keyword, said) in read.unknown(one) {
            if piece.get(keyword) != Some(said) {
                found.push(Found::not_compared(path, &format!("what is read is bounded by `{keyword}`")));
            }
        }
        found
    }

    fn objects(&mut self, piece: &Atom, read: &Atom, path: &str) -> Vec<Found> {
        let mut found = vec![];
        for name in read.required() {
            let at = member(path, name);
            if piece.required().any(|required| required == name) {
                continue;
            }
            let written =
                piece.property(name).is_some() || piece.get("additionalProperties").is_some_and(|all| *all != false);
            let problem = if written { "may be left out, but is required" } else { "is required, but never written" };
            found.push(Found::new(&at, problem.to_owned()));
        }
        let rest = read.get("additionalProperties");
        let patterns = read.get("patternProperties");
        for (name, written) in piece.properties() {
            let at = member(path, name);
            if self.never(written) {
                continue;
            }
            match read.property(name) {
                Some(expected) => {
                    let mut inner = self.schemas(written, expected, &at);
                    // Another value of a tag is another form.
                    let tag = expected.get("const").is_some();
                    inner.iter_mut().for_each(|found| found.other_form = tag && found.other_form);
                    found.extend(inner);
                }
                None if patterns.is_some() => {
                    found.push(Found::not_compared(&at, "what is read there depends on a pattern of names"));
                }
                None => match rest {
                    Some(Value::Bool(false)) => {
                        let problem = "is written, but unknown fields are refused".to_owned();
                        found.push(Found::other_form(&at, problem));
                    }
                    Some(expected) => found.extend(self.schemas(written, expected, &at)),
                    None => {}
                },
            }
        }
        let any_key = format!("{path}.*");
        if let Some(written) = piece.get("additionalProperties").filter(|written| **written != false) {
            for (name, expected) in read.properties().filter(|(name, _)| piece.property(name).is_none()) {
                found.extend(self.schemas(written, expected, &member(path, name)));
            }
            found.extend(self.keys(written, None, read, &any_key));
        }
        for (pattern, written) in piece.patterns() {
            for (name, expected) in read.properties() {
                // A name that is read may be one of the pattern's.
                found.extend(self.schemas(written, expected, &member(path, name)));
            }
            found.extend(self.keys(written, Some(pattern), read, &any_key));
        }
        found
    }

    /// Compares what is written under names that are not known before with what is read under such names.
    fn keys(&mut self, written: &Value, pattern: Option<&str>, read: &Atom, path: &str) -> Vec<Found> {
        let known = read.patterns().find(|(other, _)| Some(*other) == pattern);
        match (known, read.patterns().next(), read.get("additionalProperties")) {
            (Some((_, expected)), ..) => self.schemas(written, expected, path),
            (None, Some(_), _) => vec![Found::not_compared(path, "the keys that are read follow a pattern")],
            (None, None, Some(Value::Bool(false))) => {
                vec![Found::other_form(path, "is written, but unknown fields are refused".to_owned())]
            }
            (None, None, Some(expected)) => self.schemas(written, expected, path),
            (None, None, None) => vec![],
        }
    }

    fn arrays(&mut self, piece: &Atom, read: &Atom, path: &str) -> Vec<Found> {
        let (written, expected) = (piece.elements(), read.elements());
        let (fewest, most) = (piece.count("minItems").unwrap_or(0), piece.longest());
        let mut found = vec![];
        let said = match most {
            Some(most) if most == fewest => format!("{most} elements are written"),
            Some(most) => format!("{fewest} to {most} elements are written"),
            None => format!("{fewest} elements or more are written"),
        };
        let (least, limit) = (read.count("minItems").unwrap_or(0), read.shortest_limit());
        if fewest < least {
            found.push(Found::new(path, format!("{said}, but at least {least} are read")));
        } else if let Some(limit) = limit
            && most.is_none_or(|most| most > limit)
        {
            found.push(Found::new(path, format!("{said}, but at most {limit} are read")));
        }
        let places = written.0.len().max(expected.0.len()) as u64;
        for place in 0..most.unwrap_or(u64::MAX).min(places) {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            let at = format!("{path}[{place}]");
            found.extend(self.schemas(nth(&written, place), nth(&expected, place), &at));
        }
        if most.is_none_or(|most| most > places) {
            found.extend(self.schemas(written.1, expected.1, &format!("{path}[]")));
        }
        found
    }

    /// Whether nothing is ever written by this schema.
    fn never(&self, schema: &Value) -> bool {
        alternatives(self.writes, schema, Side::Writes).is_ok_and(|all| all.is_empty())
    }
}

fn nth<'v>(elements: &(&'v [Value], &'v Value), place: usize) -> &'v Value {
    elements.0.get(place).unwrap_or(elements.1)
}

fn texts(piece: &Atom, read: &Atom, path: &str) -> Vec<Found> {
    let mut found = vec![];
    let lengths = |of: fn(usize, usize) -> usize| {
        let all = piece.values()?.iter().filter_map(Value::as_str).map(|text| text.chars().count());
        all.reduce(of).map(|length| length as u64)
    };
    let fewest = lengths(usize::min).or(piece.count("minLength")).unwrap_or(0);
    let most = lengths(usize::max).or(piece.count("maxLength"));
    if let Some(least) = read.count("minLength").filter(|least| fewest < *least) {
        found.push(Found::new(
            path,
            format!("a text of {fewest} characters may be written, but at least {least} are read"),
        ));
    }
    if let Some(limit) = read.count("maxLength").filter(|limit| most.is_none_or(|most| most > *limit)) {
        found.push(Found::new(path, format!("a longer text may be written, but at most {limit} characters are read")));
    }
    let format = |atom: &Atom| atom.get("format").and_then(Value::as_str).map(str::to_owned);
    if read.values().is_some() {
        return found; // Each of the values was found among those that are read.
    }
    match (format(piece), format(read)) {
        (_, None) => {}
        (Some(written), Some(expected)) if written == expected => {}
        (Some(written), Some(expected)) if expected == "ip" && ["ipv4", "ipv6"].contains(&written.as_str()) => {}
        (_, Some(expected)) if piece.values().is_some() => {
            found.push(Found::not_compared(path, &format!("whether this text is a {expected}")));
        }
        (written, Some(expected)) => {
            let written = written.map_or("any text".to_owned(), |written| format!("a text of the format {written}"));
            found.push(Found::new(path, format!("{written} may be written, but one of the format {expected} is read")));
        }
    }
    for keyword in ["pattern", "contentEncoding", "contentMediaType", "contentSchema"] {
        if let Some(said) = read.get(keyword).filter(|said| piece.get(keyword) != Some(said)) {
            let why = format!("the texts that are read are bounded by `{keyword}` {said}");
            found.push(Found::not_compared(path, &why));
        }
    }
    found
}

/// The forms that are read, for people.
fn forms(read: &[Atom]) -> String {
    let mut all: Vec<String> = read.iter().map(Atom::describe).collect();
    all.dedup();
    match all.len() {
        0 => "nothing".to_owned(),
        1..=6 => all.join(" or "),
        more => format!("one of {more} other forms"),
    }
}

fn member(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if plain { format!("{path}.{name}") } else { format!("{path}[{name:?}]") }
}
