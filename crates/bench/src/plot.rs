//! Plots as SVG: latency against concurrency, and latency over time. One panel for each phase.

use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::{
    ChartBuilder, Circle, DrawingArea, EmptyElement, IntoDrawingArea as _, IntoLogRange as _, LineSeries, RGBColor,
    Rectangle, SVGBackend, Text, WHITE,
};
use plotters::style::Color as _;
use quarry_volume::printable;

use crate::{Kind, Latency, Results, Series, What};

/// The size of one panel, and of the line above them, in pixels.
const PANEL: (u32, u32) = (360, 240);
const HEADING: u32 = 64;
const COLUMNS: usize = 3;
/// More points than this in one panel say no more. Of each group of samples, the slowest and the median
/// remain.
const POINTS: usize = 400;
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the plot: {0}")]
pub struct Error(String);

/// The median and p99 of each phase against the number of volumes at once.
///
/// # Errors
/// The drawing library's.
pub fn against_concurrency(results: &Results) -> Result<String, Error> {
    let legend = [(Kind::Driver, "driver p50", 1.0), (Kind::Driver, "driver p99", 0.35)];
    let floor = [(Kind::Floor, "floor p50", 1.0), (Kind::Floor, "floor p99", 0.35)];
    draw(results, "latency in ms against volumes at once", &legend, &floor, concurrency_panel)
}

/// Every call, when it began and how long it took.
///
/// # Errors
/// The drawing library's.
pub fn over_time(results: &Results) -> Result<String, Error> {
    let title = "latency in ms over the seconds since the start of the run";
    draw(results, title, &[(Kind::Driver, "driver", 1.0)], &[(Kind::Floor, "floor", 1.0)], time_panel)
}

type Legend = [(Kind, &'static str, f64)];

fn draw(
    results: &Results,
    title: &str,
    driver: &Legend,
    floor: &Legend,
    panel: fn(&Area<'_>, What, &[&Series]) -> Outcome,
) -> Result<String, Error> {
    let mut svg = String::new();
    let legend = driver.iter().chain(floor.iter().filter(|_| results.plan.floor.is_some()));
    page(&mut svg, results, title, legend, panel).map_err(|error| Error(error.to_string()))?;
    Ok(svg)
}

fn page<'a>(
    svg: &mut String,
    results: &Results,
    title: &str,
    legend: impl Iterator<Item = &'a (Kind, &'static str, f64)>,
    panel: fn(&Area<'_>, What, &[&Series]) -> Outcome,
) -> Outcome {
    let phases = phases(&results.series);
    let (rows, columns) = (phases.len().div_ceil(COLUMNS).max(1), phases.len().clamp(1, COLUMNS));
    let size = (PANEL.0 * u32::try_from(columns)?, HEADING + PANEL.1 * u32::try_from(rows)?);
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (heading, panels) = root.split_vertically(HEADING);
    // XML cannot have control characters.
    let driver = printable(&results.driver.name);
    heading.draw(&Text::new(format!("{driver}: {title}"), (12, 8), (FONT, 18)))?;
    for (index, (kind, name, opacity)) in legend.enumerate() {
        let square = Rectangle::new([(0, 0), (12, 12)], color(*kind).mix(*opacity).filled());
        let x = 14 + 110 * i32::try_from(index)?;
        heading.draw(&(EmptyElement::at((x, 38)) + square + Text::new(*name, (18, 0), (FONT, 14))))?;
    }
    for (area, what) in panels.split_evenly((rows, columns)).iter().zip(phases) {
        let series: Vec<&Series> = results.series.iter().filter(|series| series.what == what).collect();
        panel(area, what, &series)?;
    }
    root.present()?;
    Ok(())
}

/// What has samples, in the order of the report.
fn phases(series: &[Series]) -> Vec<What> {
    let mut phases: Vec<What> =
        series.iter().filter(|series| !series.samples.is_empty()).map(|series| series.what).collect();
    phases.sort();
    phases.dedup();
    phases
}

fn color(kind: Kind) -> RGBColor {
    match kind {
        Kind::Driver => RGBColor(0, 92, 175),
        Kind::Floor => RGBColor(214, 108, 0),
    }
}

/// The figures of one system for each number at once.
struct Line {
    kind: Kind,
    opacity: f64,
    points: Vec<(f64, f64)>,
}

fn concurrency_panel(area: &Area<'_>, what: What, series: &[&Series]) -> Outcome {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let points = |kind: Kind, of: fn(&Latency) -> Duration| -> Vec<(f64, f64)> {
        let of_kind = series.iter().filter(|series| series.kind == kind);
        of_kind.filter_map(|series| Some((series.concurrency as f64, ms(of(&series.latency()?))))).collect()
    };
    let of_kind = |kind| {
        let p99 = Line { kind, opacity: 0.35, points: points(kind, |latency| latency.p99) };
        [p99, Line { kind, opacity: 1.0, points: points(kind, |latency| latency.p50) }]
    };
    let lines: Vec<Line> = [Kind::Floor, Kind::Driver].into_iter().flat_map(of_kind).collect();
    let all = || lines.iter().flat_map(|line| &line.points);
    let (low, high) = bounds(all().map(|point| point.0));
    let top = bounds(all().map(|point| point.1)).1 * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(what.name(), (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d((low * 0.8..high * 1.25).log_scale(), 0.0..top)?;
    let label = |x: &f64| format!("{x:.0}");
    chart.configure_mesh().light_line_style(WHITE).x_labels(4).x_label_formatter(&label).y_labels(5).draw()?;
    for Line { kind, opacity, points } in lines {
        let style = color(kind).mix(opacity).stroke_width(2);
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, style.filled())))?;
    }
    Ok(())
}

fn time_panel(area: &Area<'_>, what: What, series: &[&Series]) -> Outcome {
    let points: Vec<(Kind, Vec<(f64, f64)>)> = series.iter().map(|series| (series.kind, thinned(series))).collect();
    let all = || points.iter().flat_map(|(_, points)| points);
    let (low, high) = bounds(all().map(|point| point.0));
    let top = bounds(all().map(|point| point.1)).1 * 1.1;
    // A single sample has no range.
    let end = if high > low { high } else { low + 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(what.name(), (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(low..end, 0.0..top)?;
    chart.configure_mesh().light_line_style(WHITE).x_labels(4).y_labels(5).draw()?;
    for (kind, points) in points {
        let style = color(kind).mix(0.6).filled();
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 2, style)))?;
    }
    Ok(())
}

/// Begin and latency of the samples, few enough to draw.
fn thinned(series: &Series) -> Vec<(f64, f64)> {
    let mut samples = series.samples.clone();
    samples.sort_by_key(|sample| sample.at);
    let group = if samples.len() > POINTS { samples.len().div_ceil(POINTS / 2) } else { 1 };
    let kept = samples.chunks_mut(group).flat_map(|group| {
        group.sort_by_key(|sample| sample.took);
        let slowest = group.last().copied();
        let median = group.get(group.len() / 2).copied().filter(|_| group.len() > 1);
        slowest.into_iter().chain(median)
    });
    kept.map(|sample| (sample.at.as_secs_f64(), ms(sample.took))).collect()
}

/// The smallest and the largest number.
fn bounds(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    numbers.fold((f64::INFINITY, f64::MIN_POSITIVE), |(low, high), number| (low.min(number), high.max(number)))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::results;
    use crate::{Phase, Sample};

    /// How many shapes of that kind and color an SVG has.
    fn shapes(svg: &str, shape: &str, color: RGBColor) -> usize {
        let color = format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
        svg.lines().filter(|line| line.starts_with(&format!("<{shape}")) && line.contains(&color)).count()
    }

    #[test]
    fn each_phase_has_a_panel_with_its_series() {
        let svg = against_concurrency(&results()).unwrap();
        assert!(svg.contains("local.csi.quarry.dev: latency in ms against volumes at once"), "{svg}");
        for text in ["create", "stage", "driver p50", "driver p99", "floor p50", "floor p99"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} is missing in {svg}");
        }
        // Create and stage: p50 and p99 of the driver. Only create has a floor.
        assert_eq!(shapes(&svg, "polyline", color(Kind::Driver)), 4, "{svg}");
        assert_eq!(shapes(&svg, "polyline", color(Kind::Floor)), 2, "{svg}");
    }

    #[test]
    fn every_call_is_a_point_in_time() {
        let results = results();
        let svg = over_time(&results).unwrap();
        for kind in [Kind::Driver, Kind::Floor] {
            let samples: usize =
                results.series.iter().filter(|series| series.kind == kind).map(|series| series.samples.len()).sum();
            assert_eq!(shapes(&svg, "circle", color(kind)), samples, "{kind}: {svg}");
        }
    }

    #[test]
    fn many_samples_are_thinned_and_the_slowest_remains() {
        let mut series = Series::new(Kind::Driver, 1, What::Phase(Phase::Create));
        let sample = |index: u64| Sample { at: Duration::from_millis(index), took: Duration::from_millis(index % 997) };
        series.samples = (0..10_000).map(sample).collect();
        let points = thinned(&series);
        assert!((POINTS / 2..=POINTS).contains(&points.len()), "{}", points.len());
        assert!(points.iter().any(|point| (point.1 - 996.0).abs() < 1e-9));
        series.samples.truncate(POINTS);
        assert_eq!(thinned(&series).len(), POINTS);
    }

    #[test]
    fn the_name_of_the_driver_cannot_make_the_plot_unreadable() {
        let mut results = results();
        results.driver.name = "a\u{1b}[2J\u{0}<b>".to_owned();
        let svg = against_concurrency(&results).unwrap();
        assert!(svg.chars().all(|c| !c.is_control() || c == '\n'), "XML has no control characters: {svg}");
        assert!(svg.contains("a\\u{1b}[2J\\u{0}&lt;b&gt;: latency"), "{svg}");
    }

    #[test]
    fn a_run_without_samples_can_be_drawn() {
        let empty = Results { series: Vec::new(), ..results() };
        assert!(against_concurrency(&empty).unwrap().contains("</svg>"));
        assert!(over_time(&empty).unwrap().contains("</svg>"));
    }
}
