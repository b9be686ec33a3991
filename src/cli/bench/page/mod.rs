//! A report as one page that needs nothing beside itself: latencies, stages, timeline, roofline.

mod charts;
mod svg;

use std::fmt::Write;

use serde_json::json;

use super::report::{Figures, Report};
use super::samples::Summary;
use crate::cli::VERSION;
use svg::escaped;

const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn page(report: &Report) -> String {
    let title = format!("tilesight bench: {} on {}", report.scenario.name(), report.device);
    let mut body = format!("<h1>{}</h1>\n<p class=\"quiet\">{}</p>\n", escaped(&title), escaped(&facts(report)));
    if let Some(figures) = report.figures() {
        body += &tiles_of(report, &figures);
        body += &section(
            "Latency",
            "Each bar is a range of latencies; lines mark percentiles.",
            &charts::latencies(report),
        );
        body += &section(
            "Where the time goes",
            "Mean of each stage; what no stage has is the rest.",
            &charts::stages(report),
        );
        body += &stage_table(report, &figures);
        body += &section(
            "Timeline",
            "Each point is a query, when it was due and how long it took.",
            &charts::timeline(report),
        );
    }
    if let Some(picture) = charts::roofline(report) {
        let text = "Each circle is all steps of a kind, numbered as in the table, of one encode of the largest input, launched one by one, its area the share of the time; the roof is what \
                    a large product and a large copy reach here. Steps whose data caches keep can lie above it.";
        body += &section("Roofline", text, &picture);
        body += &step_table(report);
    }
    body += &section("Batches", "How often batches of a size were computed.", &charts::batches(report));
    let json = report.json();
    let facts = serde_json::to_string_pretty(&json!({
        "environment": json["environment"], "checksum": json["checksum"], "peak": json["peak"], "inputs": json["inputs"],
    }));
    let _ = write!(
        body,
        "<details><summary>Machine, inputs, checksum</summary><pre>{}</pre></details>",
        escaped(&facts.unwrap_or_default())
    );
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n<body>\n{body}\n</body>\n</html>\n",
        escaped(&title)
    )
}

fn facts(report: &Report) -> String {
    let json = report.json();
    let word = |key: &str| json[key].as_str().unwrap_or_default().to_string();
    let rate = report.measured().rate.map_or(String::new(), |rate| format!(" at {rate:.2} images/s"));
    format!(
        "{}{rate}, {}, {} semantics, {VERSION}; {}",
        word("scenario"),
        word("dtype"),
        word("semantics"),
        report.measured().environment.line()
    )
}

fn tiles_of(report: &Report, figures: &Figures) -> String {
    let share = report.percent_of_peak().map_or("not known".to_string(), |percent| format!("{percent:.0} %"));
    let ms = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
    let figure = [
        ("images/s", format!("{:.2}", figures.images_per_second)),
        ("tiles/s", format!("{:.2}", figures.tiles_per_second)),
        ("p50", ms(figures.latency.p50)),
        ("p99", ms(figures.latency.p99)),
        ("TFLOP/s", format!("{:.3}", figures.flops_per_second / 1e12)),
        ("of a large product", share),
    ];
    let figure = figure.map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"));
    format!("<dl class=\"figures\">{}</dl>\n", figure.concat())
}

fn section(title: &str, text: &str, picture: &str) -> String {
    format!("<section>\n<h2>{title}</h2>\n<p class=\"quiet\">{text}</p>\n<figure>{picture}</figure>\n</section>\n")
}

fn table(heading: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
    };
    let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
    let rows: String = rows.map(|row| format!("<tr>{}</tr>", cells("td", &row))).collect();
    format!(
        "<div class=\"table\"><table><thead><tr>{}</tr></thead><tbody>{rows}</tbody></table></div>\n",
        cells("th", &heading)
    )
}

fn stage_table(report: &Report, figures: &Figures) -> String {
    let row = |name: &str, summary: Summary| std::iter::once(name.to_string()).chain(summary.milliseconds()).collect();
    let stages = report.stages();
    let rows = std::iter::once(row("latency", figures.latency))
        .chain(stages.iter().map(|(stage, summary)| row(stage.name(), *summary)));
    table(&["ms", "mean", "p50", "p90", "p95", "p99", "max"], rows)
}

fn step_table(report: &Report) -> String {
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
    let rows = (1..).zip(report.steps.iter().flatten()).map(|(rank, kind): (usize, _)| {
        vec![
            rank.to_string(),
            kind.step.clone(),
            kind.times.to_string(),
            number(kind.seconds.map(|seconds| seconds.median * 1e3), 3),
            number(kind.share.map(|share| share * 100.0), 1),
            number(kind.flops_per_second.map(|rate| rate / 1e9), 0),
            number(kind.bytes_per_second.map(|rate| rate / 1e9), 1),
            number(kind.percent_of_roofline, 0),
        ]
    });
    table(&["#", "step", "times", "ms", "share, %", "GFLOP/s", "GB/s", "% of roofline"], rows)
}
