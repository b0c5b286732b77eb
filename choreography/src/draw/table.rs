//! The choreography canvas: a Markdown table with one row per step, and what the whole makes of each.

use saga_core::manifest::to_table_with;

use crate::Choreography;

impl Choreography {
    /// A Markdown table with one row per step: what it declares, and its [role](crate::flow::Role), which only the whole shows.
    pub fn to_table(&self) -> String {
        let flow = self.flow();
        let role = |participant: &str, name: &str| {
            let id = flow.step_ids().find(|id| {
                let step = flow.step(*id);
                step.participant == participant && step.declared.step == name
            });
            id.map_or("", |id| flow.role(id).as_str()).to_owned()
        };
        to_table_with(&self.manifests, Some(("role", &role)))
    }
}
