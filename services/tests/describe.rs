//! What a service says of itself is drawn by the same functions as the README's picture, from the same value.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::Path, process::Command};

use saga_choreography::Choreography;
use saga_core::{Manifest, manifest};
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
    let manifests = SERVICES.map(|program| Manifest::read(&describe(program, &["--json"])).unwrap());
    let choreography = Choreography::from(manifests.concat());
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, section) = readme.split_once("<!-- choreography -->\n").unwrap();
    let (section, _) = section.split_once("<!-- /choreography -->").unwrap();
    assert_eq!(section, format!("```mermaid\n{}```\n\n{}", choreography.to_mermaid(), choreography.to_table()));
}

#[test]
fn the_table_is_the_choreography_s() {
    assert_eq!(describe(SERVICES[0], &[]), manifest::to_table(&[Manifest::of(&order::participant())]));
    assert_eq!(describe(SERVICES[2], &[]), manifest::to_table(&[Manifest::of(&shipping::participant())]));
}

/// Other programs read it: a member that is renamed breaks them.
#[test]
fn the_json_says_everything_that_a_participant_declares() {
    expect_test::expect![[r#"
        {
          "manifest": 1,
          "participant": "shipping",
          "version": "0.1.0",
          "steps": [
            {
              "step": "ship-order",
              "kind": "gate",
              "on": [
                "shop.payment.charged.v1"
              ],
              "emits": [
                "shop.shipment.scheduled.v1"
              ],
              "rejects": [
                "shop.shipment.failed.v1"
              ],
              "compensated_on": [
                "shop.order.cancel-requested.v1"
              ],
              "compensated": [
                "shop.shipment.failed.v1"
              ],
              "retry": {
                "first_ms": 200,
                "cap_ms": 60000,
                "patience_ms": 300000
              },
              "timeout_ms": 30000
            }
          ],
          "events": {
            "shop.order.cancel-requested.v1": {
              "topic": "order",
              "key": "sagaid",
              "reads": {
                "description": "The customer has changed their mind. Whether in time is decided by shipping.",
                "properties": {
                  "order": {
                    "description": "The order's id, a UUID.",
                    "type": "string"
                  }
                },
                "required": [
                  "order"
                ],
                "title": "OrderCancelRequested",
                "type": "object"
              }
            },
            "shop.payment.charged.v1": {
              "topic": "payment",
              "key": "sagaid",
              "reads": {
                "description": "The customer's money is there.",
                "properties": {
                  "cents": {
                    "description": "How much was charged.",
                    "format": "int64",
                    "type": "integer"
                  },
                  "item": {
                    "description": "What was paid for.",
                    "type": "string"
                  },
                  "order": {
                    "description": "The order's id, a UUID.",
                    "type": "string"
                  },
                  "quantity": {
                    "description": "How many.",
                    "format": "int64",
                    "type": "integer"
                  },
                  "receipt": {
                    "description": "The gateway's receipt.",
                    "type": "string"
                  }
                },
                "required": [
                  "order",
                  "item",
                  "quantity",
                  "cents",
                  "receipt"
                ],
                "title": "PaymentCharged",
                "type": "object"
              }
            },
            "shop.shipment.failed.v1": {
              "topic": "shipping",
              "key": "sagaid",
              "writes": {
                "description": "The goods are not there.",
                "properties": {
                  "order": {
                    "description": "The order's id, a UUID.",
                    "type": "string"
                  },
                  "reason": {
                    "description": "Why.",
                    "type": "string"
                  }
                },
                "required": [
                  "order",
                  "reason"
                ],
                "title": "ShipmentFailed",
                "type": "object"
              }
            },
            "shop.shipment.scheduled.v1": {
              "topic": "shipping",
              "key": "sagaid",
              "writes": {
                "description": "The goods will go out.",
                "properties": {
                  "item": {
                    "description": "What goes out.",
                    "type": "string"
                  },
                  "order": {
                    "description": "The order's id, a UUID.",
                    "type": "string"
                  },
                  "quantity": {
                    "description": "How many.",
                    "format": "int64",
                    "type": "integer"
                  }
                },
                "required": [
                  "order",
                  "item",
                  "quantity"
                ],
                "title": "ShipmentScheduled",
                "type": "object"
              }
            }
          }
        }
    "#]]
    .assert_eq(&describe(SERVICES[2], &["--json"]));
}
