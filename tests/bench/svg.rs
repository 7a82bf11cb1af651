//! The result as a picture: nanoseconds per packet over the number of flows, one line a case. Drawn
//! by hand, because it is a few lines and text; no crate for plots is as small.

use std::fmt::Write as _;

use crate::progress::count;
use crate::report::Report;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 640.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 410.0;
/// Distance of two lines of the legend.
const LEGEND: f64 = 19.0;
/// Told apart by the colour-blind too (Okabe and Ito), and once more by dashes.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const DASHES: [&str; 3] = ["", "7 4", "2 3"];

/// Below this nothing is told apart from nothing, in nanoseconds.
const FLOOR: f64 = 2.0;

/// Draws all cases but those that do nothing. The scale is logarithmic: a packet that passes and a
/// translated one are a hundred times apart.
pub(crate) fn draw(report: &Report) -> String {
    let does_something = |case: &&str| {
        report.figures.iter().any(|figure| figure.case == *case && figure.net > FLOOR)
    };
    let cases: Vec<&str> = report.cases().into_iter().filter(does_something).collect();
    let largest = report.figures.iter().map(|figure| figure.net).fold(FLOOR, f64::max);
    let ticks = ticks(largest);
    let top = ticks.last().copied().unwrap_or(largest);
    let part = |net: f64| (net.max(FLOOR) / FLOOR).ln() / (top / FLOOR).ln();
    let y = |net: f64| BOTTOM - part(net) * (BOTTOM - TOP);

    let mut svg = Svg::new();
    svg.text(LEFT, 28.0, "start", 17, "Time in the XDP program per packet, by number of flows");
    let subtitle = format!("{}, Linux {}, net of an empty program", report.cpu, report.kernel);
    svg.text(LEFT, 46.0, "start", 12, &subtitle);
    for tick in ticks {
        svg.line((LEFT, y(tick)), (RIGHT, y(tick)), "#ddd");
        svg.text(LEFT - 8.0, y(tick) + 4.0, "end", 12, &format!("{tick}"));
    }
    svg.text(16.0, TOP - 14.0, "start", 12, "ns");
    let places: Vec<f64> = places(report.plan.flows.len());
    for (x, flows) in places.iter().zip(&report.plan.flows) {
        svg.line((*x, BOTTOM), (*x, BOTTOM + 5.0), "#444");
        svg.text(*x, BOTTOM + 20.0, "middle", 12, &count(*flows));
    }
    svg.line((LEFT, BOTTOM), (RIGHT, BOTTOM), "#444");
    svg.text(f64::midpoint(LEFT, RIGHT), BOTTOM + 42.0, "middle", 13, "flows");

    for (index, case) in cases.iter().enumerate() {
        let style = Style::of(index);
        let points: Vec<(f64, f64)> = places
            .iter()
            .zip(&report.plan.flows)
            .filter_map(|(x, flows)| Some((*x, y(report.figure(case, *flows)?.net))))
            .collect();
        svg.polyline(&points, style);
        let at = TOP + index_of(index) * LEGEND;
        svg.polyline(&[(RIGHT + 24.0, at), (RIGHT + 56.0, at)], style);
        svg.text(RIGHT + 64.0, at + 4.0, "start", 12, case);
    }
    svg.finish()
}

/// Where on the x axis so many values stand, evenly.
fn places(number: usize) -> Vec<f64> {
    let gap = (RIGHT - LEFT) / index_of(number);
    (0..number).map(|index| LEFT + gap * (index_of(index) + 0.5)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn index_of(index: usize) -> f64 {
    index as f64
}

/// Lines of the scale, from the floor up to the first that is not below `largest`: 2, 5, 10, 20 ...
fn ticks(largest: f64) -> Vec<f64> {
    let mut ticks = Vec::new();
    let mut power = 1.0;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            let tick = factor * power;
            if tick >= FLOOR {
                ticks.push(tick);
            }
            if tick >= largest && ticks.len() > 1 {
                return ticks;
            }
        }
        power *= 10.0;
    }
}

#[derive(Clone, Copy)]
struct Style {
    colour: &'static str,
    dashes: &'static str,
}

impl Style {
    fn of(index: usize) -> Self {
        let colour = COLOURS[index % COLOURS.len()];
        Self { colour, dashes: DASHES[index / COLOURS.len() % DASHES.len()] }
    }
}

/// A drawing in progress.
struct Svg(String);

impl Svg {
    fn new() -> Self {
        let mut svg = Self(String::new());
        svg.element(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\">"
        ));
        // A background of its own: pages may be dark.
        svg.element(format_args!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"));
        svg
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: u32, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.element(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
             fill=\"#222\">{text}</text>"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.element(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
             stroke=\"{colour}\"/>"
        ));
    }

    fn polyline(&mut self, points: &[(f64, f64)], style: Style) {
        let Style { colour, dashes } = style;
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.element(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dashes}\"/>",
            path.join(" ")
        ));
        for (x, y) in points {
            self.element(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            ));
        }
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{element}");
    }

    fn finish(mut self) -> String {
        self.element(format_args!("</svg>"));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    /// Names of the elements, if every one that is opened is closed in order and no text or value
    /// holds what would have to be escaped.
    fn elements(svg: &str) -> Option<Vec<String>> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>')?;
            let stray = text.contains('>') || text.replace("&amp;", "").contains(" & ");
            if stray || tag.matches('"').count() % 2 == 1 {
                return None;
            }
            if let Some(name) = tag.strip_prefix('/') {
                (open.pop()? == name).then_some(())?;
                continue;
            }
            let name = tag.split([' ', '/']).next()?.to_owned();
            if !tag.ends_with('/') {
                open.push(name.clone());
            }
            all.push(name);
        }
        open.is_empty().then_some(all)
    }

    #[test]
    fn the_picture_is_well_formed_and_has_a_line_for_each_case() {
        let svg = draw(&sample());
        let elements = elements(&svg).expect("well-formed");
        assert_eq!(elements.first().map(String::as_str), Some("svg"));
        // In the plot and in the legend; `empty` is nothing.
        assert_eq!(elements.iter().filter(|name| *name == "polyline").count(), 2 * 3);
        assert!(!svg.contains(">empty<"));
        for text in [">dsr tcp ack<", ">1M<", ">flows<", "CPU &amp; &lt;more&gt;"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn the_scale_has_round_steps_up_to_the_largest() {
        assert_eq!(ticks(0.0), [2.0, 5.0]);
        assert_eq!(ticks(150.0), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
    }
}
