//! Medians and tails, and how they are printed.

use std::time::Duration;

/// Durations of one kind, sorted.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    sorted: Vec<Duration>,
}

impl Figures {
    pub(crate) fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self { sorted: samples }
    }

    /// The value below which `percent` of them are, in milliseconds.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        let index = (self.sorted.len() * percent / 100).min(self.sorted.len().saturating_sub(1));
        self.sorted.get(index).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
    }

    pub(crate) fn p50(&self) -> f64 {
        self.at(50)
    }
}

/// A heading, and the columns of [`row`].
pub(crate) fn heading(text: &str) {
    println!("\n{text}\n{:<28}{:>10}{:>10}{:>10}", "", "p50 ms", "p95 ms", "p99 ms");
}

pub(crate) fn row(name: &str, figures: &Figures) {
    println!("{name:<28}{:>10.2}{:>10.2}{:>10.2}", figures.p50(), figures.at(95), figures.at(99));
}

/// How a figure stands to what was promised of it. `most`: the promise is an upper bound.
pub(crate) fn promise(what: &str, value: f64, target: f64, most: bool) {
    let (sign, kept) = if most { ("<=", value <= target) } else { (">=", value >= target) };
    let verdict = if kept { "kept".to_owned() } else { format!("missed by {:.0} %", (value / target - 1.0).abs() * 100.0) };
    println!("  {what}: {value:.2} (target {sign} {target:.2}): {verdict}");
}
