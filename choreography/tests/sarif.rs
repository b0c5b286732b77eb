//! What code hosts are given is SARIF 2.1.0 by the official schema.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use boon::{Compiler, Schemas};
use saga_choreography::{
    Choreography, Code, Options, Report,
    report::Policy,
    sarif::{Source, log},
};
use saga_core::Manifest;
use serde_json::{Value, json};

/// The sagas of `order` stop: nobody answers. And nobody hears what `mail` says.
const ORDER: &str = r#"{
  "manifest": 1,
  "participant": "order",
  "steps": [
    {
      "step": "place-order",
      "kind": "start",
      "emits": ["order.placed.v1"]
    }
  ],
  "events": { "order.placed.v1": { "topic": "order" } }
}"#;
const MAIL: &str = r#"{"manifest":1,"participant":"mail","steps":[{"step":"send","kind":"local","on":["order.placed.v1"],
"emits":["mail.sent.v1"]}],"events":{"order.placed.v1":{"topic":"order"},"mail.sent.v1":{"topic":"mail"}}}"#;

fn report(options: &Options) -> Report {
    Choreography::from([ORDER, MAIL].map(|json| Manifest::read(json).unwrap()).concat()).verify(options)
}

fn sarif(report: &Report) -> Value {
    let source = |participant: &str, file: &str, text: &str| Source {
        participant: participant.to_owned(),
        file: file.to_owned(),
        text: text.to_owned(),
    };
    serde_json::to_value(log(report, &[source("order", "of order/1.json", ORDER), source("mail", "mail.json", MAIL)]))
        .unwrap()
}

fn valid(log: &Value) -> Result<(), String> {
    let schema: Value = serde_json::from_str(include_str!("sarif/sarif-schema-2.1.0.json")).unwrap();
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("sarif.json", schema).unwrap();
    compiler.enable_format_assertions();
    let schema = compiler.compile("sarif.json", &mut schemas).unwrap();
    schemas.validate(log, schema).map_err(|error| format!("{error:#}"))
}

#[test]
fn a_report_is_sarif_by_the_official_schema() {
    let unexplored = Options { explore: None, ..Options::default() };
    let allow = [Code::NoEnding, Code::Unheard].into();
    let allowed = Options { policy: Policy { allow, ..Policy::default() }, ..Options::default() };
    for options in [Options::default(), unexplored, allowed] {
        let sarif = sarif(&report(&options));
        assert!(!sarif["runs"][0]["results"].as_array().unwrap().is_empty());
        valid(&sarif).unwrap();
    }
    let mut broken = sarif(&report(&Options::default()));
    broken["runs"][0]["results"][0]["level"] = json!("bad");
    assert!(valid(&broken).is_err(), "the schema refuses nothing");
}

#[test]
fn a_finding_is_shown_at_its_step_and_keeps_its_fingerprint() {
    let report = report(&Options::default());
    let sarif = sarif(&report);
    let run = &sarif["runs"][0];
    for (result, finding) in run["results"].as_array().unwrap().iter().zip(&report.findings) {
        assert_eq!(result["ruleId"], finding.code.name());
        let rule = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(run["tool"]["driver"]["rules"][rule]["id"], finding.code.name());
        let place = &result["locations"][0]["physicalLocation"];
        let (file, line) = match (finding.participant.as_str(), &finding.step) {
            ("order", Some(_)) => ("of%20order/1.json", 6),
            ("order", None) => ("of%20order/1.json", 3),
            _ => ("mail.json", 1),
        };
        assert_eq!((&place["artifactLocation"]["uri"], &place["region"]["startLine"]), (&json!(file), &json!(line)));
        let fingerprint = result["partialFingerprints"]["primaryLocationLineHash"].as_str().unwrap();
        assert!(fingerprint.starts_with(&format!("{}/{}/", finding.code, finding.participant)), "{fingerprint}");
    }
    let again = serde_json::to_string(&sarif).unwrap();
    assert_eq!(again, serde_json::to_string(&self::sarif(&report)).unwrap());
}

#[test]
fn what_is_allowed_is_kept_as_suppressed() {
    let allow = Code::ALL.iter().copied().collect();
    let report = report(&Options { policy: Policy { allow, ..Policy::default() }, ..Options::default() });
    assert!(report.findings.is_empty() && !report.allowed.is_empty());
    let sarif = sarif(&report);
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), report.allowed.len());
    assert!(results.iter().all(|result| result["suppressions"][0]["kind"] == "external"));
}
