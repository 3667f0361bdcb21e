//! Plots, as SVG that a page can hold.

use plotters::{prelude::*, series::LineSeries};

use crate::latency::Sparse;

/// The size of a plot; a page scales it.
const SIZE: (u32, u32) = (720, 300);

/// Colours that are told apart in print and by most eyes (Okabe and Ito, and two for the crowd).
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(0, 0, 0),
    RGBColor(105, 60, 160),
    RGBColor(140, 100, 40),
];

/// A name and its points.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A bar with its spread.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// How much wider than its curves a plot is.
const NAMES: f64 = 1.25;

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Curves over time.
pub(crate) fn curves(title: &str, x: &str, y: &str, curves: &[Curve]) -> String {
    drawn(|root| {
        let all = || curves.iter().flat_map(|curve| &curve.points);
        // The names stand to the right of what they name.
        let right = all().map(|point| point.0).fold(1.0, f64::max) * NAMES;
        let top = all().map(|point| point.1).fold(0.0, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 17))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right, 0.0..top.max(1e-6))?;
        chart.configure_mesh().light_line_style(TRANSPARENT).x_desc(x).y_desc(y).y_label_formatter(&short).draw()?;
        for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            let line = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2));
            let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2));
            chart.draw_series(line)?.label(&curve.name).legend(key);
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(TRANSPARENT).draw()?;
        Ok(())
    })
}

/// How many percent of the messages took at most how long: both far ends are seen, since percentiles go on a scale of nines.
pub(crate) fn percentiles(title: &str, histograms: &[(String, Sparse)]) -> String {
    let curves: Vec<_> =
        histograms.iter().map(|(name, histogram)| Curve { name: name.clone(), points: by_nines(histogram) }).collect();
    drawn(|root| {
        let all = || curves.iter().flat_map(|curve| &curve.points);
        // Here too the names stand to the right.
        let right = all().map(|point| point.0).fold(1.0, f64::max) * NAMES;
        let top = all().map(|point| point.1).fold(1.0, f64::max) * 1.5;
        let bottom = all().map(|point| point.1).fold(top, f64::min).max(1e-3);
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 17))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right, (bottom..top).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(right as usize + 2)
            .x_label_formatter(&|nines| percent(*nines))
            .y_label_formatter(&short)
            .x_desc("messages that were at least so fast")
            .y_desc("milliseconds")
            .draw()?;
        for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            let line = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2));
            let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2));
            chart.draw_series(line)?.label(&curve.name).legend(key);
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(TRANSPARENT).draw()?;
        Ok(())
    })
}

/// Bars with their spread.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    drawn(|root| {
        let right = bars.iter().map(|bar| bar.high).fold(0.0, f64::max) * 1.15;
        let count = bars.len();
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 17))
            .margin(8)
            .x_label_area_size(30)
            .y_label_area_size(130)
            .build_cartesian_2d(0.0..right.max(1e-6), (0..count).into_segmented())?;
        let name = |place: &SegmentValue<usize>| match place {
            // The first is on top.
            SegmentValue::CenterOf(place) => count
                .checked_sub(place + 1)
                .and_then(|place| bars.get(place))
                .map_or_else(String::new, |bar| bar.name.clone()),
            SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&short)
            .y_labels(count)
            .y_label_formatter(&name)
            .label_style(("sans-serif", 13))
            .draw()?;
        for (number, bar) in bars.iter().enumerate() {
            let place = count - 1 - number;
            let (below, above) = (SegmentValue::Exact(place), SegmentValue::Exact(place + 1));
            let mut body = Rectangle::new([(0.0, below), (bar.value, above)], COLOURS[number % COLOURS.len()].filled());
            body.set_margin(6, 6, 0, 0);
            chart.draw_series([body])?;
            let spread = [(bar.low, SegmentValue::CenterOf(place)), (bar.high, SegmentValue::CenterOf(place))];
            chart.draw_series([PathElement::new(spread, BLACK.stroke_width(2))])?;
            let label = crate::report::table::number(bar.value);
            let at = (bar.high + right * 0.01, SegmentValue::CenterOf(place));
            chart.draw_series([Text::new(label, at, ("sans-serif", 13).into_font())])?;
        }
        Ok(())
    })
}

fn drawn(draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn) -> String {
    let mut svg = String::new();
    let outcome = {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)
            .map_err(Into::into)
            .and_then(|()| draw(&root))
            .and_then(|()| root.present().map_err(Into::into))
    };
    match outcome {
        Ok(()) => svg,
        // A page without a plot is still a report.
        Err(error) => format!("<p>This plot could not be drawn: {error}</p>"),
    }
}

/// 1 is 90 %, 2 is 99 %, 3 is 99.9 %.
fn percent(nines: f64) -> String {
    let digits = (nines.round() as usize).saturating_sub(2);
    format!("{:.digits$} %", 100.0 - 100.0 * 10f64.powf(-nines))
}

fn by_nines(histogram: &Sparse) -> Vec<(f64, f64)> {
    let total: u64 = histogram.0.iter().map(|(_, count)| count).sum();
    let mut so_far = 0;
    let points = histogram.0.iter().map(|(value, count)| {
        so_far += count;
        // The slowest of all is as far out as the number of messages can tell.
        let beyond = (total - so_far).max(1) as f64 / total.max(1) as f64;
        (-beyond.log10(), *value as f64 / 1e6)
    });
    points.collect()
}

fn short(value: &f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.1}M", value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size >= 10.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_svg() {
        let points = (0..10).map(|x| (f64::from(x), f64::from(x * x))).collect();
        let svg = curves("growth", "s", "MiB", &[Curve { name: "a & b".to_owned(), points }]);
        assert!(svg.starts_with("<svg") && svg.contains("a &amp; b") && svg.ends_with("</svg>\n"), "{svg}");
        let histogram = Sparse(vec![(1_000_000, 90), (5_000_000, 9), (9_000_000, 1)]);
        assert_eq!(by_nines(&histogram)[0], (1.0, 1.0));
        assert!(percentiles("latency", &[("a".to_owned(), histogram)]).starts_with("<svg"));
        let bar = |name: &str, value| Bar { name: name.to_owned(), value, low: value * 0.9, high: value * 1.1 };
        let svg = bars("cost", &[bar("floor", 1.0), bar("clarion", 1.1)]);
        assert!(svg.contains("floor") && svg.contains("clarion"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_no_error() {
        for svg in [curves("a", "b", "c", &[]), percentiles("a", &[]), bars("a", &[])] {
            assert!(svg.starts_with("<svg"), "{svg}");
        }
    }

    #[test]
    fn nines() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(percent), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }
}
