//! Mermaid: what GitHub and most documents render by themselves.

use std::collections::BTreeSet;

use saga_core::participant::StepKind;

use crate::{Choreography, flow::FlowStep};

impl Choreography {
    /// A Mermaid flow chart: a box per step, an arrow per event that one step emits and another hears. Dashed arrows compensate.
    pub fn to_mermaid(&self) -> String {
        let flow = self.flow();
        let mut out = String::from("flowchart LR\n");
        let id = |step: &FlowStep<'_>| format!("{}_{}", step.participant, step.declared.step).replace('-', "_");
        for manifest in &self.manifests {
            out += &format!("  subgraph {}\n", manifest.participant);
            for step in flow.steps.iter().filter(|step| step.participant == manifest.participant) {
                let (open, close) = match step.declared.kind {
                    StepKind::Start | StepKind::Request => ("([", "])"),
                    StepKind::External => ("[[", "]]"),
                    StepKind::Gate => ("{{", "}}"),
                    StepKind::Local => ("[", "]"),
                };
                out += &format!("    {}{open}\"{}\"{close}\n", id(step), step.declared.step);
            }
            out += "  end\n";
        }
        let mut endings = BTreeSet::new();
        for step in &flow.steps {
            let from = id(step);
            // A no and a compensation may be told by the same event: one arrow.
            let mut drawn = BTreeSet::new();
            for event in step.published().filter(|event| drawn.insert(*event)) {
                let event = flow.event(event);
                let name = event.label();
                let heard = flow.step_ids().flat_map(|to| {
                    [(event.triggers.contains(&to), to, "-->"), (event.compensates.contains(&to), to, "-.->")]
                });
                for (_, to, arrow) in heard.filter(|(hears, ..)| *hears) {
                    out += &format!("  {from} {arrow}|{name}| {}\n", id(flow.step(to)));
                }
                if let Some(ending) = event.ending() {
                    out += &format!("  {from} -->|{name}| {ending}\n");
                    endings.insert(ending.as_str());
                }
            }
        }
        for ending in endings {
            out += &format!("  {ending}((({ending})))\n");
        }
        out
    }
}
