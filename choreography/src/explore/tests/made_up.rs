//! Small choreographies made up from a seed, most of them wrong in some way, in the notation of [`super::cast`].

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed makes the same choreography for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn in_ten(&mut self, n: usize) -> bool {
        self.below(10) < n
    }

    fn some(&mut self, of: &[String], most: usize) -> Vec<String> {
        let mut some = Vec::new();
        for _ in 0..=self.below(most) {
            let one = of[self.below(of.len())].clone();
            if !some.contains(&one) {
                some.push(one);
            }
        }
        some
    }
}

/// A start, sometimes a request, and two to five more steps of up to three participants.
pub(super) fn choreography(seed: u64) -> String {
    let mut dice = Dice(seed);
    let mut text = Vec::new();
    let mut events: Vec<String> = vec!["Begun".to_owned()];
    let nos: Vec<String> = ["No1", "No2", "No3", "Cancelled", "TakenBack1", "TakenBack2"].map(str::to_owned).into();
    let back = dice.some(&nos, 2).join(",");
    text.push(format!("p0 begin start emits Begun back {back} by {}", ["Cancelled", "TakenBack1"][dice.below(5) / 4]));
    if dice.in_ten(3) {
        text.push("p0 ask request emits Asked".to_owned());
        events.push("Asked".to_owned());
    }
    let steps = 2 + dice.below(4);
    for i in 0..steps {
        let kind = ["local", "local", "external", "gate"][dice.below(4)];
        let mut line = format!("p{} s{i} {kind} on {}", dice.below(3), dice.some(&events, 2).join(","));
        let emits = match dice.below(8) {
            0 => vec![],
            1 => vec!["Completed".to_owned()],
            2 => vec![format!("E{i}"), "Completed".to_owned()],
            3 => vec![format!("E{}", dice.below(steps))],
            _ if i + 1 == steps => vec!["Completed".to_owned()],
            _ => vec![format!("E{i}")],
        };
        if !emits.is_empty() {
            line += &format!(" emits {}", emits.join(","));
            events.extend(emits.into_iter().filter(|event| event != "Completed"));
        }
        if dice.in_ten(4) {
            line += &format!(" rejects {}", dice.some(&nos, 1).join(","));
        }
        if kind == "gate" || dice.in_ten(6) {
            let mut heard = dice.some(&nos, 2);
            if dice.in_ten(2) && !line.contains("Asked") {
                heard.push("Asked".to_owned());
            }
            line += &format!(" back {}", heard.join(","));
            if dice.in_ten(7) {
                line += &format!(" by {}", dice.some(&nos, 1).join(","));
            }
        }
        if dice.in_ten(2) {
            line += " first";
        }
        text.push(line);
    }
    if dice.in_ten(3) {
        let ends = ["Completed", "E9"][dice.below(2)];
        let (one, other) = (dice.some(&events, 1).join(","), dice.some(&events, 1).join(","));
        text.push(format!("p1 left local on {one} emits {ends} joins right"));
        text.push(format!("p1 right local on {other} emits {ends} joins left"));
        text.push("p2 last local on E9 emits Completed".to_owned());
    }
    text.join("\n")
}
