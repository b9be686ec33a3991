//! Scalable pictures as text.

use std::fmt::Write;

/// Text as it stands in a document.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A picture with room for axes at its left and below.
pub(super) struct Picture {
    width: f64,
    height: f64,
    content: String,
}

/// Where the text of a label ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Picture {
    pub(super) const LEFT: f64 = 64.0;
    pub(super) const RIGHT: f64 = 16.0;
    pub(super) const TOP: f64 = 22.0;
    pub(super) const BOTTOM: f64 = 40.0;

    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, content: String::new() }
    }

    /// The inner part, where data are: left, top, right, bottom.
    pub(super) fn inner(&self) -> [f64; 4] {
        [Self::LEFT, Self::TOP, self.width - Self::RIGHT, self.height - Self::BOTTOM]
    }

    pub(super) fn rect(&mut self, [left, top, right, bottom]: [f64; 4], class: &str, title: &str) {
        let (width, height) = ((right - left).max(0.5), (bottom - top).max(0.0));
        let _ = write!(
            self.content,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\"><title>{}</title></rect>",
            escaped(title)
        );
    }

    pub(super) fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], class: &str) {
        let _ = write!(
            self.content,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    pub(super) fn point(&mut self, [x, y]: [f64; 2], radius: f64, class: &str, title: &str) {
        let _ = write!(
            self.content,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" class=\"{class}\"><title>{}</title></circle>",
            escaped(title)
        );
    }

    pub(super) fn text(&mut self, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ =
            write!(self.content, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(text));
    }

    /// Axes with ticks, each a place and its label.
    pub(super) fn axes(&mut self, across: &[(f64, String)], up: &[(f64, String)], names: [&str; 2]) {
        let [left, top, right, bottom] = self.inner();
        for (x, label) in across {
            self.line([*x, bottom], [*x, bottom + 4.0], "axis");
            self.text([*x, bottom + 17.0], Anchor::Middle, label);
        }
        for (y, label) in up {
            self.line([left, *y], [right, *y], "grid");
            self.text([left - 8.0, *y + 4.0], Anchor::End, label);
        }
        self.line([left, bottom], [right, bottom], "axis");
        self.text([right, bottom + 33.0], Anchor::End, names[0]);
        self.text([left, top - 9.0], Anchor::Start, names[1]);
    }

    pub(super) fn finish(self, label: &str) -> String {
        let Self { width, height, content } = self;
        format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">{content}</svg>", escaped(label))
    }
}

/// From numbers to places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    from: [f64; 2],
    to: [f64; 2],
    logarithmic: bool,
}

impl Scale {
    pub(super) fn linear(from: [f64; 2], to: [f64; 2]) -> Self {
        Self { from, to, logarithmic: false }
    }

    pub(super) fn logarithmic(from: [f64; 2], to: [f64; 2]) -> Self {
        Self { from: from.map(f64::log10), to, logarithmic: true }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        let [low, high] = self.from;
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        self.to[0] + share * (self.to[1] - self.to[0])
    }

    /// About five round numbers within the scale; the powers of ten of a logarithmic one.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let [low, high] = self.from;
        if self.logarithmic {
            return (low.ceil() as i32..=high.floor() as i32).map(|power| 10f64.powi(power)).collect();
        }
        let rough = (high - low) / 5.0;
        if rough <= 0.0 || !rough.is_finite() {
            return vec![low];
        }
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * unit).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * unit);
        ((low / step).ceil() as i64..=(high / step).floor() as i64).map(|number| number as f64 * step).collect()
    }

    /// The ticks with their places and labels.
    pub(super) fn labels(&self) -> Vec<(f64, String)> {
        self.ticks().into_iter().map(|tick| (self.at(tick), label(tick))).collect()
    }
}

/// A round number, short.
fn label(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| value.abs() >= *unit) {
        Some((unit, name)) => format!("{}{name}", (value / unit * 1e3).round() / 1e3),
        None => format!("{}", (value * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        let scale = Scale::linear([0.0, 47.0], [0.0, 470.0]);
        assert_eq!(scale.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert!((scale.at(10.0) - 100.0).abs() < 1e-9);
        let scale = Scale::logarithmic([0.5, 2000.0], [0.0, 100.0]);
        assert_eq!(scale.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Scale::linear([3.0, 3.0], [0.0, 10.0]).ticks(), [3.0]);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!([0.25, 12.0, 1500.0, 2e9, 3.2e12].map(label), ["0.25", "12", "1.5k", "2G", "3.2T"]);
    }

    #[test]
    fn what_people_name_things_cannot_break_the_page() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
