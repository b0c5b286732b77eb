//! Schemas are compared against the truth: real serde types, written by each and read by each. Without a mismatch everything that
//! was written is read; with one, something that was written is not.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::{BTreeMap, BTreeSet};

use saga_choreography::schema::{Mismatch, mismatches};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The values of a type at which reading may go wrong: the ends of ranges, nothing, empty, every form.
trait Corners: Sized {
    fn corners() -> Vec<Self>;
}

macro_rules! corners {
    ($($of:ty => [$($value:expr),+ $(,)?];)+) => {$(
        impl Corners for $of { fn corners() -> Vec<Self> { vec![$($value),+] } }
    )+};
}

corners! {
    bool => [true, false];
    String => [String::new(), "text".to_owned(), "card".to_owned()];
    char => ['c'];
    u8 => [0, u8::MAX];
    i32 => [i32::MIN, 0, i32::MAX];
    u32 => [0, u32::MAX];
    i64 => [i64::MIN, 0, i64::MAX];
    u64 => [0, u64::MAX];
    f64 => [-0.5, 1e30];
    uuid::Uuid => [uuid::Uuid::nil()];
    [i64; 2] => [[i64::MIN, i64::MAX]];
}

impl<T: Corners> Corners for Option<T> {
    fn corners() -> Vec<Self> {
        T::corners().into_iter().map(Some).chain([None]).collect()
    }
}

impl<T: Corners> Corners for Vec<T> {
    fn corners() -> Vec<Self> {
        T::corners().into_iter().map(|one| vec![one]).chain([vec![], T::corners()]).collect()
    }
}

impl<T: Corners + Ord> Corners for BTreeSet<T> {
    fn corners() -> Vec<Self> {
        Vec::corners().into_iter().map(|all: Vec<T>| all.into_iter().collect()).collect()
    }
}

impl<K: Corners + Ord, V: Corners> Corners for BTreeMap<K, V> {
    fn corners() -> Vec<Self> {
        let of = |key: K| V::corners().into_iter().next().map(|value| (key, value));
        let mut all: Vec<Self> = K::corners().into_iter().filter_map(of).map(|entry| [entry].into()).collect();
        all.extend(V::corners().into_iter().filter_map(|value| Some([(K::corners().pop()?, value)].into())));
        all.push(Self::new());
        all
    }
}

impl<A: Corners, B: Corners> Corners for (A, B) {
    fn corners() -> Vec<Self> {
        let both =
            |i| B::corners().into_iter().filter_map(move |second| Some((A::corners().into_iter().nth(i)?, second)));
        (0..A::corners().len()).flat_map(both).collect()
    }
}

impl<A: Corners, B: Corners, C: Corners> Corners for (A, B, C) {
    fn corners() -> Vec<Self> {
        <(A, (B, C))>::corners().into_iter().map(|(a, (b, c))| (a, b, c)).collect()
    }
}

macro_rules! bodies {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $of:ty),* })+) => {
        $(
            #[derive(Serialize, Deserialize, JsonSchema)]
            $(#[$meta])*
            struct $name { $($(#[$field_meta])* $field: $of),* }
            impl Corners for $name {
                fn corners() -> Vec<Self> {
                    let most = [1, $(<$of>::corners().len()),*].into_iter().max().unwrap();
                    // The fields turn through their corners at different speeds, so that they meet.
                    let of = |i: usize| {
                        let _turn = i;
                        $(let _turn = _turn + i / most;
                        let mut corners = <$of>::corners();
                        let $field = corners.swap_remove(_turn % corners.len());)*
                        $name { $($field),* }
                    };
                    (0..most * 3).map(of).collect()
                }
            }
        )+
        /// Every struct, as what it writes and what it reads.
        fn structs() -> Vec<Body> {
            vec![$(body::<$name>(stringify!($name))),+]
        }
    };
}

bodies! {
    Empty {}
    Text { a: String }
    TextTwo { a: String, b: String }
    TextMaybe { a: Option<String> }
    TextSkipped { #[serde(default, skip_serializing_if = "Option::is_none")] a: Option<String> }
    TextDefault { #[serde(default)] a: String }
    #[serde(deny_unknown_fields)]
    TextStrict { a: String }
    #[serde(deny_unknown_fields)]
    MaybeStrict { a: Option<String>, b: Option<String> }
    #[serde(rename_all = "UPPERCASE")]
    Renamed { a: String }
    Letter { a: char }
    Id { a: uuid::Uuid }
    Flag { a: bool }
    Byte { a: u8 }
    Int { a: i32 }
    Natural { a: u32 }
    Long { a: i64 }
    Huge { a: u64 }
    Float { a: f64 }
    IntMaybe { a: Option<i32> }
    Ints { a: Vec<i32> }
    Longs { a: Vec<i64> }
    LongSet { a: BTreeSet<i64> }
    LongsMaybe { a: Vec<Option<i64>> }
    Pair { a: (i64, String) }
    LongPair { a: (i64, i64) }
    Triple { a: (i64, i64, i64) }
    Two { a: [i64; 2] }
    Inner { a: Text }
    InnerTwo { a: TextTwo }
    InnerList { a: Vec<TextTwo> }
    InnerOptional { a: Option<Text> }
    Map { a: BTreeMap<String, i64> }
    MapInt { a: BTreeMap<String, i32> }
    MapByNumber { a: BTreeMap<u32, i64> }
    MapOfText { a: BTreeMap<String, Text> }
    Pay { a: Method }
    PayMore { a: MethodMore }
    PayTagged { a: Tagged }
    PayTaggedMore { a: TaggedMore }
    PayOuter { a: Outer }
    PayOuterLess { a: OuterLess }
    PayAdjacent { a: Adjacent }
    PayUntagged { a: Untagged }
    Flat { #[serde(flatten)] a: Text, b: i64 }
    FlatTag { b: i64, #[serde(flatten)] a: Tagged }
    FlatOuter { #[serde(flatten)] a: Outer }
    FlatMap { a: String, #[serde(flatten)] rest: BTreeMap<String, String> }
    Tree { a: String, below: Vec<Leaves> }
    TreeOfNumbers { a: String, below: Vec<NumberLeaves> }
}

macro_rules! enums {
    ($($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $variant:ident $(($of:ty))? $({ $field:ident: $field_of:ty })?),+ }
        = [$($value:expr),+];)+) => {$(
        #[derive(Serialize, Deserialize, JsonSchema)]
        $(#[$meta])*
        enum $name { $($(#[$about])* $variant $(($of))? $({ $field: $field_of })?),+ }
        impl Corners for $name { fn corners() -> Vec<Self> { vec![$($value),+] } }
    )+};
}

enums! {
    #[serde(rename_all = "lowercase")]
    Method { Card, Cash } = [Method::Card, Method::Cash];
    // A variant with a description is written by schemars in another way.
    #[serde(rename_all = "lowercase")]
    MethodMore { #[doc = "Coins."] Coin, Card, Cash } = [MethodMore::Coin, MethodMore::Card, MethodMore::Cash];
    #[serde(tag = "kind")]
    Tagged { Card { number: String }, Cash } = [Tagged::Card { number: "1".to_owned() }, Tagged::Cash];
    #[serde(tag = "kind")]
    TaggedMore { Card { number: String }, Cash, Coin { cents: i64 } } =
        [TaggedMore::Card { number: "1".to_owned() }, TaggedMore::Cash, TaggedMore::Coin { cents: -1 }];
    Outer { Card(String), Cash, Coin { cents: i64 } } =
        [Outer::Card("1".to_owned()), Outer::Cash, Outer::Coin { cents: i64::MIN }];
    OuterLess { Card(String), Coin { cents: u32 } } = [OuterLess::Card("1".to_owned()), OuterLess::Coin { cents: 0 }];
    #[serde(tag = "t", content = "c")]
    Adjacent { Card(String), Cash } = [Adjacent::Card("1".to_owned()), Adjacent::Cash];
    #[serde(untagged)]
    Untagged { Number(i64), Word(String) } = [Untagged::Number(-1), Untagged::Word("w".to_owned())];
}

/// Refers to itself, so that it stands in `$defs`.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Leaves {
    a: String,
    below: Vec<Leaves>,
}

/// The same, but its leaves are numbers.
#[derive(Serialize, Deserialize, JsonSchema)]
struct NumberLeaves {
    a: i64,
    below: Vec<NumberLeaves>,
}

impl Corners for Leaves {
    fn corners() -> Vec<Self> {
        let leaf = || Leaves { a: "leaf".to_owned(), below: vec![] };
        vec![Leaves { a: "root".to_owned(), below: vec![leaf(), leaf()] }]
    }
}

impl Corners for NumberLeaves {
    fn corners() -> Vec<Self> {
        vec![NumberLeaves { a: 1, below: vec![NumberLeaves { a: 2, below: vec![] }] }]
    }
}

struct Body {
    name: &'static str,
    writes: Value,
    reads: Value,
    written: Vec<Value>,
    read: fn(&Value) -> Result<(), serde_json::Error>,
}

fn body<T: Corners + Serialize + DeserializeOwned + JsonSchema>(name: &'static str) -> Body {
    let schema = |settings: SchemaSettings| {
        let inlined = settings.with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        inlined.into_generator().into_root_schema_for::<T>().to_value()
    };
    Body {
        name,
        writes: schema(SchemaSettings::draft2020_12().for_serialize()),
        reads: schema(SchemaSettings::draft2020_12().for_deserialize()),
        written: T::corners().iter().map(|value| serde_json::to_value(value).unwrap()).collect(),
        read: |value| serde_json::from_str::<T>(&value.to_string()).map(|_| ()),
    }
}

#[test]
fn what_is_written_can_be_read_exactly_where_no_mismatch_is_found() {
    let bodies = structs();
    let mut wrong = vec![];
    let (mut fit, mut refused) = (0, 0);
    for writer in &bodies {
        for reader in &bodies {
            let found = mismatches(&writer.writes, &reader.reads);
            let failed = writer.written.iter().find_map(|value| Some((value, (reader.read)(value).err()?)));
            let pair = format!("{} read as {}", writer.name, reader.name);
            match (found.is_empty(), failed) {
                (true, Some((value, error))) => wrong.push(format!("{pair}: nothing found, but {value}: {error}")),
                // The schema cannot say that a field which may be left out is left out whenever it is null.
                (false, None) if pair == "TextSkipped read as TextDefault" => refused += 1,
                (false, None) if found.iter().any(|mismatch| mismatch.compared) => {
                    wrong.push(format!("{pair}: all was read, but {}", found[0]));
                }
                (true, None) => fit += 1,
                (false, _) => refused += 1,
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(fit > 0 && refused > 0, "{fit} pairs fit, {refused} do not: too few of one kind to mean anything");
}

fn told(writes: &Value, reads: &Value) -> String {
    mismatches(writes, reads).iter().map(Mismatch::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_mismatch_says_where_and_what() {
    let lines = |cents: Value, required: &[&str]| {
        let line = json!({ "type": "object", "properties": { "cents": cents }, "required": required });
        let properties = json!({ "lines": { "type": "array", "items": line } });
        json!({ "type": "object", "properties": properties, "required": ["lines"] })
    };
    let int64 = || json!({ "type": "integer", "format": "int64" });
    let uint32 = || json!({ "type": "integer", "format": "uint32", "minimum": 0 });
    expect_test::expect!["$.lines[].cents: a smaller or a greater number may be written (int64) than is read (uint32)"]
        .assert_eq(&told(&lines(int64(), &["cents"]), &lines(uint32(), &[])));
    expect_test::expect!["$.lines[].cents: a string may be written, but an integer (int64) is read"]
        .assert_eq(&told(&lines(json!({"type": "string"}), &["cents"]), &lines(int64(), &["cents"])));
    expect_test::expect!["$.lines[].cents: may be left out, but is required"]
        .assert_eq(&told(&lines(int64(), &[]), &lines(int64(), &["cents"])));
    let kinds = |kinds: &[&str]| {
        let of = |kind: &&str| json!({ "type": "object", "properties": { "kind": { "const": kind } }, "required": ["kind"] });
        json!({ "oneOf": kinds.iter().map(of).collect::<Vec<_>>() })
    };
    expect_test::expect![[r#"$: {"kind": "coin"} may be written, but {"kind": "card"} or {"kind": "cash"} is read"#]]
        .assert_eq(&told(&kinds(&["card", "coin"]), &kinds(&["card", "cash"])));
    expect_test::expect!["$: anything may be written, but a string is read"]
        .assert_eq(&told(&json!(true), &json!({ "type": "string" })));
}

#[test]
fn what_cannot_be_compared_is_said() {
    for (writes, reads) in [
        (json!({ "type": "string" }), json!({ "type": "string", "pattern": "^[0-9]+$" })),
        (json!({ "type": "integer" }), json!({ "type": "integer", "multipleOf": 5 })),
        (json!({ "type": "object" }), json!({ "type": "object", "minProperties": 1 })),
        (json!({ "type": "string" }), json!({ "type": "string", "not": { "const": "x" } })),
        (json!({ "type": "string" }), json!({ "$ref": "https://example.org/text" })),
        (json!({ "type": "string", "if": true, "then": {} }), json!({ "type": "string" })),
        (json!({ "type": "string" }), json!({ "type": "string", "of-the-future": 1 })),
    ] {
        let found = mismatches(&writes, &reads);
        assert_eq!(
            found.iter().map(|found| found.compared).collect::<Vec<_>>(),
            [false],
            "{writes} {reads}: {found:?}"
        );
    }
    // The same words on both sides mean the same, whatever they mean.
    let same = json!({ "type": "string", "pattern": "^[0-9]+$" });
    assert_eq!(mismatches(&same, &same), []);
}
