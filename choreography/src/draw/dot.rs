//! DOT: what Graphviz reads, and many tools that draw large graphs.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::visit::EdgeRef as _;
use saga_core::{event::Ending, participant::StepKind};

use super::text::{self, dot};
use crate::{
    Choreography,
    flow::{Arrow, Node},
};

impl Choreography {
    /// A Graphviz graph: boxes are steps, grouped by participant, with their compensations dashed; ellipses are events.
    pub fn to_dot(&self) -> String {
        let flow = self.flow();
        let mut out = String::from(
            "digraph choreography {\n  rankdir=LR;\n  node [fontname=\"Helvetica\", fontsize=11];\n  edge [color=\"#555555\"];\n",
        );
        let name = |node: Node| match node {
            Node::Event(id) => format!("event{}", id.0),
            Node::Forward(id) => format!("step{}", id.0),
            Node::Compensation(id) => format!("compensation{}", id.0),
        };
        let mut clusters = BTreeSet::new();
        for participant in self.manifests.iter().map(|manifest| manifest.participant.as_str()) {
            if !clusters.insert(participant) {
                continue;
            }
            out += &format!(
                "  subgraph cluster{} {{\n    label={};\n    style=rounded;\n",
                clusters.len(),
                dot(participant)
            );
            for id in flow.step_ids().filter(|id| flow.step(*id).participant == participant) {
                let step = flow.step(id);
                let shape = match step.declared.kind {
                    StepKind::Start | StepKind::Request => "box, style=rounded",
                    StepKind::External => "box, peripheries=2",
                    StepKind::Gate => "hexagon",
                    StepKind::Local => "box",
                };
                out +=
                    &format!("    {} [label={}, shape={shape}];\n", name(Node::Forward(id)), dot(&step.declared.step));
                if flow.index(Node::Compensation(id)).is_some() {
                    let label = dot(&format!("compensate {}", step.declared.step));
                    let node = name(Node::Compensation(id));
                    out += &format!("    {node} [label={label}, shape=box, style=dashed];\n");
                }
            }
            out += "  }\n";
        }
        for id in flow.event_ids() {
            let event = flow.event(id);
            let ending = match event.ending() {
                Some(Ending::Completed) => ", peripheries=2, color=\"#1a7f37\"",
                Some(Ending::Cancelled) => ", peripheries=2, color=\"#b35900\"",
                None => "",
            };
            let (node, label, tip) = (name(Node::Event(id)), dot(&text::line(&event.label())), dot(event.name));
            out += &format!("  {node} [label={label}, tooltip={tip}, shape=ellipse{ending}];\n");
        }
        // Sorted, because the graph's own order is that of its making.
        let mut edges = BTreeMap::new();
        for edge in flow.graph.edge_references() {
            edges.insert((flow.graph[edge.source()], flow.graph[edge.target()], *edge.weight()), ());
        }
        for (from, to, arrow) in edges.into_keys() {
            let style = match (from, to, arrow) {
                (_, _, Arrow::Rejects) => " [color=\"#b35900\", label=\"no\", fontsize=9]",
                (Node::Compensation(_), ..) | (_, Node::Compensation(_), _) => " [style=dashed]",
                _ => "",
            };
            out += &format!("  {} -> {}{style};\n", name(from), name(to));
        }
        out + "}\n"
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::draw::examples::{assert_escaped, small};

    #[test]
    fn a_graph() {
        expect![[r##"
            digraph choreography {
              rankdir=LR;
              node [fontname="Helvetica", fontsize=11];
              edge [color="#555555"];
              subgraph cluster1 {
                label="desk";
                style=rounded;
                step0 [label="book", shape=box, style=rounded];
                compensation0 [label="compensate book", shape=box, style=dashed];
                step1 [label="keep", shape=box];
              }
              subgraph cluster2 {
                label="bank";
                style=rounded;
                step2 [label="pay", shape=box, peripheries=2];
              }
              event0 [label="RoomBooked", tooltip="shop.room.booked.v1", shape=ellipse];
              event1 [label="RoomFreed", tooltip="shop.room.freed.v1", shape=ellipse, peripheries=2, color="#b35900"];
              event2 [label="RoomKept", tooltip="shop.room.kept.v1", shape=ellipse, peripheries=2, color="#1a7f37"];
              event3 [label="RoomPaid", tooltip="shop.room.paid.v1", shape=ellipse];
              event4 [label="RoomRefused", tooltip="shop.room.refused.v1", shape=ellipse];
              event0 -> step2;
              event3 -> step1;
              event4 -> compensation0 [style=dashed];
              step0 -> event0;
              step1 -> event2;
              step2 -> event3;
              step2 -> event4 [color="#b35900", label="no", fontsize=9];
              compensation0 -> event1 [style=dashed];
            }
        "##]]
        .assert_eq(&small().to_dot());
    }

    #[test]
    fn names_break_nothing() {
        assert_escaped(|choreography| choreography.to_dot().replace("\\\\", "").replace("\\\"", ""), &['"']);
    }
}
