//! Where the boxes of a picture stand: participants as lanes side by side, time as layers from top to bottom.
//!
//! ```text
//! layer 0   step ─┐            every arrow goes from a layer to the next one; a longer one has a bend in each layer
//! layer 1       event ──┐      between, and a bend has its place like a box, so no arrow goes through a box
//! layer 2             step
//! ```
//!
//! The invariant: boxes of one lane and layer keep their order and their distance, and stay in their lane.

use std::collections::BTreeMap;

use petgraph::visit::EdgeRef as _;
use saga_core::participant::StepKind;

use crate::{
    Flow,
    flow::{Arrow, Node},
};

/// Between two things in one lane and layer.
const GAP: f64 = 18.0;
/// What a bend takes up.
const BEND: f64 = 8.0;
/// Between the edge of a lane and what is in it.
const PADDING: f64 = 20.0;
/// What is not further to the side is meant to be straight.
const NEARLY: f64 = 24.0;
/// Rounds of ordering. Small pictures stop improving after three; this is no cost.
const ROUNDS: usize = 12;
/// Rounds of moving. Each brings a long arrow nearer to a straight line.
const SETTLING: usize = 200;

/// A box, or the bend of an arrow.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Nothing for a bend.
    pub(super) node: Option<Node>,
    pub(super) lane: usize,
    pub(super) layer: usize,
    pub(super) width: f64,
    /// Its middle.
    pub(super) x: f64,
}

/// An arrow, and the places that it goes through, from its first to its last.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) from: Node,
    pub(super) to: Node,
    pub(super) arrow: Arrow,
    /// From above to below; only in a circle of events is the last one its start.
    pub(super) through: Vec<usize>,
    /// It goes up.
    pub(super) backwards: bool,
}

#[derive(Debug)]
pub(super) struct Lane<'m> {
    pub(super) participant: &'m str,
    pub(super) left: f64,
    pub(super) width: f64,
}

#[derive(Debug)]
pub(super) struct Layout<'m> {
    pub(super) lanes: Vec<Lane<'m>>,
    pub(super) places: Vec<Place>,
    pub(super) routes: Vec<Route>,
    /// The places of each layer from left to right.
    pub(super) layers: Vec<Vec<usize>>,
}

impl<'m> Layout<'m> {
    /// `width` tells how wide a box is, `title` how wide a lane has to be for its name.
    pub(super) fn of(flow: &Flow<'m>, width: impl Fn(Node) -> f64, title: impl Fn(&str) -> f64) -> Self {
        let mut nodes: Vec<Node> = flow.graph.node_weights().copied().collect();
        // Steps in their order, each before its compensation; a start comes before what only joins.
        nodes.sort_by_key(|node| match *node {
            Node::Forward(id) => (flow.step(id).declared.kind != StepKind::Start, id.0, 0),
            Node::Compensation(id) => (true, id.0, 1),
            Node::Event(id) => (true, usize::MAX, id.0),
        });
        let index: BTreeMap<Node, usize> = nodes.iter().enumerate().map(|(i, node)| (*node, i)).collect();
        let mut edges: Vec<(usize, usize, Arrow)> = flow
            .graph
            .edge_references()
            .map(|edge| (index[&flow.graph[edge.source()]], index[&flow.graph[edge.target()]], *edge.weight()))
            .collect();
        edges.sort_unstable();
        // A step that says no and is done by the same event has one arrow.
        edges.dedup_by_key(|(from, to, _)| (*from, *to));
        let backwards = backwards(nodes.len(), &edges);
        let layer_of = layers(nodes.len(), &edges, &backwards);

        let owner = |node: Node| match node {
            Node::Forward(id) | Node::Compensation(id) => flow.step(id).participant,
            Node::Event(id) => {
                let event = flow.event(id);
                let steps = event.published_by.iter().chain(&event.triggers).chain(&event.compensates);
                let by_step = steps.map(|step| flow.step(*step).participant).next();
                by_step.or(event.known.first().map(|(name, _)| *name)).unwrap_or_default()
            }
        };
        // Who comes first in the saga stands left.
        let mut names: Vec<(usize, usize, &'m str)> = Vec::new();
        for (i, manifest) in flow.manifests.iter().enumerate() {
            let name = manifest.participant.as_str();
            let own = nodes.iter().zip(&layer_of).filter(|(node, _)| owner(**node) == name);
            let first = own.map(|(_, layer)| *layer).min().unwrap_or(usize::MAX);
            if names.iter().all(|(.., other)| *other != name) {
                names.push((first, i, name));
            }
        }
        names.sort_unstable();
        let lane_of = |node: Node| names.iter().position(|(.., name)| *name == owner(node)).unwrap_or_default();

        let place = |(node, layer): (&Node, &usize)| Place {
            node: Some(*node),
            lane: lane_of(*node),
            layer: *layer,
            width: width(*node),
            x: 0.0,
        };
        let mut places: Vec<Place> = nodes.iter().zip(&layer_of).map(place).collect();
        let mut routes = Vec::new();
        for ((from, to, arrow), backwards) in edges.iter().zip(&backwards) {
            let (above, below) = if *backwards { (*to, *from) } else { (*from, *to) };
            let mut through = vec![above];
            // It crosses over to the lane of whoever hears it at once, and waits there.
            for layer in places[above].layer + 1..places[below].layer {
                through.push(places.len());
                places.push(Place { node: None, lane: places[below].lane, layer, width: BEND, x: 0.0 });
            }
            through.push(below);
            if above != below {
                routes.push(Route {
                    from: nodes[*from],
                    to: nodes[*to],
                    arrow: *arrow,
                    through,
                    backwards: *backwards,
                });
            }
        }
        let count = places.iter().map(|place| place.layer + 1).max().unwrap_or_default();
        let mut layers = vec![Vec::new(); count];
        for (i, place) in places.iter().enumerate() {
            layers[place.layer].push(i);
        }
        let mut lanes: Vec<Lane<'m>> = Vec::new();
        let mut left = 0.0;
        for (lane, (.., name)) in names.iter().enumerate() {
            let full = |layer: &Vec<usize>| {
                let widths =
                    layer.iter().filter(|place| places[**place].lane == lane).map(|place| places[*place].width);
                widths.map(|width| width + GAP).sum::<f64>() - GAP
            };
            let inner = layers.iter().map(full).fold(title(name), f64::max).ceil();
            lanes.push(Lane { participant: name, left, width: inner + 2.0 * PADDING });
            left += inner + 2.0 * PADDING;
        }
        let mut layout = Self { lanes, places, routes, layers };
        layout.arrange();
        layout
    }

    /// Orders each layer so that few arrows cross, then lets everything move to where its neighbours are.
    fn arrange(&mut self) {
        let mut above = vec![Vec::new(); self.places.len()];
        let mut below = vec![Vec::new(); self.places.len()];
        for pair in self.routes.iter().flat_map(|route| route.through.windows(2)) {
            below[pair[0]].push(pair[1]);
            above[pair[1]].push(pair[0]);
        }
        for layer in 0..self.layers.len() {
            self.layers[layer].sort_by_key(|place| (self.places[*place].lane, *place));
            self.settle(layer, &[]);
        }
        let mut best = (self.crossings(), self.layers.clone());
        for round in 0..ROUNDS {
            let down = round % 2 == 0;
            let order: Vec<usize> =
                if down { (0..self.layers.len()).collect() } else { (0..self.layers.len()).rev().collect() };
            for layer in order {
                let towards = if down { &above } else { &below };
                let mut keyed: Vec<(usize, f64, usize)> = Vec::new();
                for place in &self.layers[layer] {
                    let others = &towards[*place];
                    let mean = others.iter().map(|other| self.places[*other].x).sum::<f64>() / others.len() as f64;
                    let mean = if others.is_empty() { self.places[*place].x } else { mean };
                    keyed.push((self.places[*place].lane, mean, *place));
                }
                keyed.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
                self.layers[layer] = keyed.into_iter().map(|(.., place)| place).collect();
                self.settle(layer, &[]);
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.layers.clone());
            }
        }
        self.layers = best.1;
        for round in 0..SETTLING {
            for layer in 0..self.layers.len() {
                let layer = if round % 2 == 0 { layer } else { self.layers.len() - 1 - layer };
                self.settle(layer, &[&above, &below]);
            }
        }
        for place in &mut self.places {
            place.x = place.x.round();
        }
        self.straighten();
    }

    /// A bend that is nearly below what it comes from moves there, where nothing is in its way: small corners are only noise.
    fn straighten(&mut self) {
        for route in 0..self.routes.len() {
            let through = self.routes[route].through.clone();
            for pair in through.windows(2) {
                let (from, to) = (&self.places[pair[0]], &self.places[pair[1]]);
                let x = from.x;
                let free = |other: &usize| {
                    let other = &self.places[*other];
                    (other.x - x).abs() >= (other.width + to.width) / 2.0 + BEND
                };
                let near = (x - to.x).abs() < NEARLY && to.node.is_none() && from.lane == to.lane;
                if near && self.layers[to.layer].iter().filter(|other| **other != pair[1]).all(free) {
                    self.places[pair[1]].x = x;
                }
            }
        }
    }

    /// Gives a layer's places their x: as near as the order and the lanes allow to where their neighbours in the lane are (isotonic
    /// regression by pooling adjacent violators), and to the middle of the lane.
    fn settle(&mut self, layer: usize, neighbours: &[&Vec<Vec<usize>>]) {
        let order = self.layers[layer].clone();
        let mut rest = order.as_slice();
        while let Some(first) = rest.first() {
            let lane = self.places[*first].lane;
            let count = rest.iter().take_while(|place| self.places[**place].lane == lane).count();
            let (group, others) = rest.split_at(count);
            rest = others;
            let (left, right) =
                (self.lanes[lane].left + PADDING, self.lanes[lane].left + self.lanes[lane].width - PADDING);
            // Without the distances between them, they only have to be in order.
            let mut offset = 0.0;
            let mut offsets: Vec<f64> = Vec::new();
            let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
            for (i, place) in group.iter().enumerate() {
                if i > 0 {
                    offset += (self.places[group[i - 1]].width + self.places[*place].width) / 2.0 + GAP;
                }
                offsets.push(offset);
                let (wish, weight) = self.wish(*place, (left + right) / 2.0, neighbours);
                blocks.push((wish - offset, weight, 1));
                while let [.., (before, before_weight, before_size), (last, last_weight, last_size)] = *blocks
                    && before > last
                {
                    let weight = before_weight + last_weight;
                    let mean = (before * before_weight + last * last_weight) / weight;
                    blocks.truncate(blocks.len() - 2);
                    blocks.push((mean, weight, before_size + last_size));
                }
            }
            let lowest = left + self.places[group[0]].width / 2.0;
            let highest = right - self.places[group[count - 1]].width / 2.0 - offset;
            let means = blocks.iter().flat_map(|(mean, _, size)| std::iter::repeat_n(*mean, *size));
            for ((place, offset), mean) in group.iter().zip(offsets).zip(means) {
                self.places[*place].x = mean.min(highest).max(lowest) + offset;
            }
        }
    }

    fn wish(&self, place: usize, middle: f64, neighbours: &[&Vec<Vec<usize>>]) -> (f64, f64) {
        let own = &self.places[place];
        // An arrow need not be in the middle; this only says where it is while nothing else does.
        let mut weight = if own.node.is_some() { 0.2 } else { 0.001 };
        let mut sum = middle * weight;
        for other in neighbours.iter().flat_map(|towards| &towards[place]) {
            let other = &self.places[*other];
            // Straight long arrows first; what comes from another lane has a curve anyway.
            let pull = match (own.lane == other.lane, own.node.is_none(), other.node.is_none()) {
                (false, ..) => continue,
                (true, true, true) => 8.0,
                (true, false, false) => 1.0,
                (true, ..) => 2.0,
            };
            sum += other.x * pull;
            weight += pull;
        }
        (sum / weight, weight)
    }

    fn crossings(&self) -> usize {
        let mut between = vec![Vec::new(); self.layers.len()];
        for pair in self.routes.iter().flat_map(|route| route.through.windows(2)) {
            between[self.places[pair[0]].layer].push((self.places[pair[0]].x, self.places[pair[1]].x));
        }
        let cross = |a: &(f64, f64), b: &(f64, f64)| (a.0 - b.0) * (a.1 - b.1) < 0.0;
        let layer = |pairs: &Vec<(f64, f64)>| -> usize {
            pairs.iter().enumerate().map(|(i, a)| pairs[i + 1..].iter().filter(|b| cross(a, b)).count()).sum()
        };
        between.iter().map(layer).sum()
    }
}

/// Which edges close a circle, when one walks along them in the order of the nodes.
fn backwards(nodes: usize, edges: &[(usize, usize, Arrow)]) -> Vec<bool> {
    let mut out = vec![Vec::new(); nodes];
    for (i, (from, ..)) in edges.iter().enumerate() {
        out[*from].push(i);
    }
    let mut backwards = vec![false; edges.len()];
    let (mut seen, mut open) = (vec![false; nodes], vec![false; nodes]);
    for root in 0..nodes {
        if seen[root] {
            continue;
        }
        (seen[root], open[root]) = (true, true);
        let mut path = vec![(root, 0)];
        while let Some((node, next)) = path.last_mut() {
            let Some(edge) = out[*node].get(*next) else {
                open[*node] = false;
                path.pop();
                continue;
            };
            *next += 1;
            let to = edges[*edge].1;
            backwards[*edge] = open[to];
            if !seen[to] {
                (seen[to], open[to]) = (true, true);
                path.push((to, 0));
            }
        }
    }
    backwards
}

/// The longest way to each node from one that nothing leads to.
fn layers(nodes: usize, edges: &[(usize, usize, Arrow)], backwards: &[bool]) -> Vec<usize> {
    let mut layer = vec![0; nodes];
    let mut waits = vec![0; nodes];
    let forward = || {
        let all = edges.iter().zip(backwards).filter(|((from, to, _), _)| from != to);
        all.map(|((from, to, _), backwards)| if *backwards { (*to, *from) } else { (*from, *to) })
    };
    let mut out = vec![Vec::new(); nodes];
    for (from, to) in forward() {
        waits[to] += 1;
        out[from].push(to);
    }
    let mut ready: Vec<usize> = (0..nodes).filter(|node| waits[*node] == 0).collect();
    while let Some(node) = ready.pop() {
        for to in &out[node] {
            layer[*to] = layer[*to].max(layer[node] + 1);
            waits[*to] -= 1;
            if waits[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    layer
}

#[cfg(test)]
mod tests {
    use saga_core::{Manifest, manifest::FORMAT};
    use serde_json::json;

    use super::*;
    use crate::Choreography;

    /// Participants that hear each other in turn, some steps far apart, one event that goes back to the first.
    fn tangled() -> Choreography {
        let event = |n: usize| format!("shop.p{}.e{n}.v1", n % 5);
        let manifests = (0..5).map(|p| {
            let steps: Vec<_> = (0..4)
                .map(|s| {
                    let n = s * 5 + p;
                    let kind = if n == 0 { "start" } else { "local" };
                    let on = match n {
                        0 => vec![],
                        5 => vec![event(4), event(19)],
                        n => vec![event(n - 1), event(n / 3)],
                    };
                    let back = vec![event((n * 7) % 20)];
                    json!({"step": format!("step-{n}"), "kind": kind, "on": on, "emits": [event(n)], "compensated_on": back})
                })
                .collect();
            json!({"manifest": FORMAT, "participant": format!("p{p}"), "steps": steps, "events": {}})
        });
        let manifests = serde_json::Value::Array(manifests.collect()).to_string();
        Choreography::from(Manifest::read(&manifests).unwrap())
    }

    #[test]
    fn boxes_stay_apart_and_in_their_lanes_and_arrows_lead_from_layer_to_layer() {
        let choreography = tangled();
        let flow = choreography.flow();
        let layout = Layout::of(&flow, |node| if matches!(node, Node::Event(_)) { 80.0 } else { 120.0 }, |_| 50.0);
        assert_eq!(layout.places.iter().filter(|place| place.node.is_some()).count(), flow.graph.node_count());
        for layer in &layout.layers {
            for pair in layer.windows(2) {
                let (left, right) = (&layout.places[pair[0]], &layout.places[pair[1]]);
                let between = (right.x - right.width / 2.0) - (left.x + left.width / 2.0);
                let bend = left.node.is_none() || right.node.is_none();
                assert!(between >= if bend { BEND } else { GAP - 1.0 }, "{left:?} and {right:?} are {between} apart");
            }
        }
        for place in &layout.places {
            let lane = &layout.lanes[place.lane];
            let (from, to) = (place.x - place.width / 2.0 - lane.left, place.x + place.width / 2.0 - lane.left);
            assert!(from >= PADDING - 1.0 && to <= lane.width - PADDING + 1.0, "{place:?} in {lane:?}");
        }
        assert!(layout.routes.iter().any(|route| route.through.len() > 2), "a long arrow");
        assert!(layout.routes.iter().any(|route| route.backwards), "a circle");
        for route in &layout.routes {
            let layers: Vec<usize> = route.through.iter().map(|place| layout.places[*place].layer).collect();
            assert!(layers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{route:?} {layers:?}");
        }
    }

    #[test]
    fn ordering_takes_crossings_away() {
        let choreography = tangled();
        let flow = choreography.flow();
        let arranged = Layout::of(&flow, |_| 80.0, |_| 50.0);
        let mut unordered = Layout::of(&flow, |_| 80.0, |_| 50.0);
        for layer in 0..unordered.layers.len() {
            let places = &unordered.places;
            unordered.layers[layer].sort_by_key(|place| (places[*place].lane, *place));
            unordered.settle(layer, &[]);
        }
        assert!(arranged.crossings() < unordered.crossings(), "{} {}", arranged.crossings(), unordered.crossings());
    }
}
