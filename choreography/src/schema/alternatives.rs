//! A schema as the list of its alternatives: references resolved, and `anyOf`, `oneOf` and `allOf` multiplied out, so that two
//! schemas can be compared form by form. `oneOf` is taken as `anyOf`: whoever reads an enum takes the first form that fits.

use serde_json::{Map, Value};

/// More alternatives than this come of no type that people write.
const MOST: usize = 512;
/// A reference that only leads to references ends nowhere.
const DEEPEST: usize = 32;

/// Keywords that describe, and bound nothing.
const ANNOTATIONS: [&str; 14] = [
    "$schema",
    "$id",
    "$anchor",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "uniqueItems",
];

/// Keywords that a comparison knows, by the type that they bound.
const KNOWN: [(&str, &[&str]); 4] = [
    (
        "string",
        &["format", "pattern", "minLength", "maxLength", "contentEncoding", "contentMediaType", "contentSchema"],
    ),
    ("number", &["format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
    ("array", &["items", "prefixItems", "minItems", "maxItems"]),
    ("object", &["properties", "required", "additionalProperties", "patternProperties", "unevaluatedProperties"]),
];

/// Keywords that bound values of one type only, and that no comparison knows.
const BOUNDING: [(&str, &str); 10] = [
    ("multipleOf", "number"),
    ("contains", "array"),
    ("minContains", "array"),
    ("maxContains", "array"),
    ("unevaluatedItems", "array"),
    ("minProperties", "object"),
    ("maxProperties", "object"),
    ("propertyNames", "object"),
    ("dependentRequired", "object"),
    ("dependentSchemas", "object"),
];

const TRUE: &Value = &Value::Bool(true);

/// Whose schema it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Writes,
    Reads,
}

/// One alternative: a schema without references and without `anyOf`, `oneOf`, `allOf` and `const` at its top.
#[derive(Debug, Clone, Default)]
pub(super) struct Atom(Map<String, Value>);

/// Everything that a schema allows, or why that cannot be said.
pub(super) fn alternatives(document: &Value, schema: &Value, side: Side) -> Result<Vec<Atom>, String> {
    let mut all = expand(document, schema, side, 0)?;
    for Atom(atom) in &mut all {
        // All that is evaluated stands in this atom now.
        if let Some(rest) = atom.remove("unevaluatedProperties") {
            atom.entry("additionalProperties").or_insert(rest);
        }
    }
    Ok(all)
}

fn expand(document: &Value, schema: &Value, side: Side, depth: usize) -> Result<Vec<Atom>, String> {
    if depth > DEEPEST {
        return Err("its references lead nowhere".to_owned());
    }
    let schema = match schema {
        Value::Bool(true) => return Ok(vec![Atom::default()]),
        Value::Bool(false) => return Ok(vec![]),
        Value::Object(schema) => schema,
        other => return Err(format!("{other} is no schema")),
    };
    let mut base = Map::new();
    let mut parts = vec![];
    for (keyword, said) in schema {
        match (keyword.as_str(), said) {
            ("$ref", Value::String(reference)) => {
                let target = resolve(document, reference).ok_or_else(|| format!("`{reference}` leads out of it"))?;
                parts.push(expand(document, target, side, depth + 1)?);
            }
            ("allOf", Value::Array(all)) => {
                for one in all {
                    parts.push(expand(document, one, side, depth + 1)?);
                }
            }
            ("anyOf" | "oneOf", Value::Array(any)) => {
                let mut forms = vec![];
                for one in any {
                    forms.extend(expand(document, one, side, depth + 1)?);
                }
                parts.push(forms);
            }
            ("const", value) => {
                base.insert("enum".to_owned(), Value::Array(vec![value.clone()]));
            }
            (keyword, _) if ANNOTATIONS.contains(&keyword) || keyword.starts_with("x-") => {}
            (_, said) => {
                base.insert(keyword.clone(), said.clone());
            }
        }
    }
    let mut all = vec![Atom(base)];
    for part in parts {
        if all.len() * part.len() > MOST {
            return Err(format!("it has more than {MOST} forms"));
        }
        let mut product = vec![];
        for one in &all {
            for other in &part {
                product.extend(merge(one, other, side)?);
            }
        }
        all = product;
    }
    Ok(all)
}

fn resolve<'d>(document: &'d Value, reference: &str) -> Option<&'d Value> {
    document.pointer(reference.strip_prefix('#')?)
}

/// What both say; `None` when nothing satisfies both.
fn merge(one: &Atom, other: &Atom, side: Side) -> Result<Option<Atom>, String> {
    let both = |a: &Value, b: &Value| if a == b { a.clone() } else { serde_json::json!({ "allOf": [a, b] }) };
    let mut merged = one.0.clone();
    for (keyword, said) in &other.0 {
        let Some(before) = merged.get(keyword) else {
            merged.insert(keyword.clone(), said.clone());
            continue;
        };
        if before == said {
            continue;
        }
        let now = match (keyword.as_str(), before, said) {
            ("type", before, said) => {
                let (before, said) = (types(before), types(said));
                let kept = |a: &&str, b: &[&str]| b.contains(a) || (**a == *"integer" && b.contains(&"number"));
                let mut types: Vec<&str> = before.iter().filter(|one| kept(one, &said)).copied().collect();
                types.extend(said.iter().filter(|one| kept(one, &before) && !before.contains(one)));
                if types.is_empty() {
                    return Ok(None);
                }
                Value::from(types)
            }
            ("enum", Value::Array(before), Value::Array(said)) => {
                let kept: Vec<Value> = before.iter().filter(|value| said.contains(value)).cloned().collect();
                if kept.is_empty() {
                    return Ok(None);
                }
                Value::from(kept)
            }
            ("required", Value::Array(before), Value::Array(said)) => {
                let new = said.iter().filter(|name| !before.contains(name));
                Value::from(before.iter().chain(new).cloned().collect::<Vec<_>>())
            }
            ("properties" | "patternProperties", Value::Object(before), Value::Object(said)) => {
                let mut all = before.clone();
                for (name, schema) in said {
                    let schema = all.get(name).map_or_else(|| schema.clone(), |before| both(before, schema));
                    all.insert(name.clone(), schema);
                }
                Value::from(all)
            }
            ("additionalProperties" | "items", Value::Bool(false), _)
            | ("additionalProperties" | "items", _, Value::Bool(false)) => Value::Bool(false),
            ("additionalProperties" | "items", before, said) => both(before, said),
            ("minimum" | "exclusiveMinimum" | "minItems" | "minLength", before, said) => {
                if said.as_f64() > before.as_f64() { said.clone() } else { before.clone() }
            }
            ("maximum" | "exclusiveMaximum" | "maxItems" | "maxLength", before, said) => {
                if said.as_f64() < before.as_f64() { said.clone() } else { before.clone() }
            }
            (keyword, ..) => return Err(format!("it says `{keyword}` twice")),
        };
        merged.insert(keyword.clone(), now);
    }
    if side == Side::Reads {
        restrict(&mut merged, one, other);
        restrict(&mut merged, other, one);
    }
    Ok(Some(Atom(merged)))
}

/// What `one` says of the fields that it does not name holds for those that only `other` names.
fn restrict(merged: &mut Map<String, Value>, one: &Atom, other: &Atom) {
    let (Some(rest), Some(Value::Object(properties))) = (one.get("additionalProperties"), merged.get_mut("properties"))
    else {
        return;
    };
    for (name, schema) in other.properties().filter(|(name, _)| one.property(name).is_none()) {
        properties.insert(name.clone(), serde_json::json!({ "allOf": [schema, rest] }));
    }
}

fn types(said: &Value) -> Vec<&str> {
    match said {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    }
}

/// What an alternative writes, one type or one value at a time; `None` when it may be anything.
pub(super) fn pieces(atom: &Atom) -> Option<Vec<Atom>> {
    let with = |keyword: &str, value: Value| {
        let mut piece = atom.clone();
        piece.0.insert(keyword.to_owned(), value);
        piece
    };
    if let Some(values) = atom.values() {
        let fits = |value: &&Value| !atom.has("type") || atom.takes(type_of(value));
        let of = |value: &Value| {
            let mut piece = with("enum", Value::Array(vec![value.clone()]));
            piece.0.insert("type".to_owned(), Value::from(type_of(value)));
            piece
        };
        return Some(values.iter().filter(fits).map(of).collect());
    }
    if let Some(said) = atom.get("type") {
        return Some(types(said).into_iter().map(|one| with("type", Value::from(one))).collect());
    }
    // A schema that speaks of fields speaks of objects.
    let speaks =
        |of: &str| KNOWN.iter().any(|(one, known)| *one == of && known.iter().any(|keyword| atom.has(keyword)));
    ["object", "array"].into_iter().find(|of| speaks(of)).map(|of| vec![with("type", Value::from(of))])
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Atom {
    pub(super) fn get(&self, keyword: &str) -> Option<&Value> {
        self.0.get(keyword)
    }

    pub(super) fn has(&self, keyword: &str) -> bool {
        self.0.contains_key(keyword)
    }

    pub(super) fn is_anything(&self) -> bool {
        self.0.is_empty()
    }

    /// The values that it is limited to.
    pub(super) fn values(&self) -> Option<&[Value]> {
        self.get("enum").and_then(Value::as_array).map(Vec::as_slice)
    }

    /// The type of a piece.
    pub(super) fn one_type(&self) -> &str {
        self.get("type").and_then(Value::as_str).unwrap_or("anything")
    }

    /// Whether values of a type fit.
    pub(super) fn takes(&self, one: &str) -> bool {
        let types = self.get("type").map(types);
        types.is_none_or(|types| types.contains(&one) || (one == "integer" && types.contains(&"number")))
    }

    pub(super) fn properties(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.get("properties").and_then(Value::as_object).into_iter().flatten()
    }

    pub(super) fn property(&self, name: &str) -> Option<&Value> {
        self.get("properties")?.get(name)
    }

    pub(super) fn patterns(&self) -> impl Iterator<Item = (&str, &Value)> {
        let all = self.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
        all.map(|(pattern, schema)| (pattern.as_str(), schema))
    }

    pub(super) fn required(&self) -> impl Iterator<Item = &str> {
        self.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    pub(super) fn count(&self, keyword: &str) -> Option<u64> {
        self.get(keyword).and_then(Value::as_u64)
    }

    /// What stands at the first places, and what at all later ones.
    pub(super) fn elements(&self) -> (&[Value], &Value) {
        let first = self.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        (first, self.get("items").unwrap_or(TRUE))
    }

    /// How many elements are written at most: what is not described is not written.
    pub(super) fn longest(&self) -> Option<u64> {
        let open = self.get("items").is_some_and(|items| *items != false);
        let described = (!open && self.has("prefixItems") || self.get("items").is_some_and(|items| *items == false))
            .then_some(self.elements().0.len() as u64);
        self.count("maxItems").into_iter().chain(described).min()
    }

    /// How many elements are read at most.
    pub(super) fn shortest_limit(&self) -> Option<u64> {
        let closed = self.get("items").is_some_and(|items| *items == false);
        self.count("maxItems").into_iter().chain(closed.then_some(self.elements().0.len() as u64)).min()
    }

    /// What bounds values of a type here, but is not compared.
    pub(super) fn unknown(&self, one: &str) -> impl Iterator<Item = (&String, &Value)> {
        let one = if one == "integer" { "number" } else { one };
        self.0.iter().filter(move |(keyword, _)| {
            let keyword = keyword.as_str();
            let bounding = BOUNDING.iter().find(|(bounding, _)| *bounding == keyword);
            let known = ["type", "enum"].contains(&keyword) || KNOWN.iter().any(|(_, all)| all.contains(&keyword));
            !known && bounding.is_none_or(|(_, of)| *of == one)
        })
    }

    /// For people: `"paid"`, `null`, `{"kind": "card"}`, an integer.
    pub(super) fn describe(&self) -> String {
        if let Some(values) = self.values() {
            return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
        }
        let tag = self.properties().find_map(|(name, schema)| Some(format!("{{{name:?}: {}}}", schema.get("const")?)));
        let sole = || {
            let (mut all, closed) =
                (self.properties(), self.get("additionalProperties").is_some_and(|rest| *rest == false));
            let (name, _) = all.next().filter(|_| closed)?;
            all.next().is_none().then(|| format!("{{{name:?}: ..}}"))
        };
        if let Some(form) = tag.or_else(sole) {
            return form;
        }
        let said = self.get("type").map(types).unwrap_or_default();
        let format =
            self.get("format").and_then(Value::as_str).map(|format| format!(" ({format})")).unwrap_or_default();
        let all: Vec<String> = said
            .iter()
            .map(|one| match *one {
                "null" => "null".to_owned(),
                "string" => format!("a string{format}"),
                "integer" => format!("an integer{format}"),
                "array" | "object" => format!("an {one}"),
                one => format!("a {one}"),
            })
            .collect();
        if all.is_empty() { "something else".to_owned() } else { all.join(" or ") }
    }
}
