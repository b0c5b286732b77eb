//! Mermaid flow charts: what GitHub and most documents render by themselves.

use std::collections::{BTreeMap, BTreeSet};

use saga_core::participant::StepKind;

use super::text::{self, Ids, mermaid};
use crate::Choreography;

impl Choreography {
    /// A Mermaid flow chart: a box per step, an arrow per event that one step emits and another hears. Dashed arrows compensate.
    pub fn to_mermaid(&self) -> String {
        let flow = self.flow();
        let mut out = String::from("flowchart LR\n");
        let mut unique = Ids::default();
        let endings = ["completed", "cancelled"].map(|ending| (ending, unique.unique(ending)));
        let endings = BTreeMap::from(endings);
        let ids: Vec<String> = flow
            .steps
            .iter()
            .map(|step| unique.unique(&format!("{}_{}", step.participant, step.declared.step)))
            .collect();
        // An arrow's text is quoted only where it must be, because that is easier to read.
        let arrow_text = |name: &str| {
            let plain = name.starts_with(char::is_alphabetic) && name.chars().all(char::is_alphanumeric);
            if plain { name.to_owned() } else { format!("\"{}\"", mermaid(name)) }
        };
        let mut drawn = BTreeSet::new();
        for participant in self.manifests.iter().map(|manifest| manifest.participant.as_str()) {
            if !drawn.insert(participant) {
                continue;
            }
            let id = unique.unique(participant);
            let title = if id == participant { String::new() } else { format!("[\"{}\"]", mermaid(participant)) };
            out += &format!("  subgraph {id}{title}\n");
            for (step, id) in flow.steps.iter().zip(&ids).filter(|(step, _)| step.participant == participant) {
                let (open, close) = match step.declared.kind {
                    StepKind::Start | StepKind::Request => ("([", "])"),
                    StepKind::External => ("[[", "]]"),
                    StepKind::Gate => ("{{", "}}"),
                    StepKind::Local => ("[", "]"),
                };
                out += &format!("    {id}{open}\"{}\"{close}\n", mermaid(&step.declared.step));
            }
            out += "  end\n";
        }
        let mut reached = BTreeSet::new();
        for (step, from) in flow.steps.iter().zip(&ids) {
            // A no and a compensation may be told by the same event: one arrow.
            let mut drawn = BTreeSet::new();
            for event in step.published().filter(|event| drawn.insert(*event)) {
                let event = flow.event(event);
                let name = arrow_text(&text::line(&event.label()));
                let heard = flow.step_ids().flat_map(|to| {
                    [(event.triggers.contains(&to), to, "-->"), (event.compensates.contains(&to), to, "-.->")]
                });
                for (_, to, arrow) in heard.filter(|(hears, ..)| *hears) {
                    out += &format!("  {from} {arrow}|{name}| {}\n", ids[to.0]);
                }
                if let Some(ending) = event.ending() {
                    out += &format!("  {from} -->|{name}| {}\n", endings[ending.as_str()]);
                    reached.insert(ending.as_str());
                }
            }
        }
        for ending in reached {
            out += &format!("  {}((({ending})))\n", endings[ending]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::draw::examples::{assert_escaped, small};

    #[test]
    fn a_flow_chart() {
        expect![[r#"
            flowchart LR
              subgraph desk
                desk_book(["book"])
                desk_keep["keep"]
              end
              subgraph bank
                bank_pay[["pay"]]
              end
              desk_book -->|RoomBooked| bank_pay
              desk_book -->|RoomFreed| cancelled
              desk_keep -->|RoomKept| completed
              bank_pay -->|RoomPaid| desk_keep
              bank_pay -.->|RoomRefused| desk_book
              cancelled(((cancelled)))
              completed(((completed)))
        "#]]
        .assert_eq(&small().to_mermaid());
    }

    #[test]
    fn names_break_nothing() {
        assert_escaped(|choreography| choreography.to_mermaid(), &['{', '<', '>', '|', '%']);
        assert_escaped(|choreography| choreography.to_table().replace("\\|", ""), &['|', '<']);
    }
}
