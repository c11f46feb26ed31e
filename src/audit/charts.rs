//! Charts of the page of a run, as SVG.

use crate::core::error::{Error, Result};
use plotters::prelude::*;

const SIZE: (u32, u32) = (880, 300);
const LABELS: usize = 6;

/// A movement in a chart.
pub struct Sample {
    /// When it was written.
    pub label: String,
    /// The stock before.
    pub old_quantity: f64,
    /// The stock after.
    pub new_quantity: f64,
    /// It does not begin where the one before ended.
    pub is_break: bool,
}

/// The stock of an item at its movements, with its breaks marked; `actual` is what there is after the last one, where
/// that is something else.
pub fn stock(points: &[Sample], actual: Option<f64>) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, points, actual).map_err(|_| Error::internal("a chart was not drawn"))?;
    Ok(svg)
}

fn draw(svg: &mut String, points: &[Sample], actual: Option<f64>) -> std::result::Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let quantities = points.iter().flat_map(|point| [point.old_quantity, point.new_quantity]).chain(actual);
    let (low, high) = quantities.fold((0.0_f64, 1.0_f64), |(low, high), next| (low.min(next), high.max(next)));
    let last = points.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last + 0.5, low..high * 1.05)
        .map_err(|error| failed(&error))?;
    let label = |place: &f64| points.get(place.round() as usize).map_or_else(String::new, |point| point.label.clone());
    chart
        .configure_mesh()
        .x_labels(LABELS)
        .x_label_formatter(&label)
        .y_desc("stock")
        .light_line_style(WHITE)
        .draw()
        .map_err(|error| failed(&error))?;
    // A step: the stock stays until the next movement, and a break is a jump before it.
    let steps = points.iter().zip(0_u32..).flat_map(|(point, place)| {
        let place = f64::from(place);
        [(place, point.old_quantity), (place, point.new_quantity), (place + 1.0, point.new_quantity)]
    });
    chart.draw_series(LineSeries::new(steps, &BLUE)).map_err(|error| failed(&error))?;
    // Red, from what the ledger says to what there is.
    let befores = points.iter().map(|point| point.new_quantity);
    let jumps = befores.zip(points.iter().skip(1)).zip(1_u32..).filter(|((_, point), _)| point.is_break);
    let jumps =
        jumps.map(|((before, point), place)| [(f64::from(place), before), (f64::from(place), point.old_quantity)]);
    let end = points.last().zip(actual).map(|(point, actual)| [(last, point.new_quantity), (last, actual)]);
    let jump = |ends: [(f64, f64); 2]| PathElement::new(ends.to_vec(), RED.stroke_width(2));
    chart.draw_series(jumps.chain(end).map(jump)).map_err(|error| failed(&error))?;
    let breaks = points.iter().zip(0_u32..).filter(|(point, _)| point.is_break);
    let marks = breaks.map(|(point, place)| (f64::from(place), point.old_quantity));
    let marks = marks.chain(actual.map(|actual| (last, actual)));
    let circle = |place| Circle::new(place, 6, RED.filled());
    chart.draw_series(marks.map(circle)).map_err(|error| failed(&error))?;
    drop(chart);
    area.present().map_err(|error| failed(&error))
}
