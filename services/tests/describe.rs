//! What a service says of itself is drawn by the same functions as the README's picture, from the same value.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::Path, process::Command};

use saga_core::{Choreography, choreography::Part};
use saga_services::{order, shipping};

/// The programs of the samples, in the order of the README.
const SERVICES: [&str; 3] =
    [env!("CARGO_BIN_EXE_order"), env!("CARGO_BIN_EXE_payment"), env!("CARGO_BIN_EXE_shipping")];

fn describe(program: &str, more: &[&str]) -> String {
    let output = Command::new(program).arg("describe").args(more).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Nobody needs more than what three services print to draw the whole: this is the README's section, to the letter.
#[test]
fn three_descriptions_are_the_readme() {
    let parts = SERVICES.map(|program| serde_json::from_str::<Part>(&describe(program, &["--json"])).unwrap());
    let choreography = Choreography { parts: parts.to_vec() };
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, section) = readme.split_once("<!-- choreography -->\n").unwrap();
    let (section, _) = section.split_once("<!-- /choreography -->").unwrap();
    assert_eq!(section, format!("```mermaid\n{}```\n\n{}", choreography.to_mermaid(), choreography.to_table()));
}

#[test]
fn the_table_is_the_choreography_s() {
    assert_eq!(describe(SERVICES[0], &[]), Choreography::of([&order::participant()]).to_table());
    assert_eq!(describe(SERVICES[2], &[]), Choreography::of([&shipping::participant()]).to_table());
}

/// Other programs read it: a member that is renamed breaks them.
#[test]
fn the_json_says_everything_that_a_participant_declares() {
    expect_test::expect![[r#"
        {
          "participant": "shipping",
          "listens_to": [
            "order",
            "payment"
          ],
          "publishes_on": [
            "shipping"
          ],
          "steps": [
            {
              "step": "ship-order",
              "kind": "gate",
              "trigger": [
                {
                  "type": "shop.payment.charged.v1",
                  "topic": "payment"
                }
              ],
              "emits": [
                {
                  "type": "shop.shipment.scheduled.v1",
                  "topic": "shipping"
                }
              ],
              "rejects": [
                {
                  "type": "shop.shipment.failed.v1",
                  "topic": "shipping"
                }
              ],
              "compensated_on": [
                {
                  "type": "shop.order.cancel-requested.v1",
                  "topic": "order"
                }
              ],
              "compensated": [
                {
                  "type": "shop.shipment.failed.v1",
                  "topic": "shipping"
                }
              ],
              "retry": "exponential 200ms..60s, forever"
            }
          ]
        }
    "#]]
    .assert_eq(&describe(SERVICES[2], &["--json"]));
}
