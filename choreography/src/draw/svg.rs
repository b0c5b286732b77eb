//! SVG: a picture that every browser shows, made without any tool. Light or dark, as the reader has it; no script.

use saga_core::{event::Ending, participant::StepKind};

use super::{
    layout::{Layout, Route},
    text::{clipped, line, xml},
    tracks::{Leg, tracks},
};
use crate::{
    Choreography, Flow,
    flow::{Arrow, Node},
};

/// Longer names end in an ellipsis; the whole name is in the tooltip.
const MOST: usize = 40;
const STEP: f64 = 44.0;
const EVENT: f64 = 26.0;
/// Between two layers, without the tracks.
const BETWEEN: f64 = 32.0;
/// From the layer above to the first track.
const ABOVE: f64 = 12.0;
/// Between two tracks.
const TRACK: f64 = 9.0;
/// The corner of an arrow.
const CORNER: f64 = 6.0;
const HEADER: f64 = 52.0;
const MARGIN: f64 = 12.0;
const LEGEND: f64 = 44.0;
/// Between two arrows that begin or end at one box.
const PORT: f64 = 16.0;
/// The head of an arrow.
const HEAD: f64 = 7.0;

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;font-size:13px;fill:#1f2328}
.page{fill:#fff}.lane{stroke:#d1d9e0}.who{font-size:14px;font-weight:600}.name{font-weight:600}.what{font-size:11px;fill:#59636e}
.l0{fill:#eff5ff}.l1{fill:#fff6e9}.l2{fill:#edf9f0}.l3{fill:#fbf0fa}.l4{fill:#f2f1fd}.l5{fill:#eaf7f9}
.step{fill:#fff;stroke:#59636e;stroke-width:1.2}.back{stroke-dasharray:5 3}
.event{fill:#f6f8fa;stroke:#8c959f}.completed{fill:#dafbe1;stroke:#1a7f37;stroke-width:2}.cancelled{fill:#ffebe9;stroke:#cf222e;stroke-width:2}
.arrow{fill:none;stroke:#59636e;stroke-width:1.4}.head{fill:#59636e}.no{stroke:#bc4c00}.nohead{fill:#bc4c00}.undo{stroke-dasharray:5 4}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.lane{stroke:#30363d}.what{fill:#9198a1}
.l0{fill:#121d2f}.l1{fill:#221a0f}.l2{fill:#10211a}.l3{fill:#231826}.l4{fill:#1b1a2e}.l5{fill:#0f2126}
.step{fill:#161b22;stroke:#9198a1}.event{fill:#21262d;stroke:#6e7681}
.completed{fill:#12361f;stroke:#3fb950}.cancelled{fill:#3c1618;stroke:#f85149}
.arrow{stroke:#9198a1}.head{fill:#9198a1}.no{stroke:#f0883e}.nohead{fill:#f0883e}}
";

impl Choreography {
    /// A picture: a lane per participant, time from top to bottom, boxes for steps and pills for events. A compensation has a box of
    /// its own, dashed, because it comes later.
    pub fn to_svg(&self) -> String {
        let flow = self.flow();
        Picture::of(&flow).drawn()
    }
}

/// What stands in a box.
#[derive(Debug)]
struct Label {
    name: String,
    what: String,
    whole: String,
}

impl Label {
    fn of(flow: &Flow<'_>, node: Node) -> Self {
        match node {
            Node::Event(id) => {
                let event = flow.event(id);
                let ending = event.ending().map(|ending| format!(" · {ending}")).unwrap_or_default();
                let name = clipped(&event.label(), MOST) + &ending;
                Self { name, what: String::new(), whole: line(event.name) }
            }
            Node::Forward(id) => {
                let step = flow.step(id);
                let kind = match step.declared.kind {
                    StepKind::Start => "starts the saga",
                    StepKind::Request => "request",
                    StepKind::External => "calls another system",
                    StepKind::Gate => "gate",
                    StepKind::Local => "",
                };
                let joins = match step.declared.joins.as_slice() {
                    [] => String::new(),
                    joins => format!("joins {}", joins.join(", ")),
                };
                let both = if kind.is_empty() || joins.is_empty() { "" } else { ", " };
                let what = clipped(&format!("{kind}{both}{joins}"), MOST);
                Self { name: clipped(&step.declared.step, MOST), what, whole: line(&step.label()) }
            }
            Node::Compensation(id) => {
                let step = flow.step(id);
                let name = clipped(&step.declared.step, MOST);
                let whole = format!("compensation of {}", line(&step.label()));
                Self { name, what: "compensation".to_owned(), whole }
            }
        }
    }

    fn width(&self) -> f64 {
        (wide(&self.name, 13.0) * 1.04).max(wide(&self.what, 11.0)) + 22.0
    }
}

/// How wide a text is at most, in the widest of the fonts that it may be shown in.
fn wide(text: &str, size: f64) -> f64 {
    let letter = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' | '-' | '(' | ')' | '·' => {
            0.42
        }
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 1.0,
        c if c.is_ascii_uppercase() => 0.72,
        c if c.is_ascii() => 0.62,
        _ => 1.05,
    };
    text.chars().map(letter).sum::<f64>() * size
}

#[derive(Debug)]
struct Picture<'f, 'm> {
    flow: &'f Flow<'m>,
    layout: Layout<'m>,
    /// The top and the height of each layer.
    rows: Vec<(f64, f64)>,
    /// Of each route, where it is in each layer that it goes through.
    ways: Vec<Vec<f64>>,
    /// Of each route, the track that each of its legs takes.
    tracks: Vec<Vec<Option<usize>>>,
    width: f64,
    height: f64,
}

impl<'f, 'm> Picture<'f, 'm> {
    fn of(flow: &'f Flow<'m>) -> Self {
        let title = |name: &str| wide(&clipped(name, MOST), 14.0) * 1.06;
        let layout = Layout::of(flow, |node| Label::of(flow, node).width().ceil(), title);
        let ways: Vec<Vec<f64>> = (0..layout.routes.len()).map(|route| way(&layout, route)).collect();
        // Of each layer, the legs that leave it, each with its route.
        let mut legs = vec![Vec::new(); layout.layers.len()];
        for (route, (through, way)) in layout.routes.iter().map(|route| &route.through).zip(&ways).enumerate() {
            for (places, x) in through.windows(2).zip(way.windows(2)) {
                legs[layout.places[places[0]].layer].push((route, Leg { source: places[0], from: x[0], to: x[1] }));
            }
        }
        let mut taken = vec![Vec::new(); layout.routes.len()];
        let mut top = MARGIN + HEADER;
        let mut rows = Vec::new();
        for (layer, legs) in layout.layers.iter().zip(&legs) {
            let height = layer.iter().map(|place| height(layout.places[*place].node)).fold(0.0, f64::max);
            rows.push((top, height));
            let (found, count) = tracks(&legs.iter().map(|(_, leg)| *leg).collect::<Vec<_>>());
            for ((route, _), track) in legs.iter().zip(found) {
                taken[*route].push(track);
            }
            top += height + BETWEEN + count as f64 * TRACK;
        }
        let lanes = layout.lanes.last().map_or(0.0, |lane| lane.left + lane.width);
        let width = (lanes + 2.0 * MARGIN).max(legend_width() + 2.0 * MARGIN);
        Self { flow, layout, rows, ways, tracks: taken, width, height: top - BETWEEN + 16.0 + LEGEND }
    }

    fn drawn(&self) -> String {
        let names: Vec<&str> = self.layout.lanes.iter().map(|lane| lane.participant).collect();
        let title = xml(&format!("Choreography of {}", names.join(", ")));
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n<rect class=\"page\" width=\"{0}\" height=\"{1}\"/>\n",
            self.width, self.height
        );
        for (i, lane) in self.layout.lanes.iter().enumerate() {
            let (left, height) = (lane.left + MARGIN, self.height - LEGEND - MARGIN);
            out += &format!(
                "<rect class=\"lane l{}\" x=\"{left}\" y=\"{MARGIN}\" width=\"{}\" height=\"{height}\" rx=\"8\"/>\n",
                i % 6,
                lane.width
            );
            let (middle, y) = (left + lane.width / 2.0, MARGIN + 26.0);
            out += &text("who", middle, y, &clipped(lane.participant, MOST));
        }
        for (i, route) in self.layout.routes.iter().enumerate() {
            out += &self.arrow(i, route);
        }
        for place in &self.layout.places {
            if let Some(node) = place.node {
                let (row, tall) = self.rows[place.layer];
                let (x, y) = (place.x + MARGIN, row + tall / 2.0);
                out += &self.node(node, x, y, place.width);
            }
        }
        out + &self.legend() + "</svg>\n"
    }

    fn node(&self, node: Node, x: f64, y: f64, width: f64) -> String {
        let label = Label::of(self.flow, node);
        let (tall, class, round) = match node {
            Node::Event(id) => match self.flow.event(id).ending() {
                Some(Ending::Completed) => (EVENT, "event completed", EVENT / 2.0),
                Some(Ending::Cancelled) => (EVENT, "event cancelled", EVENT / 2.0),
                None => (EVENT, "event", EVENT / 2.0),
            },
            Node::Forward(_) => (STEP, "step", 4.0),
            Node::Compensation(_) => (STEP, "step back", 4.0),
        };
        let mut out = format!("<g><title>{}</title>", xml(&label.whole));
        out += &format!(
            "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{tall}\" rx=\"{round}\"/>",
            x - width / 2.0,
            y - tall / 2.0
        );
        let step = !matches!(node, Node::Event(_));
        let above = if label.what.is_empty() { 4.5 } else { -3.0 };
        out += text(if step { "name" } else { "" }, x, y + above, &label.name).trim_end();
        if !label.what.is_empty() {
            out += text("what", x, y + 13.0, &label.what).trim_end();
        }
        out + "</g>\n"
    }

    fn arrow(&self, index: usize, route: &Route) -> String {
        let places = &self.layout.places;
        let x: Vec<f64> = self.ways[index].iter().map(|x| x + MARGIN).collect();
        let last = x.len() - 1;
        let mut path = String::new();
        for (i, place) in route.through.iter().enumerate() {
            let (row, tall) = self.rows[places[*place].layer];
            let half = height(places[*place].node) / 2.0;
            let enters = if i == last { row + tall / 2.0 - half } else { row };
            // The shaft ends inside of its head.
            let enters = if i == last && !route.backwards { enters - HEAD + 1.0 } else { enters };
            if i > 0 {
                let (before, before_tall) = self.rows[places[route.through[i - 1]].layer];
                if let Some(track) = self.tracks[index][i - 1] {
                    let y = before + before_tall + ABOVE + track as f64 * TRACK;
                    let corner = ((x[i] - x[i - 1]).abs() / 2.0).min(CORNER);
                    let side = if x[i] > x[i - 1] { corner } else { -corner };
                    path += &format!(" V{} Q{} {y} {} {y}", y - corner, x[i - 1], x[i - 1] + side);
                    path += &format!(" H{} Q{} {y} {} {}", x[i] - side, x[i], x[i], y + corner);
                }
                path += &format!(" V{enters}");
            }
            if i == 0 {
                let leaves = row + tall / 2.0 + half + if route.backwards { HEAD - 1.0 } else { 0.0 };
                path += &format!("M{} {leaves} V{}", x[0], row + tall);
            } else if i < last {
                path += &format!(" V{}", row + tall);
            }
        }
        let no = if route.arrow == Arrow::Rejects { " no" } else { "" };
        let undo = matches!(route.to, Node::Compensation(_)) || matches!(route.from, Node::Compensation(_));
        let undo = if undo { " undo" } else { "" };
        let end = if route.backwards { route.through[0] } else { route.through[last] };
        let (row, tall) = self.rows[places[end].layer];
        let half = height(places[end].node) / 2.0;
        let head = if route.backwards {
            let (x, y) = (x[0], row + tall / 2.0 + half);
            format!("M{x} {y} l-4 {HEAD} h8 z")
        } else {
            let (x, y) = (x[last], row + tall / 2.0 - half);
            format!("M{x} {y} l-4 -{HEAD} h8 z")
        };
        let head_class = if no.is_empty() { "head" } else { "nohead" };
        format!("<path class=\"arrow{no}{undo}\" d=\"{path}\"/><path class=\"{head_class}\" d=\"{head}\"/>\n")
    }

    fn legend(&self) -> String {
        let y = self.height - LEGEND + 22.0;
        let mut x = MARGIN + 4.0;
        let mut out = String::new();
        for (class, says) in LEGENDS {
            out += &format!("<path class=\"arrow{class}\" d=\"M{x} {y} h30\"/>");
            out += &format!("<text class=\"what\" x=\"{}\" y=\"{}\">{says}</text>\n", x + 36.0, y + 4.0);
            x += legend_item(says);
        }
        out
    }
}

const LEGENDS: [(&str, &str); 3] = [("", "done"), (" no", "says no"), (" undo", "compensates")];

fn legend_item(says: &str) -> f64 {
    (36.0 + wide(says, 11.0) + 20.0).round()
}

fn legend_width() -> f64 {
    LEGENDS.iter().map(|(_, says)| legend_item(says)).sum()
}

/// Where a route is in each layer that it goes through.
fn way(layout: &Layout<'_>, route: usize) -> Vec<f64> {
    let mut x: Vec<f64> = layout.routes[route].through.iter().map(|place| layout.places[*place].x).collect();
    let last = x.len() - 1;
    x[0] += port(layout, route, true);
    x[last] += port(layout, route, false);
    x
}

/// How far from the middle of its upper (or lower) box a route begins or ends. All that tell one event leave it as one.
fn port(layout: &Layout<'_>, index: usize, upper: bool) -> f64 {
    let places = &layout.places;
    let end = |route: &Route| if upper { route.through[0] } else { route.through[route.through.len() - 1] };
    let next = |route: &Route| if upper { route.through[1] } else { route.through[route.through.len() - 2] };
    let own = end(&layout.routes[index]);
    if upper && matches!(places[own].node, Some(Node::Event(_))) {
        return 0.0;
    }
    let mut all: Vec<usize> = (0..layout.routes.len()).filter(|route| end(&layout.routes[*route]) == own).collect();
    let towards = |route: usize| places[next(&layout.routes[route])].x;
    all.sort_by(|a, b| towards(*a).total_cmp(&towards(*b)).then(a.cmp(b)));
    let at = all.iter().position(|route| *route == index).unwrap_or_default() as f64;
    let between = (all.len() - 1) as f64;
    let room = (places[own].width - 24.0).max(0.0);
    let port = if between * PORT > room { room / between } else { PORT };
    // Whole or half pixels, so that the text stays short.
    ((at - between / 2.0) * port * 2.0).round() / 2.0
}

fn height(node: Option<Node>) -> f64 {
    match node {
        Some(Node::Event(_)) => EVENT,
        Some(_) => STEP,
        None => 0.0,
    }
}

fn text(class: &str, x: f64, y: f64, says: &str) -> String {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<text{class} x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>\n", xml(says))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::examples::{assert_escaped, small};

    #[test]
    fn every_name_is_in_the_picture() {
        let svg = small().to_svg();
        for shown in
            ["book", "keep", "pay", "RoomBooked", "RoomKept · completed", "RoomFreed · cancelled", "desk", "bank"]
        {
            assert!(svg.contains(&format!(">{shown}</text>")), "{shown} in {svg}");
        }
        assert!(svg.contains("<title>compensation of desk/book</title>") && svg.contains("prefers-color-scheme:dark"));
        assert_eq!(svg, small().to_svg());
    }

    #[test]
    fn names_break_nothing() {
        assert_escaped(Choreography::to_svg, &['<', '>', '"']);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(Choreography { manifests: Vec::new() }.to_svg().ends_with("</svg>\n"));
    }
}
