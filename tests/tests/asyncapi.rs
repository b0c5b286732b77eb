//! What this toolkit writes for other people's tools is read by other people's tools: AsyncAPI documents by AsyncAPI's own parser,
//! manifests by a validator of JSON Schema.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::Path};

use saga_choreography::Choreography;
use saga_core::Manifest;
use saga_services::{gateway::GatewayClient, order, payment, shipping};
use saga_tests::support::require_node;
use serde_json::{Value, json};

fn samples() -> Vec<Manifest> {
    let gateway = GatewayClient::new("http://127.0.0.1:1").unwrap();
    let cast = [order::participant(), payment::participant(gateway), shipping::participant()];
    Choreography::of(&cast).manifests
}

/// Names that mean something in a pointer, in a key, in JSON; and a body that contains itself, which schemas refer to.
fn hostile() -> Manifest {
    let tree = json!({
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/Tree"}, "whole": {"$ref": "#"}, "default": {"type": "string", "default": "#"}},
        "$defs": {"Tree": {"type": ["object", "null"], "properties": {"left": {"$ref": "#/$defs/Tree"}}}},
    });
    let name = |name: &str| format!("{name}/~1\"<b>{{}}\n$#%");
    let (asked, answered) = (name("asked"), name("answered"));
    let manifest = json!({
        "manifest": 1, "participant": name("clerk"), "version": name("1"), "group": name("group"),
        "steps": [{"step": name("answer"), "kind": "local", "on": [asked], "emits": [answered, name("undeclared")]}],
        "events": {
            &asked: {"topic": name("topic"), "reads": tree},
            &answered: {"topic": name("topic"), "key": "orderid", "ending": "completed", "writes": true},
        },
    });
    Manifest::read(&manifest.to_string()).unwrap().remove(0)
}

#[tokio::test]
async fn others_read_the_documents_and_the_manifests() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("asyncapi");
    let Some(node) = require_node(&project).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let write = |name: String, value: &Value| fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("manifest.schema.json".to_owned(), &Manifest::json_schema());
    let mut manifests = samples();
    write("all.asyncapi.json".to_owned(), &Choreography::from(manifests.clone()).to_asyncapi());
    manifests.push(hostile());
    for (i, manifest) in manifests.iter().enumerate() {
        write(format!("{i}.manifest.json"), &serde_json::to_value(manifest).unwrap());
        write(format!("{i}.asyncapi.json"), &Choreography::from(vec![manifest.clone()]).to_asyncapi());
    }
    write("all-and-hostile.asyncapi.json".to_owned(), &Choreography::from(manifests.clone()).to_asyncapi());
    let mut document = Choreography::from(manifests.clone()).to_asyncapi();
    document["operations"]["order.send.order"]["action"] = json!("shout");
    write("broken-action.asyncapi.json".to_owned(), &document);
    let mut document = Choreography::from(manifests.clone()).to_asyncapi();
    document["components"]["schemas"].as_object_mut().unwrap().remove("shop.order.placed.v1").unwrap();
    write("broken-reference.asyncapi.json".to_owned(), &document);
    let mut manifest = serde_json::to_value(&manifests[0]).unwrap();
    manifest["steps"][0]["kind"] = json!("elsewhere");
    write("broken-kind.manifest.json".to_owned(), &manifest);

    let printed = node.run("check.mjs", dir.path()).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(printed.matches("ok ").count(), 2 * manifests.len() + 5, "{printed}");
}
