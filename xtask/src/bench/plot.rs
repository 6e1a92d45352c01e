//! The ratios of a table as a bar chart (SVG): a bar for each row, a line where Xen is, a mark where the aim is.

use std::fmt::Write;

use super::Row;

const ROW: f64 = 22.0;
const LABELS: f64 = 330.0;
/// The width of ratio 1.
const UNIT: f64 = 400.0;
/// Bars end here, whatever the ratio.
const LONGEST: f64 = 1.5;
const MARGIN: f64 = 60.0;

/// The chart of the rows that have a ratio.
pub(super) fn chart(title: &str, rows: &[Row]) -> String {
    let bars: Vec<_> = rows.iter().filter_map(|row| Some((row, row.ratio()?))).collect();
    let (width, height) = (LABELS + UNIT * LONGEST + MARGIN, ROW * (bars.len() as f64 + 2.0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, row: f64, anchor: &str, words: &str| {
        let y = ROW * row + 15.0;
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>", escaped(words));
    };
    text(8.0, 0.0, "start", title);
    text(LABELS + UNIT, 0.0, "middle", "Xen 4.17 = 1");
    for (n, (row, ratio)) in bars.iter().enumerate() {
        let line = n as f64 + 1.0;
        text(LABELS - 8.0, line, "end", &row.name);
        text(LABELS + UNIT * ratio.min(LONGEST) + 6.0, line, "start", &format!("{ratio:.2}"));
    }
    for (n, (row, ratio)) in bars.iter().enumerate() {
        let y = ROW * (n as f64 + 1.0) + 4.0;
        let missed = row.aim.is_some_and(|aim| *ratio > aim);
        let colour = if missed { "#c0504d" } else { "#4f81bd" };
        let (length, thick) = (UNIT * ratio.min(LONGEST), ROW - 8.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"{thick}\" fill=\"{colour}\" fill-opacity=\"0.8\"/>"
        );
        if let Some(aim) = row.aim {
            vertical(&mut svg, LABELS + UNIT * aim, y - 2.0, y + thick + 2.0, "#333333");
        }
    }
    vertical(&mut svg, LABELS + UNIT, ROW, height - ROW / 2.0, "#999999");
    svg.push_str("</svg>\n");
    svg
}

fn vertical(svg: &mut String, x: f64, from: f64, to: f64, colour: &str) {
    let _ =
        writeln!(svg, "<line x1=\"{x}\" x2=\"{x}\" y1=\"{from}\" y2=\"{to}\" stroke=\"{colour}\" stroke-width=\"2\"/>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_for_each_ratio() {
        let row = |name: &str, radon, xen, aim| Row { name: name.to_owned(), unit: "", radon, xen, aim };
        let svg = chart(
            "a<b",
            &[row("good", 50, Some(100), Some(0.7)), row("bad", 90, Some(100), Some(0.7)), row("x", 1, None, None)],
        );
        assert!(svg.contains("a&lt;b") && svg.contains(">0.50<") && svg.contains(">0.90<"));
        assert_eq!((svg.matches("#c0504d").count(), svg.matches("#4f81bd").count()), (1, 1));
        assert!(svg.contains("width=\"200.0\""));
    }
}
